"""A connection of a front at the scheduler's side: its messages, and what it may call."""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from gateway.link.front_session import FrontSession
from gateway.link.owned import booked_of
from gateway.link.session_resumption import resume
from gateway.link.wire.connection import Connection, Handler
from gateway.link.wire.front_copies import FrontCopies
from gateway.link.wire.messages import (
    WIRE_VERSION,
    Hello,
    Kind,
    LinkError,
    Welcome,
    check_version,
    state_with_times,
    submission_with_times,
    with_times,
)
from gateway.link.wire.resume import RequestState, Resumed
from scheduler.contract import Request
from scheduler.decision_record import DecisionRecord
from scheduler.limits.rate_limit import RateLimits
from scheduler.port import FleetFigures

if TYPE_CHECKING:
    from gateway.link.host import SchedulerHost

log = logging.getLogger(__name__)

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
        self._copies = FrontCopies()
        """Of fronts of earlier leaders."""
        self._leaves = False

    def hello(self, hello: Hello) -> Welcome:
        """Greets the front. Raises LinkError for a version that does not fit."""
        check_version(hello.version)
        self.number = hello.number
        self.incarnation = hello.incarnation or secrets.token_hex(8)
        self.version = hello.version
        self.session = self._host.add(self)
        self._states.clear()
        self._copies = FrontCopies()
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
        booked = await booked_of(host.bookings, states)
        if self.connection.lost:
            return
        later = resume(self.session, states, told, booked)
        host.left.add(self._copies, lambda front: front in host.incarnations)
        self._copies = FrontCopies()
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
                session.submit(number, submission_with_times(payload, host.clock()))
            case Kind.RESUME:
                if len(self._states) >= MAX_REQUESTS:
                    raise LinkError(f"a front with more than {MAX_REQUESTS} requests")
                self._states.append(state_with_times(payload, host.clock()))
            case Kind.FRONT_COPY:
                self._copies.keep(payload, host.clock())
            case Kind.KEPT:
                host.witness.kept(self, number)
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
