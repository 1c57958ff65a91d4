"""Follows who leads the cluster, and leads it when the lease is free.

`Candidate` decides; this module asks the database for it, and watches the clock. The owner is told
of each change by `on_change`, and asks `term` before anything that only a leader may do: the clock
may have passed the end of the lease before any task could run, after the process was stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Protocol

from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.leadership.candidate import REST_S, Ask, Candidate, Leader, Row

log = logging.getLogger(__name__)

PROBE_S = 0.5
"""Longest wait for the port of a leader that may have ended."""
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def lease_clock() -> float:
    """Returns monotonic seconds, which go on while the computer sleeps where it can tell."""
    return time.clock_gettime(_CLOCK)


class LeaderLease(Protocol):
    """The lease in the database. Methods raise LedgerUnavailable."""

    async def look(self) -> Row:
        """Reads the row."""

    async def take(self, address: str, wire_version: int, gone: int) -> Leader | None:
        """Takes the lease in a new term; None: it is not free."""

    async def renew(self, term: int, lease_s: float) -> bool:
        """Extends the lease of a term to `lease_s` from now, unless it is longer already; False: it
        is over."""

    async def release(self, term: int) -> None:
        """Ends the lease of a term."""

    async def warn(self) -> None:
        """Tells all candidates, see `Leadership.notify_too_short`."""


class Leadership:
    """One process's part in the leadership. `run` must run."""

    def __init__(
        self,
        *,
        name: str,
        address: str,
        wire_version: int,
        lease_s: float,
        on_change: Callable[[], None],
        clock: Callable[[], float] = lease_clock,
    ) -> None:
        """`name`: of this process, which no other has. `address`: of its link, for the others.
        `lease_s`: how long a lease lasts after it was taken, or renewed where the database is
        slow or unknown.
        `on_change`: called when `leader` or `term` has changed. `clock`: monotonic seconds."""
        self._address = address
        self._wire_version = wire_version
        self._on_change = on_change
        self._clock = clock
        self._candidate = Candidate(name, lease_s)
        self._wake = asyncio.Event()
        self._told: tuple[Leader | None, int] = (None, 0)
        self._failing = False
        self._given_back = asyncio.Event()
        self._probing: asyncio.Task[None] | None = None
        self._renewed_s = self._lease_s = 0.0
        self.takeovers = 0
        """Terms that this process has begun."""
        self.newest_term = 0
        """Number of the newest term that it knows of."""

    @property
    def leader(self) -> Leader | None:
        """The leader as last seen, which may be this process; None: none is known."""
        return self._candidate.leader(self._clock())

    @property
    def may_lead(self) -> bool:
        """Whether this process takes the lease when it is free. One that leads goes on."""
        return self._candidate.may_lead

    @may_lead.setter
    def may_lead(self, may: bool) -> None:
        self._candidate.may_lead = may
        self._wake.set()

    @property
    def term(self) -> int:
        """The term in which this process leads now; 0: it does not lead."""
        return self._candidate.term(self._clock())

    @property
    def lease_s(self) -> float:
        """Length of the lease that this process would ask for at a renewal."""
        return self._candidate.lease_s(self._clock())

    @property
    def lease_age_s(self) -> float | None:
        """Seconds since this process has taken or renewed its lease; None: it does not lead."""
        return self._clock() - self._renewed_s if self.term else None

    def notify_changed(self) -> None:
        """The row may have changed."""
        self._candidate.notified(self._clock())
        self._wake.set()

    def notify_too_short(self) -> None:
        """A term was lost, of any process of the cluster, that a lease of `lease_s` would have
        kept."""
        self._candidate.warned(self._clock())

    def suspect(self, leader: Leader) -> None:
        """The connection to this leader has broken. If its port is closed and its connection to the
        database is gone, its lease is free at once."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.get_running_loop().create_task(self._probe(leader))

    def resign(self, rest_s: float = REST_S) -> None:
        """Gives the leadership back, and takes none for `rest_s`."""
        self._candidate.resign(self._clock(), rest_s)
        self._changed()

    def withdraw(self) -> None:
        """Gives the leadership back, and takes none any more: the process ends."""
        self.may_lead = False
        self.resign()

    async def withdrawn(self, timeout_s: float) -> None:
        """Waits until the lease is given back, at most `timeout_s`. `run` must run."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._given_back.wait()

    async def run(self, lease: LeaderLease) -> None:
        """Follows and leads until cancelled."""
        try:
            while True:
                ask, at_s = self._candidate.next(self._clock())
                self._tell()
                if await self._rests_until(at_s):
                    continue
                await self._perform(ask, lease)
        finally:
            if self._probing is not None:
                self._probing.cancel()

    async def _rests_until(self, at_s: float) -> bool:
        """Waits, at most until the end of the own lease. Returns whether to look again what is
        next."""
        self._wake.clear()
        now_s = self._clock()
        if at_s <= now_s:
            return False
        if self._candidate.term(now_s):
            at_s = min(at_s, self._candidate.until_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_s - now_s):
                await self._wake.wait()
        return True

    async def _perform(self, ask: Ask, lease: LeaderLease) -> None:
        candidate, asked_s = self._candidate, self._clock()
        watch = asyncio.get_running_loop().call_later(
            max(0.0, candidate.until_s - asked_s), self._tell
        )
        try:
            match ask:
                case Ask.LOOK:
                    row = await lease.look()
                    candidate.answered(asked_s, self._clock())
                    candidate.saw(row, self._clock())
                case Ask.TAKE:
                    taken = await lease.take(self._address, self._wire_version, candidate.gone())
                    candidate.took(taken, asked_s, self._clock())
                    if taken is not None:
                        self._renewed_s = asked_s
                        self.takeovers += 1
                        self._lease_s = candidate.lease_s(asked_s)
                case Ask.RENEW:
                    lease_s = candidate.lease_s(asked_s)
                    if lease_s != self._lease_s:
                        self._lease_s = lease_s
                        log.info("the leader asks for leases of %g s from now on", lease_s)
                    held = await lease.renew(candidate.term(asked_s), lease_s)
                    candidate.answered(asked_s, self._clock())
                    candidate.renewed(held, lease_s, asked_s, self._clock())
                    if held:
                        self._renewed_s = asked_s
                case Ask.RELEASE:
                    await lease.release(candidate.given_back())
                    candidate.released(self._clock())
                case Ask.WARN:
                    await lease.warn()
                    candidate.told(self._clock())
                    log.warning("a stall of the database has ended a term; leases are longer now")
        except LedgerUnavailable as error:
            candidate.failed(self._clock())
            if not self._failing:
                log.warning("the lease of the leader cannot be asked for: %s", error)
            self._failing = True
        else:
            if self._failing:
                log.info("the lease of the leader can be asked for again")
            self._failing = False
        finally:
            watch.cancel()
            self._tell()

    async def _probe(self, leader: Leader) -> None:
        host, _, port = leader.address.rpartition(":")
        try:
            async with asyncio.timeout(PROBE_S):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except ConnectionRefusedError:
            self._candidate.found_gone(leader.term)
        except (OSError, TimeoutError):
            return
        else:
            writer.close()
        self.notify_changed()

    def _changed(self) -> None:
        self._tell()
        self._wake.set()

    def _tell(self) -> None:
        """Tells of a change, and of the end of the own lease."""
        self._candidate.next(self._clock())  # notices that the lease is over
        now = self.leader, self.term
        if now[0] is not None:
            self.newest_term = max(self.newest_term, now[0].term)
        if now[1] or self._candidate.given_back():
            self._given_back.clear()
        else:
            self._given_back.set()
        if now == self._told:
            return
        before, self._told = self._told, now
        if before[1] and not now[1]:
            log.warning("this process leads no more: its term %d is over", before[1])
        elif now[1] and not before[1]:
            log.info("this process leads, in term %d", now[1])
        elif now[0] is not None and now[0] != before[0]:
            log.info("%s leads, in term %d", now[0].name, now[0].term)
        self._on_change()
