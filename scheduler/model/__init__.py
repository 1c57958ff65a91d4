"""Decisions for one model: its state, its scheduler, and the transitions of its requests."""
