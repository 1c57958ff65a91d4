"""The two roles of a process of a cluster, and how they follow the leadership: its front joins
whoever leads, and the scheduler's side stands here in the terms of this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Iterable

import grpc

from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.cluster.leading import LeaderSide, LeaderSurroundings, accounts_channel, leader_side
from gateway.cluster.metrics import MemberMetrics
from gateway.config.problems import ConfigError
from gateway.leadership.candidate import Leader
from gateway.leadership.leadership import Leadership
from gateway.link.remote_scheduler import RemoteScheduler
from gateway.link.wire.connection import Connection
from gateway.link.wire.tls_transport import connect_tls
from gateway.telemetry.scheduler_gauges import Standing

log = logging.getLogger(__name__)

OTHERS_S = 3.0
"""How long a process that gives its term away lets others take the next one."""
END_S = 15.0
"""Longest time for a term to end: what was recorded is written."""


class Roles:
    """The roles of one process. `leadership` is set before anything else is called."""

    def __init__(self, around: LeaderSurroundings, metrics: MemberMetrics) -> None:
        self._around = around
        self._metrics = metrics
        self._changed = asyncio.Event()
        self._leaving = False
        self._connected: tuple[Leader, Connection] | None = None
        """The leader that the front has connected to last."""
        self._channel: tuple[Leader, grpc.aio.Channel] | None = None
        self._old_channels: set[asyncio.Task[None]] = set()
        self._unkept_keys = 0
        """In earlier terms of this process."""
        self.leadership: Leadership
        self.side: LeaderSide | None = None
        """The scheduler's side, in the terms of this process."""

    def notify_changed(self) -> None:
        """The leader has changed, or the term of this process is over."""
        side = self.side
        if side is not None and self.leadership.term != side.term:
            side.lane.begin_drain()
            side.host.close()  # its fronts look for the next leader at once
        self._leave_earlier()
        self._notify()

    # The front.

    async def locate(self) -> Leader:
        """Returns the leader; waits for one."""
        while (leader := self.leadership.leader) is None:
            await self._changed.wait()
        return leader

    async def connect(self, leader: Leader, make: Callable[[], Connection]) -> Connection:
        """Connects the front to a leader. Raises OSError, also when another one leads."""
        if leader.term == self.leadership.term:
            connection = await self._connect_own(leader.term, make)
        else:
            connection = await self._connect_other(leader, make)
        self._connected = leader, connection
        self._leave_earlier()
        return connection

    async def _connect_own(self, term: int, make: Callable[[], Connection]) -> Connection:
        while term == self.leadership.term:
            if self.side is not None and self.side.term == term:
                connection = make()
                await self.side.connect_own(connection)
                return connection
            await self._changed.wait()  # its scheduler starts or ends
        raise OSError("this process leads no more")

    async def _connect_other(self, leader: Leader, make: Callable[[], Connection]) -> Connection:
        certificates = self._around.certificates
        connecting = asyncio.create_task(connect_tls(leader.address, certificates, make))
        try:
            while not connecting.done():
                changed = asyncio.create_task(self._changed.wait())
                try:
                    await asyncio.wait((connecting, changed), return_when=FIRST_COMPLETED)
                finally:
                    changed.cancel()
                if not connecting.done() and (later := self._later(leader)) is not None:
                    # A leader that is stopped would not answer.
                    raise OSError(f"another process leads: {later.name}")
            return connecting.result()
        except OSError:
            self.leadership.suspect(leader)
            raise
        finally:
            connecting.cancel()

    def _leave_earlier(self) -> None:
        """Ends a connection to a leader that another one has replaced."""
        if self._connected is not None and (later := self._later(self._connected[0])) is not None:
            self._connected[1].close(f"another process leads: {later.name}")

    def _later(self, leader: Leader) -> Leader | None:
        """Returns the leader if it is a later one."""
        now = self.leadership.leader
        return now if now is not None and now.term > leader.term else None

    async def follow(self, scheduler: RemoteScheduler) -> None:
        """Suspects each leader whose connection breaks, until cancelled."""
        while True:
            await scheduler.away.wait()
            if self._connected is not None:
                self.leadership.suspect(self._connected[0])
            await scheduler.joined.wait()

    def accounts(self) -> grpc.aio.Channel | None:
        """Returns a channel to the leader's services; None: there is no leader."""
        leader = self.leadership.leader
        if leader is None:
            return None
        if self._channel is None or self._channel[0] != leader:
            if self._channel is not None:
                task = asyncio.get_running_loop().create_task(self._channel[1].close())
                self._old_channels.add(task)
                task.add_done_callback(self._old_channels.discard)
            channel = accounts_channel(self._around, leader.address)
            self._channel = leader, channel
        return self._channel[1]

    # The leader.

    @property
    def standing(self) -> Standing:
        """Who leads, as this process knows it."""
        leadership = self.leadership
        return Standing(
            leads=self.side is not None and self.side.term == leadership.term,
            term=leadership.newest_term,
            lease_age_s=leadership.lease_age_s,
            takeovers=leadership.takeovers,
            unkept_keys=self._unkept_keys
            + (0 if self.side is None else self.side.host.witness.unkept),
        )

    def names(self) -> frozenset[str] | None:
        """Returns the fronts that this leader has, or that may come back to it, to be written to
        the lease's row; None: they are not known, while its scheduler starts or ends, or waits for
        those of the one before, or has not booked what none of these has told of."""
        if self.side is None or not self.side.host.is_open:
            return None
        if not self.side.accounting.budgets.adopted.are_booked:
            return None
        names = self.side.host.incarnations
        self.side.listing.writing(names)
        return names

    def renewed(self, names: Iterable[str] | None) -> None:
        """The lease was renewed, with these names."""
        if self.side is not None:
            self.side.listing.renewed(names)

    async def lead(self) -> None:
        """Leads in each term of this process, until cancelled."""
        while True:
            while not (term := self.leadership.term):
                await self._changed.wait()
            try:
                await self._lead(term)
            except (ConfigError, OSError, LedgerUnavailable) as error:
                log.error("this process cannot lead, others may try: %s", error)
            finally:
                self._leaving = False
                self.leadership.may_lead = True
            if self.leadership.term == term:
                self.leadership.resign(OTHERS_S)

    async def _lead(self, term: int) -> None:
        def may_act() -> bool:
            return self.leadership.term == term

        renew = self.leadership.notify_changed
        async with (
            leader_side(term, may_act, renew, self._around) as side,
            self._metrics.shown(side),
        ):
            self.side = side
            self._notify()
            try:
                while may_act() and not self._leaving:
                    await self._changed.wait()
            finally:
                self.side = None
                self._unkept_keys += side.host.witness.unkept
                # It takes no other term before it has ended this one.
                self.leadership.may_lead = False

    async def hand_over(self) -> None:
        """Ends the term of this process, if it leads, so that another one takes the next. If none
        does, this one takes it again soon."""
        if not self.leadership.term:
            return
        self._leaving = True
        self._notify()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                while self.leadership.term:
                    await self._changed.wait()

    async def close(self) -> None:
        """Closes the channel to the leader."""
        if self._channel is not None:
            await self._channel[1].close()
        await asyncio.gather(*self._old_channels, return_exceptions=True)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
