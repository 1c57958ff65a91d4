"""Traces, metrics and logs of the gateway. `semconv.py` defines all their names."""
