"""How many gateways a request came through: what ends a circle of gateways."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.domain.hops import HOPS_FIELD, HOPS_METADATA, MAX_HOPS
from gateway.doors.grpc import errors


def hops_of(metadata: Sequence[tuple[str, str | bytes]]) -> int:
    """Gateways before this one. Raises RpcError (INVALID_ARGUMENT) for what is no such number."""
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
