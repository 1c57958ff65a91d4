"""The pictures in docs/, from real runs."""
