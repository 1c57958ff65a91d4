"""Traces, metrics and logs of the gateway; every name stands in `gateway/semconv.py`."""
