"""Reads an upstream's output ahead of a slow client, into a bounded buffer.

The upstream's end is thus noticed while the client still reads, so its placement is free at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextvars import Context

from gateway.delivery.unread_memory import UnreadLimits, UnreadMemory, output_bytes
from gateway.domain.generation import Chunk
from gateway.domain.outcomes import Finished

Output = Chunk | Finished


class ReadAhead:
    """Buffer between a pipeline and one client, filled by a task of its own."""

    def __init__(
        self,
        outputs: AsyncGenerator[Output, None],
        *,
        tenant: str,
        memory: UnreadMemory,
        limits: Callable[[], UnreadLimits],
        context: Context,
    ) -> None:
        """Starts to read. `context`: context variables of the task that ran `outputs` before."""
        self._outputs = outputs
        self._tenant = tenant
        self._memory = memory
        self._limits = limits
        self._buffer: deque[tuple[Output, int]] = deque()
        self._buffer_bytes = 0
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._task = asyncio.create_task(self._read(), name="moegate-read-ahead", context=context)

    @property
    def is_full(self) -> bool:
        """Whether the upstream waits because the client does not read."""
        return not self._task.done() and not self._has_room()

    def notify_room(self) -> None:
        """Other streams have released memory: a full buffer may have room again."""
        if self._has_room():
            self._room.set()

    async def next(self) -> Output:
        """Returns the next output. Raises StopAsyncIteration at the end, or what the pipeline
        raised."""
        while not self._buffer:
            if self._task.done():
                self._task.result()
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        output, size_bytes = self._buffer.popleft()
        self._release(size_bytes)
        self._room.set()
        return output

    async def close(self) -> None:
        """Stops to read and drops what is unread. Cancelling the task cancels the upstream call,
        whose end is awaited even if this is cancelled meanwhile."""
        self._task.cancel()
        cancelled: asyncio.CancelledError | None = None
        while not self._task.done():
            try:
                await asyncio.wait({self._task})
            except asyncio.CancelledError as error:
                cancelled = error
        if not self._task.cancelled():
            self._task.exception()  # the pipeline has reported it
        self._buffer.clear()
        self._release(self._buffer_bytes)
        if cancelled is not None:
            raise cancelled

    async def _read(self) -> None:
        try:
            async for output in self._outputs:
                size_bytes = output_bytes(output)
                self._buffer.append((output, size_bytes))
                self._release(-size_bytes)
                self._arrived.set()
                if not isinstance(output, Finished):  # the pipeline ends after it at once
                    while not self._has_room():
                        self._room.clear()
                        await self._room.wait()
        finally:
            self._arrived.set()

    def _has_room(self) -> bool:
        return self._memory.has_room(self._tenant, self._buffer_bytes, self._limits())

    def _release(self, size_bytes: int) -> None:
        self._buffer_bytes -= size_bytes
        self._memory.add(self._tenant, -size_bytes)
