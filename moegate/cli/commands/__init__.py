"""Commands of the console script: each module declares its arguments and the function to run."""
