"""Subcommands of the console script: each has `add_parser` and a `run` that returns the status."""
