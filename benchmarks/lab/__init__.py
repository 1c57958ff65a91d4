"""The policy laboratory: the same simulated fleets and traces under every policy."""
