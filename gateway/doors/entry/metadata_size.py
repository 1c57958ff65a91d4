"""The size of the headers of a request, or of the metadata of an RPC."""

from __future__ import annotations

from collections.abc import Iterable

EACH_BYTES = 32
"""Added for each header, as HTTP/2 counts."""


def metadata_bytes(metadata: Iterable[tuple[str, str | bytes]]) -> int:
    """Returns the size as HTTP/2 counts it, which `limits.metadata_bytes` bounds."""
    return sum(len(name) + len(value) + EACH_BYTES for name, value in metadata)
