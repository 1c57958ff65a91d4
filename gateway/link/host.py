"""The scheduler's side of the link: hosts the scheduler of this process for many fronts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from msgspec import structs

from gateway.link.connection import Connection, Handler
from gateway.link.front_session import FrontSession
from gateway.link.messages import (
    WIRE_VERSION,
    Hello,
    Kind,
    LinkError,
    Welcome,
    check_version,
    fleet_update,
    with_times,
)
from gateway.scheduling.in_process_scheduler import InProcessScheduler
from scheduler.contract import Request
from scheduler.decision_record import DecisionRecord
from scheduler.fleet_view import FleetView
from scheduler.limits.rate_limit import RateLimits
from scheduler.port import FleetFigures

log = logging.getLogger(__name__)


class Met(Protocol):
    """Is told what requests have met at self-hosted placements."""

    def notify_refused(self, placement: str, reason: str) -> None:
        """A placement refused the connection."""

    def notify_silent(self, placement: str) -> None:
        """A placement brought no token in time."""

    def notify_adapter_missing(self, placement: str) -> None:
        """A placement does not have an adapter that it had."""


class HostedFront:
    """A front at the host. It takes part from its `Hello` on."""

    def __init__(self, host: SchedulerHost) -> None:
        self.number = 0
        self.connection = Connection(
            self._receive, {**_calls(self, host), **host.handlers(self)}, self._lost
        )
        self.session = FrontSession(host.scheduler, self.connection.post, host.clock)
        self._host = host

    def hello(self, hello: Hello) -> Welcome:
        """Greets the front. Raises LinkError for a version that does not fit."""
        check_version(hello.version)
        self.number = hello.number
        self._host.add(self)
        return Welcome(
            version=WIRE_VERSION,
            fleet=fleet_update(self._host.scheduler.fleet),
            setting=self._host.setting(),
        )

    def _receive(self, kind: Kind, number: int, payload: Any) -> None:
        if not self.number:
            raise LinkError("a message before Hello")
        session, host = self.session, self._host
        match kind:
            case Kind.SUBMIT:
                request = with_times(payload.request, host.clock())
                session.submit(number, structs.replace(payload, request=request))
            case Kind.PROMPT_COUNTED:
                session.prompt_counted(payload)
            case Kind.PROGRESS:
                session.record_progress(payload)
            case Kind.ATTEMPT_END:
                session.end_attempt(payload)
            case Kind.REQUEST_ENDED:
                session.end_request(payload)
            case Kind.SLOT_FREED:
                session.free_slot(payload)
            case Kind.WITHDRAWN:
                session.withdraw(number)
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
            requests = self.session.requests
            log.info("front %d has left: %s; %d requests ended", self.number, reason, requests)
        self.session.lose()
        self._host.remove(self)


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
    ) -> None:
        """`clock`: monotonic seconds. `met`: told what a front has met at a placement. `setting`:
        see `Welcome`. `handlers`: further calls that a front may make."""
        self.scheduler = scheduler
        self.clock = clock
        self.met = met
        self.setting = setting
        self.handlers = handlers
        self._fronts: dict[int, HostedFront] = {}
        scheduler.on_fleet = self._publish

    @property
    def fronts(self) -> tuple[HostedFront, ...]:
        """The fronts that are connected, by number."""
        return tuple(front for _, front in sorted(self._fronts.items()))

    def connection(self) -> Connection:
        """Makes the protocol of a new connection."""
        return HostedFront(self).connection

    def add(self, front: HostedFront) -> None:
        """Adds a front that has said `Hello`. Raises LinkError for a number that is taken."""
        if self._fronts.get(front.number, front) is not front:
            raise LinkError(f"front {front.number} is connected already")
        self._fronts[front.number] = front

    def remove(self, front: HostedFront) -> None:
        """Removes a front that is lost."""
        if self._fronts.get(front.number) is front:
            del self._fronts[front.number]

    def close(self) -> None:
        """Ends all connections."""
        for front in self.fronts:
            front.connection.close("the scheduler stops")

    def _publish(self, view: FleetView) -> None:
        update = fleet_update(view)
        for front in self._fronts.values():
            front.connection.post(Kind.FLEET, 0, update, key="fleet")


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
