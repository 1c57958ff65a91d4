"""The simulated engine: steps, sequences, KV cache and their physics."""
