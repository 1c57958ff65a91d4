"""Constants of the hop count, which bounds forwarding loops between gateways."""

from __future__ import annotations

HOPS_METADATA = "moegate-hops"
"""Metadata name of the hop count. A request without it comes from a client."""
HOPS_FIELD = f"metadata.{HOPS_METADATA}"
"""Field path reported when a request has reached its maximum hop count."""
MAX_HOPS = 99
"""Largest hop count accepted in the metadata."""
