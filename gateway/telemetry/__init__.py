"""Traces, metrics and logs of the gateway; every name stands in `semconv.py`."""
