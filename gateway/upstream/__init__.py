"""Clients of the servers that generate tokens: one file a dialect."""
