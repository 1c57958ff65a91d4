"""The number of gateways that a request came through, which ends a circle of gateways."""

from __future__ import annotations

HOPS_METADATA = "moegate-hops"
"""Name of the metadata in which one gateway tells another; absent: a client calls."""
HOPS_FIELD = f"metadata.{HOPS_METADATA}"
"""Field path that is blamed when a request came through as many gateways as it may."""
MAX_HOPS = 99
"""Largest number that is understood."""
