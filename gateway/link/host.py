"""The scheduler's side of the link: hosts the scheduler of this process for many fronts."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from msgspec import structs

from gateway.link.connection import Connection, Handler
from gateway.link.front_session import FrontSession
from gateway.link.key_witness import SINCE_VERSION, KeyWitness
from gateway.link.messages import (
    WIRE_VERSION,
    FleetUpdate,
    Hello,
    Kind,
    LinkError,
    Welcome,
    check_version,
    fleet_update,
    with_times,
)
from gateway.link.opening import FrontListing, Opening
from gateway.link.owned import NO_BOOKINGS, Bookings
from gateway.link.resume import RequestState, Resumed, attempt_keys
from gateway.link.session_resumption import Later, resume
from gateway.scheduling.in_process_scheduler import InProcessScheduler
from scheduler.contract import Request
from scheduler.decision_record import DecisionRecord
from scheduler.fleet_view import FleetView
from scheduler.limits.rate_limit import RateLimits
from scheduler.port import FleetFigures, Submission

log = logging.getLogger(__name__)

TICK_S = 0.05
"""Time between two calls of `SchedulerHost.tick`."""
GRACE_S = 10.0
"""Time for a front whose connection is broken to come back."""
MAX_REQUESTS = 200_000
"""Most requests that a front may have when it joins."""


class Met(Protocol):
    """Is told what requests have met at self-hosted placements."""

    def notify_refused(self, placement: str, reason: str) -> None:
        """A placement refused the connection."""

    def notify_silent(self, placement: str) -> None:
        """A placement brought no token in time."""

    def notify_adapter_missing(self, placement: str) -> None:
        """A placement does not have an adapter that it had."""


class HostedFront:
    """A connection of a front at the host. It takes part from its `Hello` on."""

    def __init__(self, host: SchedulerHost) -> None:
        self.number = 0
        self.connection = Connection(
            self._receive, {**_calls(self, host), **host.handlers(self)}, self._lost
        )
        self.session: FrontSession
        """What the front has; set by `hello`."""
        self.incarnation = ""
        self.version = 0
        """Version of its messages."""
        self.is_own = False
        """Whether it is in the process of the scheduler."""
        self._host = host
        self._states: list[RequestState] = []
        self._leaves = False

    def hello(self, hello: Hello) -> Welcome:
        """Greets the front. Raises LinkError for a version that does not fit."""
        check_version(hello.version)
        self.number = hello.number
        self.incarnation = hello.incarnation or secrets.token_hex(8)
        self.version = hello.version
        self.session = self._host.add(self)
        self._states.clear()
        return Welcome(
            version=WIRE_VERSION,
            fleet=self._host.fleet_update(),
            setting=self._host.setting(),
        )

    async def resumed(self, told: Resumed) -> None:
        """The front has told what it has. Returns when it may submit what is new."""
        states, host = self._states, self._host
        if host.is_open:  # what it tells of unfinished requests is not settled by the opening
            told = replace(
                told, remembered=tuple(replace(key, has_output=True) for key in told.remembered)
            )
        keys = [key for state in states for key in attempt_keys(state)]
        booked = await host.booked(keys) if keys else {}
        if self.connection.lost:
            return
        later = resume(self.session, states, told, booked)
        self._states = []
        log.info(
            "front %d has joined with %d requests, %d of its attempts were booked already",
            *(self.number, len(states), len(booked)),
        )
        # Even if this connection breaks meanwhile: the session has these requests.
        await asyncio.shield(host.submit_later(self.session, self.incarnation, told, later))

    def _receive(self, kind: Kind, number: int, payload: Any) -> None:
        if not self.number:
            raise LinkError("a message before Hello")
        session, host = self.session, self._host
        match kind:
            case Kind.SUBMIT:
                session.submit(number, _with_times(payload, host.clock()))
            case Kind.RESUME:
                if len(self._states) >= MAX_REQUESTS:
                    raise LinkError(f"a front with more than {MAX_REQUESTS} requests")
                self._states.append(_at(payload, host.clock()))
            case Kind.LEAVING:
                self._leaves = True
            case Kind.PROMPT_COUNTED:
                session.prompt_counted(payload)
            case Kind.PROGRESS:
                session.record_progress(payload)
            case Kind.ATTEMPT_END:
                session.end_attempt(payload)
                session.reported(number)
            case Kind.REQUEST_ENDED:
                session.end_request(payload)
                session.reported(number)
            case Kind.SLOT_FREED:
                session.free_slot(payload)
                session.reported(number)
            case Kind.WITHDRAWN:
                session.withdraw(number)
                session.reported(payload or 0)
            case Kind.PLACEMENT_REFUSED:
                host.met.notify_refused(payload.placement, payload.reason)
            case Kind.PLACEMENT_SILENT:
                host.met.notify_silent(payload.placement)
            case Kind.ADAPTER_MISSING:
                host.met.notify_adapter_missing(payload.placement)
            case _:
                raise LinkError(f"a front sent {kind.name}")

    def _lost(self, reason: str) -> None:
        if self.number:
            log.info("the connection of front %d has ended: %s", self.number, reason)
            self._host.remove(self, for_good=self._leaves)


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
    ) -> None:
        """`clock`: monotonic seconds. `met`: told what a front has met at a placement. `setting`:
        see `Welcome`. `handlers`: further calls that a front may make. `bookings`: the ledger.
        `opening`: fronts that ran before this scheduler; None: there were none. `listing`: those
        that the next one will wait for; None: it knows all.
        `forgets_unfinished`: a front that is not expected has ended, so that idempotency keys of
        its requests are free unless their clients may have output."""
        self.scheduler = scheduler
        self.clock = clock
        self.met = met
        self.setting = setting
        self.handlers = handlers
        self.booked = bookings.booked
        self.grace_s = GRACE_S
        self._bookings = bookings
        self._opening = opening
        self.listing = listing
        self._forgets_unfinished = forgets_unfinished
        self._witness = KeyWitness(scheduler.claims, clock)
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
            session = FrontSession(
                self.scheduler, front.connection.post, self.clock, self._bookings
            )
            kept = self._kept[front.incarnation] = _Kept(number=front.number, session=session)
        kept.session.attach(front.connection.post)
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
        self._witness.tick()
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

    def _choose_witness(self) -> None:
        """The witness is a front that the next scheduler will wait for."""
        self._witness.choose(
            (front, front.connection.post)
            for front in self.fronts
            if not front.is_own
            and front.version >= SINCE_VERSION
            and (self.listing is None or front.incarnation in self.listing)
        )

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


def _with_times(submission: Submission, now: float) -> Submission:
    return structs.replace(submission, request=with_times(submission.request, now))


def _at(state: RequestState, now: float) -> RequestState:
    """Replaces durations by times on this clock."""
    return replace(
        state,
        branches=tuple(
            replace(branch, submission=_with_times(branch.submission, now))
            for branch in state.branches
        ),
    )


def _calls(front: HostedFront, host: SchedulerHost) -> dict[str, Handler]:
    """What a front may call, besides what its process adds."""
    scheduler, clock = host.scheduler, host.clock

    async def quote(request: Request) -> DecisionRecord:
        return await scheduler.quote(with_times(request, clock()))

    async def figures(_: None) -> FleetFigures:
        found = await scheduler.figures()
        age_s = found.snapshot.at_s - clock()
        return replace(found, snapshot=replace(found.snapshot, at_s=age_s))

    return {
        "hello": (Hello, lambda hello: front.hello(hello)),
        "resumed": (Resumed, lambda told: front.resumed(told)),
        "take_request": (tuple[str, RateLimits], lambda args: front.session.take_request(*args)),
        "take_slot": (tuple[str, RateLimits], lambda args: front.session.take_slot(*args)),
        "quote": (Request, quote),
        "explain": (str, scheduler.explain),
        "figures": (None, figures),
        "pool_cost": (tuple[str, int], lambda args: scheduler.pool_cost(*args)),
        "pool_rates": (None, lambda _: scheduler.pool_rates()),
        "token_rates": (None, lambda _: scheduler.token_rates()),
        "budget_standings": (tuple[str, str], lambda args: scheduler.budget_standings(*args)),
        "key_spend": (tuple[str, str], lambda args: scheduler.key_spend(*args)),
        "drain": (str, scheduler.drain),
        "undrain": (str, scheduler.undrain),
    }
