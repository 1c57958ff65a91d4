"""The front's side of the link: `SchedulerPort` at a scheduler in another process.

When the connection is lost, nothing is guessed: what waits for a placement is refused, and what
runs is left to the owner of the process, who is told by `lost`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from msgspec import structs

from gateway.link.connection import Connection, Handler
from gateway.link.messages import (
    REPORTS,
    WIRE_VERSION,
    AdapterMissing,
    FleetUpdate,
    Hello,
    Kind,
    LinkError,
    PlacementRefused,
    PlacementSilent,
    PromptCounted,
    Welcome,
    check_version,
    view_of_update,
    with_durations,
)
from gateway.scheduling.claims import request_in_flight
from scheduler.budgets.standing import BudgetStanding, KeySpend
from scheduler.contract import Progress, RefusalReason, Refuse, Request
from scheduler.decision_record import DecisionRecord
from scheduler.fleet_view import FleetView
from scheduler.limits.rate_limit import RateLimits, Refusal
from scheduler.metering.report import KindRates
from scheduler.port import (
    NOT_ADMITTED,
    Answer,
    BranchKind,
    Deliver,
    Explained,
    FleetFigures,
    Message,
    PoolCostReport,
    RequestEnded,
    Settled,
    Started,
    Submission,
)
from scheduler.pricing import TokenRates

RETRY_AFTER_S = 1.0
"""Retry hint of a refusal because the scheduler is away or overloaded."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Sent:
    """A branch that was submitted. `answered`: resolved by its first answer."""

    submission: Submission
    deliver: Deliver
    answered: asyncio.Future[None]
    runs: bool = False
    """Whether an attempt runs, or has ended and is not settled."""
    over: bool = False
    """Whether the branch was refused."""


class RemoteScheduler:
    """Implements `SchedulerPort`. `connection` must be connected before `hello`."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        handlers: dict[str, Handler],
        on_fleet: Callable[[FleetView], None],
    ) -> None:
        """Must be made inside a running event loop. `clock`: monotonic seconds. `handlers`: what
        the scheduler's process may call here. `on_fleet`: called with each new view."""
        self._clock = clock
        self._on_fleet = on_fleet
        self.connection = Connection(self._receive, handlers, self._lost)
        self.fleet = FleetView()
        self.lost = asyncio.Event()
        """Set when the connection is lost."""
        self._number = 0
        self._sent: dict[int, _Sent] = {}
        self._requests: dict[str, list[int]] = {}
        """Numbers of the branches of each request, by the id of its original."""

    async def hello(self, number: int) -> bytes:
        """Introduces the front with this number. Returns `Welcome.setting`. Raises LinkLost,
        CallFailed or LinkError."""
        hello = Hello(version=WIRE_VERSION, number=number)
        welcome: Welcome = await self.connection.call("hello", hello, Welcome)
        check_version(welcome.version)
        self._use(welcome.fleet)
        return welcome.setting

    # Methods of `SchedulerPort`.

    async def take_request(self, key_id: str, limits: RateLimits) -> Refusal | None:
        """See `SchedulerPort`."""
        found: Refusal | None = await self._call("take_request", (key_id, limits), Refusal | None)
        return found

    async def take_slot(self, key_id: str, limits: RateLimits) -> Refusal | None:
        """See `SchedulerPort`."""
        found: Refusal | None = await self._call("take_slot", (key_id, limits), Refusal | None)
        return found

    async def submit(self, submission: Submission, deliver: Deliver) -> None:
        """See `SchedulerPort`."""
        request, original_id = submission.request, submission.original_id
        is_original = submission.kind is BranchKind.ORIGINAL
        if is_original == (original_id in self._requests):
            deliver(request_in_flight(request))
            return
        if self.lost.is_set() or self.connection.is_congested:
            self._requests.setdefault(original_id, [])  # until its `RequestEnded`
            deliver(_unreachable(request))
            return
        self._number += 1
        number = self._number
        sent = _Sent(
            submission=submission,
            deliver=deliver,
            answered=asyncio.get_running_loop().create_future(),
        )
        self._sent[number] = sent
        self._requests.setdefault(original_id, []).append(number)
        travelling = structs.replace(submission, request=with_durations(request, self._clock()))
        self.connection.post(Kind.SUBMIT, number, travelling)
        try:
            await sent.answered
        except BaseException:
            self._withdraw(number, sent)
            raise

    async def prompt_counted(self, request_id: str, prompt_tokens: int | None) -> None:
        """See `SchedulerPort`."""
        counted = PromptCounted(request_id=request_id, prompt_tokens=prompt_tokens)
        self.connection.post(Kind.PROMPT_COUNTED, 0, counted)

    def send(self, message: Message) -> None:
        """See `SchedulerPort`."""
        key = ""
        match message:
            case Progress():
                key = message.request_id
            case RequestEnded():
                self._forget(message.request_id)
        self.connection.post(REPORTS[type(message)], 0, message, key=key)

    async def quote(self, request: Request) -> DecisionRecord:
        """See `SchedulerPort`."""
        found: DecisionRecord = await self._call(
            "quote", with_durations(request, self._clock()), DecisionRecord
        )
        return found

    async def explain(self, request_id: str) -> Explained | None:
        """See `SchedulerPort`."""
        found: Explained | None = await self._call("explain", request_id, Explained | None)
        return found

    async def figures(self) -> FleetFigures:
        """See `SchedulerPort`."""
        found: FleetFigures = await self._call("figures", None, FleetFigures)
        at_s = found.snapshot.at_s + self._clock()
        return replace(found, snapshot=replace(found.snapshot, at_s=at_s))

    async def pool_cost(self, pool: str, window_ns: int) -> PoolCostReport:
        """See `SchedulerPort`."""
        found: PoolCostReport = await self._call("pool_cost", (pool, window_ns), PoolCostReport)
        return found

    async def pool_rates(self) -> Mapping[str, tuple[KindRates, ...]]:
        """See `SchedulerPort`."""
        found: Mapping[str, tuple[KindRates, ...]] = await self._call(
            "pool_rates", None, dict[str, tuple[KindRates, ...]]
        )
        return found

    async def token_rates(self) -> Mapping[str, TokenRates]:
        """See `SchedulerPort`."""
        found: Mapping[str, TokenRates] = await self._call(
            "token_rates", None, dict[str, TokenRates]
        )
        return found

    async def budget_standings(self, tenant: str, key_id: str) -> tuple[BudgetStanding, ...] | None:
        """See `SchedulerPort`."""
        found: tuple[BudgetStanding, ...] | None = await self._call(
            "budget_standings", (tenant, key_id), tuple[BudgetStanding, ...] | None
        )
        return found

    async def key_spend(self, tenant: str, key_id: str) -> KeySpend | None:
        """See `SchedulerPort`."""
        found: KeySpend | None = await self._call("key_spend", (tenant, key_id), KeySpend | None)
        return found

    async def drain(self, name: str) -> int:
        """See `SchedulerPort`."""
        found: int = await self._call("drain", name, int)
        return found

    async def undrain(self, name: str) -> None:
        """See `SchedulerPort`."""
        await self._call("undrain", name, None)

    # What the pipeline meets at placements.

    def notify_refused(self, placement: str, reason: str) -> None:
        """Tells the scheduler's side that a placement refused the connection."""
        refused = PlacementRefused(placement=placement, reason=reason)
        self.connection.post(Kind.PLACEMENT_REFUSED, 0, refused)

    def notify_silent(self, placement: str) -> None:
        """Tells the scheduler's side that a placement brought no token in time."""
        self.connection.post(Kind.PLACEMENT_SILENT, 0, PlacementSilent(placement=placement))

    def notify_adapter_missing(self, placement: str) -> None:
        """Tells the scheduler's side that a placement does not have an adapter that it had."""
        self.connection.post(Kind.ADAPTER_MISSING, 0, AdapterMissing(placement=placement))

    # Internals.

    async def _call(self, name: str, argument: Any, type_: Any) -> Any:
        return await self.connection.call(name, argument, type_)

    def _receive(self, kind: Kind, number: int, payload: Any) -> None:
        if kind is Kind.FLEET:
            self._use(payload)
            return
        if kind < Kind.STARTED:
            raise LinkError(f"the scheduler sent {kind.name}")
        sent = self._sent.get(number)
        if sent is not None:
            self._deliver(sent, payload)

    def _deliver(self, sent: _Sent, answer: Answer) -> None:
        request = sent.submission.request
        match answer:
            case Started():
                sent.runs = True
            case Settled():
                sent.runs = False
            case Refuse(reason=reason):
                sent.over = True
                if reason in NOT_ADMITTED and sent.submission.kind is BranchKind.ORIGINAL:
                    self._forget(request.request_id)
            case _:
                pass
        sent.deliver(answer)
        if not sent.answered.done():
            sent.answered.set_result(None)

    def _withdraw(self, number: int, sent: _Sent) -> None:
        """Takes back a submission that was cancelled before its answer."""
        original_id = sent.submission.original_id
        if sent.submission.kind is BranchKind.ORIGINAL:
            self._forget(original_id)
        elif self._sent.pop(number, None) is not None:
            self._requests[original_id].remove(number)
        self.connection.post(Kind.WITHDRAWN, number, None)

    def _forget(self, original_id: str) -> None:
        for number in self._requests.pop(original_id, ()):
            sent = self._sent.pop(number, None)
            if sent is not None and not sent.answered.done():
                sent.answered.set_result(None)

    def _use(self, update: FleetUpdate) -> None:
        self.fleet = view_of_update(update)
        self._on_fleet(self.fleet)

    def _lost(self, reason: str) -> None:
        self.lost.set()
        for sent in list(self._sent.values()):
            if not (sent.runs or sent.over):
                request = sent.submission.request
                self._deliver(sent, _unreachable(request))


def _unreachable(request: Request) -> Refuse:
    return Refuse(
        request_id=request.request_id,
        reason=RefusalReason.UNAVAILABLE,
        message="the scheduler cannot be reached now",
        retry_after_s=RETRY_AFTER_S,
    )
