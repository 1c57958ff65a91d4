"""Signing in to the console, with an API key or with a provider, and signing out."""
