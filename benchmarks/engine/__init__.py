"""What the scheduler believes of engines, against real and simulated ones."""
