"""Pure simulation: an engine with the physics of a MoE model, and workloads to run on it."""
