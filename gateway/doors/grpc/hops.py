"""How many gateways a request came through: what ends a circle of gateways."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.doors.grpc import errors

METADATA = "moegate-hops"
"""Metadata of a call from one gateway to another; absent: a client calls."""
MOST = 99


def hops_of(metadata: Sequence[tuple[str, str | bytes]]) -> int:
    """Gateways before this one. Raises RpcError (INVALID_ARGUMENT) for what is no such number."""
    for name, value in metadata:
        if name != METADATA:
            continue
        if not (isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 2):
            shown = str(value)[:40]
            raise errors.invalid(
                [(errors.HOPS_FIELD, f"{shown!r}: give 0 to {MOST}, or leave it out")]
            )
        return int(value)
    return 0
