"""Fronts joined to a scheduler by pipes in memory, whose bytes a test delivers when it likes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.link.host import SchedulerHost
from gateway.link.opening import FrontListing, Opening
from gateway.link.own_front_copy import OwnFrontCopy
from gateway.link.owned import NO_BOOKINGS, Bookings
from gateway.link.remote_scheduler import RemoteScheduler
from gateway.link.wire.connection import Connection
from tests.gateway.scheduling.scheduling_made import Hosted


class Pipe(asyncio.Transport):
    """One direction of a connection. Keeps what is written until it is delivered to `reader`."""

    def __init__(self, reader: Connection) -> None:
        super().__init__()
        self.reader = reader
        self.written = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def abort(self) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True

    def deliver(self, most: int = 1 << 30) -> None:
        """Delivers some of the bytes."""
        data, self.written = bytes(self.written[:most]), self.written[most:]
        if data and not self.closed:
            self.reader.data_received(data)


@dataclass(eq=False)
class JoinedFront:
    """A front, and its pipes to and from the scheduler."""

    remote: RemoteScheduler
    number: int
    host: SchedulerHost
    own: bool = False
    may_act: Callable[[], bool] | None = None
    """Of the host, at the next connection."""
    host_side: Connection = field(init=False)
    there: Pipe = field(init=False)
    back: Pipe = field(init=False)

    def connect(self) -> asyncio.Future[bytes]:
        """Makes a new connection, and begins to join."""
        connection = self.remote.new_connection()
        self.host_side = self.host.connection(own=self.own)
        self.host_side.may_act = self.may_act
        self.there, self.back = Pipe(self.host_side), Pipe(connection)
        connection.connection_made(self.there)
        self.host_side.connection_made(self.back)
        return asyncio.ensure_future(self.remote.join(self.number, connection))

    async def join(self) -> None:
        """Makes a new connection, and joins."""
        joining = self.connect()
        for _ in range(20):
            await turns()
            self.exchange()
        assert await joining == b"setting"

    @property
    def near(self) -> Connection:
        """The front's end of the connection."""
        assert self.remote.connection is not None
        return self.remote.connection

    def flush(self) -> None:
        """Lets all messages leave as frames."""
        self.near.flush()
        self.host_side.flush()

    def exchange(self) -> None:
        """Delivers everything in both directions."""
        for _ in range(4):
            self.flush()
            self.there.deliver()
            self.back.deliver()

    def cut(self) -> None:
        """Ends the connection, with what is on its way."""
        self.there.closed = self.back.closed = True
        self.near.connection_lost(None)
        self.host_side.connection_lost(None)


@dataclass
class Joined:
    """A scheduler with its host, and the fronts that have joined."""

    made: Hosted
    bookings: Bookings = NO_BOOKINGS
    opening: Opening | None = None
    listing: FrontListing | None = None
    forgets_unfinished: bool = False
    may_act: Callable[[], bool] | None = None
    own_copy: OwnFrontCopy | None = None
    gone_term: int = 0
    host: SchedulerHost = field(init=False)
    met: list[tuple[str, ...]] = field(default_factory=list)
    """What fronts have met at placements."""

    def __post_init__(self) -> None:
        self.host = SchedulerHost(
            self.made.local,
            clock=self.made.clock,
            met=self,
            setting=lambda: b"setting",
            bookings=self.bookings,
            opening=self.opening,
            listing=self.listing,
            forgets_unfinished=self.forgets_unfinished,
            own_copy=self.own_copy,
            gone_term=self.gone_term,
        )

    def notify_refused(self, placement: str, reason: str) -> None:
        self.met.append(("refused", placement, reason))

    def notify_silent(self, placement: str) -> None:
        self.met.append(("silent", placement))

    def notify_adapter_missing(self, placement: str) -> None:
        self.met.append(("adapter missing", placement))

    async def join(self, number: int, *, own: bool = False) -> JoinedFront:
        """A front says hello. `own`: it is in the scheduler's process."""
        remote = RemoteScheduler(clock=self.made.clock, handlers={}, on_fleet=lambda view: None)
        front = JoinedFront(remote, number, self.host, own, self.may_act)
        await front.join()
        return front

    def lose(self, front: JoinedFront) -> None:
        """A front's process ends."""
        front.cut()
        self.host.lose(front.number)


async def turns(count: int = 8) -> None:
    """Lets tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)
