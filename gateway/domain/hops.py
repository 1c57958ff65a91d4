"""Constants of the hop count, which bounds forwarding loops between gateways."""

from __future__ import annotations

HOPS_METADATA = "moegate-hops"
"""Name of the hop count, as metadata and as header of HTTP. A request without it comes from a
client."""
HOPS_FIELD = f"metadata.{HOPS_METADATA}"
"""Field path reported when a request has reached its maximum hop count."""
MAX_HOPS = 99
"""Largest hop count accepted in the metadata."""
MAX_HTTP_HOPS = 4
"""Most gateways through which a request to an HTTP door may have come. Remotes over HTTP have no
`max_hops` of their own."""


def hop_headers(hops: int) -> dict[str, str]:
    """Header of a call to a server over HTTP, which may be another gateway, or this one by mistake.
    `hops`: those of the request."""
    return {HOPS_METADATA: str(hops + 1)}
