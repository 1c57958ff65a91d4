"""Offline jobs: what they fill, in which order, and what survives kills."""
