"""Clients of the servers that generate tokens: one folder for each dialect."""
