"""The scheduler's side of the link: hosts the scheduler of this process for many fronts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from gateway.link.front_session import FrontSession
from gateway.link.fronts_left import FrontsLeft
from gateway.link.held_answers import HeldAnswers
from gateway.link.hosted_front import HostedFront, Met
from gateway.link.key_witness import KeyWitness
from gateway.link.opening import FrontListing, Opening
from gateway.link.own_front_copy import OwnFrontCopy
from gateway.link.owned import NO_BOOKINGS, Bookings, Send
from gateway.link.session_resumption import Later
from gateway.link.wire.connection import Connection, Handler
from gateway.link.wire.messages import FleetUpdate, Kind, LinkError, fleet_update
from gateway.link.wire.resume import Resumed
from gateway.scheduling.in_process_scheduler import InProcessScheduler
from scheduler.fleet_view import FleetView

log = logging.getLogger(__name__)

TICK_S = 0.05
"""Time between two calls of `SchedulerHost.tick`."""
GRACE_S = 10.0
"""Time for a front whose connection is broken to come back."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Kept:
    """The session of a front, connected or not. `away_since_s`: None: it is connected."""

    number: int
    session: FrontSession
    away_since_s: float | None = None


class SchedulerHost:
    """The fronts of a scheduler. Each gets the newest view of the fleet."""

    def __init__(
        self,
        scheduler: InProcessScheduler,
        *,
        clock: Callable[[], float],
        met: Met,
        setting: Callable[[], bytes] = lambda: b"",
        handlers: Callable[[HostedFront], dict[str, Handler]] = lambda front: {},
        bookings: Bookings = NO_BOOKINGS,
        opening: Opening | None = None,
        listing: FrontListing | None = None,
        forgets_unfinished: bool = True,
        own_copy: OwnFrontCopy | None = None,
        gone_term: int = 0,
    ) -> None:
        """`clock`: monotonic seconds. `met`: told what a front has met at a placement. `setting`:
        see `Welcome`. `handlers`: further calls that a front may make. `bookings`: the ledger.
        `opening`: fronts that ran before this scheduler; None: there were none. `listing`: those
        that the next one will wait for; None: it knows all.
        `forgets_unfinished`: a front that is not expected has ended, so that idempotency keys of
        its requests are free unless their clients may have output.
        `own_copy`: tells other fronts what that of this process has; None: there is none.
        `gone_term`: see `FrontsLeft`."""
        self.scheduler = scheduler
        self.clock = clock
        self.met = met
        self.setting = setting
        self.handlers = handlers
        self.bookings = bookings
        self.grace_s = GRACE_S
        self._opening = opening
        self.listing = listing
        self._forgets_unfinished = forgets_unfinished
        self.witness: KeyWitness[HostedFront] = KeyWitness(scheduler.claims, clock)
        self._own_copy = own_copy
        self.left = FrontsLeft(
            scheduler,
            clock=clock,
            bookings=bookings,
            gone_term=gone_term,
            own_front="" if own_copy is None else own_copy.front,
            forget=self._forget_front,
        )
        self._fronts: dict[int, HostedFront] = {}
        self._kept: dict[str, _Kept] = {}
        """Sessions by the incarnation of their fronts."""
        self._version = 0
        self._tasks: set[asyncio.Task[None]] = set()
        scheduler.on_fleet = self._publish

    @property
    def fronts(self) -> tuple[HostedFront, ...]:
        """The fronts that are connected, by number."""
        return tuple(front for _, front in sorted(self._fronts.items()))

    @property
    def incarnations(self) -> frozenset[str]:
        """Processes of fronts that are connected, or may come back."""
        return frozenset(self._kept)

    @property
    def is_open(self) -> bool:
        """Whether requests are admitted: all fronts that are expected are known."""
        return self._opening is None or self._opening.is_over

    def connection(self, *, own: bool = False) -> Connection:
        """Makes the protocol of a new connection. `own`: of a front in the scheduler's process."""
        front = HostedFront(self)
        front.is_own = own
        return front.connection

    def add(self, front: HostedFront) -> FrontSession:
        """Adds a front that has said `Hello`, and returns its session. Raises LinkError for a
        number that another process has."""
        before = self._fronts.get(front.number)
        if before is not None and before is not front:
            if before.incarnation != front.incarnation:
                raise LinkError(f"front {front.number} is connected already")
            before.connection.close("the front has connected again")
        self.lose(front.number, but=front.incarnation)
        self._fronts[front.number] = front
        kept = self._kept.get(front.incarnation)
        if kept is None:
            session = FrontSession(self.scheduler, front.connection.post, self.clock, self.bookings)
            kept = self._kept[front.incarnation] = _Kept(number=front.number, session=session)
        kept.session.attach(self._send_to(front, kept.session))
        self.left.back(front.incarnation)
        kept.away_since_s = None
        self._choose_witness()
        return kept.session

    def remove(self, front: HostedFront, *, for_good: bool) -> None:
        """The connection of a front is lost. `for_good`: the front will not come back."""
        if self._fronts.get(front.number) is not front:
            return
        del self._fronts[front.number]
        self._choose_witness()
        kept = self._kept[front.incarnation]
        kept.session.detach()
        kept.away_since_s = self.clock()
        if for_good or self.grace_s <= 0:
            self.lose(front.number)

    def lose(self, number: int, *, but: str = "") -> None:
        """Ends what the front with this number has that is not connected: its process has ended.
        `but`: an incarnation that goes on."""
        for incarnation, kept in list(self._kept.items()):
            if kept.number == number and incarnation != but and kept.away_since_s is not None:
                self._lose(incarnation, kept)

    def tick(self) -> None:
        """Tells the scheduler the progress of all fronts, ends those that did not come back in
        time, and acknowledges what is booked. To be called about every `TICK_S`."""
        now = self.clock()
        for kept in self._kept.values():
            kept.session.tell_progress()
        for incarnation, kept in list(self._kept.items()):
            if kept.away_since_s is None:
                kept.session.acknowledge()
            elif now - kept.away_since_s >= self.grace_s:
                self._lose(incarnation, kept)
        self.witness.tick()
        if self._own_copy is not None:
            self._own_copy.tick(self._keepers())
        if self.is_open:
            self.left.tick()
        if self._opening is not None:
            self._opening.tick(now)

    async def run(self) -> None:
        """Calls `tick` until cancelled."""
        while True:
            self.tick()
            await asyncio.sleep(TICK_S)

    def submit_later(
        self, session: FrontSession, incarnation: str, told: Resumed, later: list[Later]
    ) -> asyncio.Task[None]:
        """Submits what waits at a front when requests are admitted: once all fronts of before are
        back, or soon, and the next scheduler will wait for this one. Returns the task."""

        async def submit_when_open() -> None:
            if self._opening is not None:
                await self._opening.joined(incarnation, told)
            if self.listing is not None:
                await self.listing.until_named(incarnation)
                self._choose_witness()
            if not session.is_lost:
                for submit in later:
                    submit()

        task = asyncio.create_task(submit_when_open())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def settle_keys(self, *, complete: bool) -> None:
        """To be called before requests are admitted. `complete`: all expected fronts are back."""
        self.scheduler.claims.settle_unfinished(
            self.clock(), are_over=complete and self._forgets_unfinished
        )

    def fleet_update(self) -> FleetUpdate:
        """Returns the message of the newest view."""
        return fleet_update(self.scheduler.fleet, self._version, self.scheduler.drains.names)

    def dismiss(self, front: HostedFront, reason: str) -> None:
        """Demands that a front ends."""
        front.connection.post(Kind.DISMISSED, 0, reason)

    def close(self) -> None:
        """Ends all connections."""
        for front in self.fronts:
            front.connection.close("the scheduler stops")
        for task in self._tasks:
            task.cancel()
        self.left.close()
        if self._own_copy is not None:
            self._own_copy.close()

    def _choose_witness(self) -> None:
        self.witness.choose(self._keepers())

    def _keepers(self) -> list[HostedFront]:
        """Fronts of other processes that the next scheduler will wait for."""
        return [
            front
            for front in self.fronts
            if not front.is_own and (self.listing is None or front.incarnation in self.listing)
        ]

    def _send_to(self, front: HostedFront, session: FrontSession) -> Send:
        """What sends the answers of a session to its front."""
        if not front.is_own:
            return front.connection.post
        return HeldAnswers(front.connection.post, session.numbers.get, self.witness.when_kept)

    def _forget_front(self, incarnation: str) -> None:
        for front in self._fronts.values():
            front.connection.post(Kind.FORGET_FRONT, 0, incarnation)

    def _lose(self, incarnation: str, kept: _Kept) -> None:
        del self._kept[incarnation]
        requests = len(kept.session.requests)
        log.info("front %d is lost; %d requests ended", kept.number, requests)
        kept.session.lose()

    def _publish(self, _: FleetView) -> None:
        self._version += 1
        update = self.fleet_update()
        for front in self._fronts.values():
            front.connection.post(Kind.FLEET, 0, update, key="fleet")
