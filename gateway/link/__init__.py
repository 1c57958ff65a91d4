"""The scheduler port between processes."""
