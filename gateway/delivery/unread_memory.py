"""Memory of output that was read from an upstream before its client reads it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass

from gateway.domain.generation import Chunk
from gateway.domain.outcomes import Finished

CHUNK_BYTES = 150
DELTA_BYTES = 150
CALL_BYTES = 300
LOGPROB_BYTES = 150
FINISHED_BYTES = 4096
"""Sizes of the objects in memory, without their texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadLimits:
    """Bounds of unread output. `blocked_write_s`: seconds that a client may block one write, or may
    hold up an upstream in total. The others: bytes of one stream, of one tenant, and of all."""

    blocked_write_s: float
    stream_bytes: int
    tenant_bytes: int
    total_bytes: int


class UnreadMemory:
    """Bytes of unread output, in total and by tenant."""

    def __init__(self) -> None:
        self.total_bytes = 0
        self._by_tenant: Counter[str] = Counter()

    def add(self, tenant: str, size_bytes: int) -> None:
        """Adds output of a tenant; a negative number removes it."""
        self.total_bytes += size_bytes
        self._by_tenant[tenant] += size_bytes
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]

    def has_room(self, tenant: str, stream_bytes: int, limits: UnreadLimits) -> bool:
        """Whether a stream with `stream_bytes` unread bytes may read more from its upstream."""
        return (
            stream_bytes < limits.stream_bytes
            and self._by_tenant[tenant] < limits.tenant_bytes
            and self.total_bytes < limits.total_bytes
        )


def output_bytes(output: Chunk | Finished) -> int:
    """Returns the approximate size of an output in memory."""
    if isinstance(output, Finished):
        return FINISHED_BYTES
    size = CHUNK_BYTES
    for delta in output.deltas:
        size += DELTA_BYTES + sys.getsizeof(delta.text)
        if delta.reasoning_text:
            size += sys.getsizeof(delta.reasoning_text)
        for call in delta.tool_calls:
            size += CALL_BYTES + sys.getsizeof(call.arguments_json)
        for entry in delta.logprobs:
            size += LOGPROB_BYTES * (1 + len(entry.top))
    return size
