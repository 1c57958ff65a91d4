"""Facts of models and GPUs, GPU memory fit, and the step model derived from them."""
