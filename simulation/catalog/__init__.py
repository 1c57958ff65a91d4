"""Facts of models and GPUs, what fits where, and the step model that follows from them."""
