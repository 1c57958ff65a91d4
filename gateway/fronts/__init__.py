"""Several front processes on one machine, and their parent, which has the scheduler."""
