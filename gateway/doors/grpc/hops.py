"""Reads the hop count of a request, which bounds forwarding loops between gateways."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.domain.hops import HOPS_FIELD, HOPS_METADATA, MAX_HOPS
from gateway.doors.grpc import errors


def hops_of(metadata: Sequence[tuple[str, str | bytes]]) -> int:
    """Returns the number of gateways that forwarded the request before this one. Raises RpcError
    (INVALID_ARGUMENT) if the metadata value is not a number from 0 to MAX_HOPS."""
    for name, value in metadata:
        if name != HOPS_METADATA:
            continue
        if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 2):
            shown = str(value)[:40]
            raise errors.invalid(
                [(HOPS_FIELD, f"{shown!r}: give 0 to {MAX_HOPS}, or leave it out")]
            )
        return int(value)
    return 0
