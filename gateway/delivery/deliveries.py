"""Delivery of generations to clients, with a bound on clients that do not read.

The task of the RPC reads the pipeline and writes to the client in turns, without a task or a queue
per chunk. One task, `Deliveries.run`, watches all writes. If a write blocks, it starts to read
ahead for that stream. If the write blocks for too long, or past the deadline, it ends the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import Context, copy_context

from gateway.delivery.read_ahead import Output, ReadAhead
from gateway.delivery.unread import UnreadOutput
from gateway.delivery.unread_memory import UnreadLimits, UnreadMemory

WATCH_S = 0.1
"""Seconds between two looks at the writes, and after which a write counts as blocked."""


class Delivery:
    """One stream to a client. Iterate it, and send each output with `write`."""

    __slots__ = (
        "_clock",
        "_context",
        "_outputs",
        "ahead",
        "deadline_s",
        "held_up_s",
        "tenant",
        "timeout",
        "unread",
        "writes_since_s",
    )

    def __init__(
        self,
        outputs: AsyncGenerator[Output, None],
        *,
        tenant: str,
        deadline_s: float,
        clock: Callable[[], float],
        timeout: asyncio.Timeout,
    ) -> None:
        """`timeout`: scope in which the stream is read and written."""
        self._outputs = outputs
        self._clock = clock
        self._context: Context = copy_context()
        self.tenant = tenant
        self.deadline_s = deadline_s
        self.timeout = timeout
        self.ahead: ReadAhead | None = None
        self.writes_since_s: float | None = None
        """Start of the current write; None: no write is in progress."""
        self.held_up_s = 0.0
        """Total seconds for which the upstream waited for room in the buffer."""
        self.unread: UnreadOutput | None = None
        """Reason why the stream was ended; None: it was not."""

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    def __anext__(self) -> Awaitable[Output]:
        return self._outputs.__anext__() if self.ahead is None else self.ahead.next()

    async def write(self, writing: Awaitable[None]) -> None:
        """Awaits a write to the client."""
        self.writes_since_s = self._clock()
        await writing
        self.writes_since_s = None

    def read_ahead(self, memory: UnreadMemory, limits: Callable[[], UnreadLimits]) -> None:
        """Starts to read ahead. Call it only during a write, when nothing else reads."""
        self.ahead = ReadAhead(
            self._outputs, tenant=self.tenant, memory=memory, limits=limits, context=self._context
        )

    def end(self, unread: UnreadOutput, now: float) -> None:
        """Ends the stream for this reason."""
        if self.unread is None:
            self.unread = unread
            self.timeout.reschedule(now)

    async def close(self) -> None:
        """Ends reading. Cancels the upstream call if it is still running."""
        try:
            if self.ahead is not None:
                await self.ahead.close()
        finally:
            await self._outputs.aclose()


class Deliveries:
    """All streams to clients. Requires the task `run`."""

    def __init__(self, limits: Callable[[], UnreadLimits], clock: Callable[[], float]) -> None:
        """`limits`: the limits in force. `clock`: the event loop's clock, in seconds."""
        self._limits = limits
        self._clock = clock
        self._open: set[Delivery] = set()
        self._memory = UnreadMemory()
        self._wake = asyncio.Event()

    @property
    def open_streams(self) -> int:
        """Number of streams that are being delivered."""
        return len(self._open)

    @property
    def unread_bytes(self) -> int:
        """Bytes of output in memory that clients have not read."""
        return self._memory.total_bytes

    @asynccontextmanager
    async def open(
        self, outputs: AsyncGenerator[Output, None], *, tenant: str, deadline_s: float
    ) -> AsyncIterator[Delivery]:
        """Delivers the output of a pipeline and closes it at the end. `deadline_s`: on the clock.

        Raises UnreadOutput if the client does not read.
        """
        delivery: Delivery | None = None
        try:
            async with asyncio.timeout(None) as timeout:
                delivery = Delivery(
                    outputs,
                    tenant=tenant,
                    deadline_s=deadline_s,
                    clock=self._clock,
                    timeout=timeout,
                )
                self._open.add(delivery)
                self._wake.set()
                try:
                    yield delivery
                finally:
                    await delivery.close()
        except TimeoutError:
            if delivery is None or delivery.unread is None:
                raise
            raise delivery.unread from None
        finally:
            if delivery is not None:
                self._open.discard(delivery)

    async def run(self) -> None:
        """Watches the writes until cancelled."""
        while True:
            if self._open:
                await asyncio.sleep(WATCH_S)
            else:
                self._wake.clear()
                await self._wake.wait()
            now, limits = self._clock(), self._limits()
            for delivery in self._open:
                self._watch(delivery, limits, now)

    def _watch(self, delivery: Delivery, limits: UnreadLimits, now: float) -> None:
        since_s, ahead = delivery.writes_since_s, delivery.ahead
        if ahead is not None:
            if ahead.is_full:
                delivery.held_up_s += WATCH_S
            ahead.notify_room()
        if since_s is None:
            return
        if now >= delivery.deadline_s:
            delivery.end(UnreadOutput(None), now)
        elif max(now - since_s, delivery.held_up_s) >= limits.blocked_write_s:
            delivery.end(UnreadOutput(limits.blocked_write_s), now)
        elif ahead is None and now - since_s >= WATCH_S:
            delivery.read_ahead(self._memory, self._limits)
