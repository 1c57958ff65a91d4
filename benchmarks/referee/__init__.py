"""A referee for the laboratory: an engine that was not written beside the step model."""
