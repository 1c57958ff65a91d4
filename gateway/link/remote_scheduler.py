"""The front's side of the link: `SchedulerPort` at a scheduler in another process.

The scheduler may go away and come back, or another one may take its place. Running attempts go on
meanwhile: their ends are kept, and told when the front has joined again. What is new or waits for a
placement goes on waiting, within the bounds of `away.py`, and is refused after them.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from msgspec import structs

from gateway.link.away import AwayLimits, expired, has_room, unavailable, unknown_account
from gateway.link.front_record import FrontRecord
from gateway.link.questions import Questions
from gateway.link.sent import Report, SentBranch
from gateway.link.wire.connection import Connection, Handler, LinkLost
from gateway.link.wire.front_copies import FrontCopies
from gateway.link.wire.messages import (
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
from gateway.link.wire.resume import Standing
from gateway.scheduling.claims import request_in_flight
from scheduler.budgets.standing import BudgetStanding, KeySpend
from scheduler.contract import Progress, Request
from scheduler.decision_record import DecisionRecord
from scheduler.fleet_view import FleetView
from scheduler.limits.rate_limit import RateLimits, Refusal
from scheduler.metering.report import KindRates
from scheduler.port import (
    Answer,
    AttemptEnd,
    BranchKind,
    Deliver,
    Explained,
    FleetFigures,
    Message,
    PoolCostReport,
    RequestEnded,
    SlotFreed,
    Submission,
)
from scheduler.pricing import TokenRates

log = logging.getLogger(__name__)


class RemoteScheduler:
    """Implements `SchedulerPort`. `join` joins it to a scheduler, on each new connection."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        handlers: dict[str, Handler],
        on_fleet: Callable[[FleetView], None],
        limits: AwayLimits | None = None,
        incarnation: str = "",
    ) -> None:
        """Must be made inside a running event loop. `clock`: monotonic seconds. `handlers`: what
        the scheduler's process may call here. `on_fleet`: called with each new view.
        `incarnation`: a name that no other front has or had; empty: one by chance."""
        self._clock = clock
        self._handlers = handlers
        self._on_fleet = on_fleet
        self.limits = limits or AwayLimits()
        self.incarnation = incarnation or secrets.token_hex(8)
        self.fleet = FleetView()
        self.record = FrontRecord()
        self.copies = FrontCopies()
        """Of the fronts of leaders."""
        self.connection: Connection | None = None
        """The present connection; None: there was none yet."""
        self.joined = asyncio.Event()
        """Set while a scheduler knows everything that the front has."""
        self.away = asyncio.Event()
        """Set while there is none."""
        self.away.set()
        self.dismissed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Resolved when the scheduler's process demands that the front ends, with the reason."""
        self._update = FleetUpdate(placements=(), token_block_sizes={}, bases={})
        self._ask = Questions(self.joined, lambda: self.connection, lambda: self.limits).ask

    def new_connection(self) -> Connection:
        """Makes the next connection, to be connected and then joined."""
        connection = Connection(self._receive, self._handlers, lambda _: self._lost(connection))
        self.connection = connection
        return connection

    async def join(self, number: int, connection: Connection) -> bytes:
        """Introduces the front with this number, tells what it has, and waits until the scheduler
        admits requests. Returns `Welcome.setting`. Raises LinkLost, CallFailed or LinkError."""
        # Before the call: a newer view may arrive in one frame with the welcome, and ahead of it.
        before = self._update
        hello = Hello(version=WIRE_VERSION, number=number, incarnation=self.incarnation)
        welcome: Welcome = await connection.call("hello", hello, Welcome)
        check_version(welcome.version)
        for branch in self.record.by_number.values():
            branch.told = False
        for state in self.record.states(self._clock()):
            for told in state.branches:
                self.record.by_number[told.number].told = True
            connection.post(Kind.RESUME, 0, state)
            connection.flush()  # each in a frame of its own, because each may be large
        for part in self.copies.told(self._clock()):
            connection.post(Kind.FRONT_COPY, 0, part)
            connection.flush()
        resumed = replace(
            self.record.resumed(self._clock()),
            fleet_version=before.version,
            serving=tuple(p.name for p in before.placements if p.serving),
            drained=before.drained,
        )
        await connection.call("resumed", resumed, None)
        self._joined(connection, resumed.reports)
        if self._update is before:  # no newer one came meanwhile
            self._use(welcome.fleet)
        return welcome.setting

    def present(self) -> Connection:
        """Returns the connection to the scheduler. Raises LinkLost if the front is not joined."""
        if self.connection is None or not self.joined.is_set():
            raise LinkLost("the scheduler cannot be reached now")
        return self.connection

    async def leave(self) -> None:
        """Ends the connection for good, once everything has left this process."""
        self._handlers = {}
        if self.connection is not None:
            self.connection.post(Kind.LEAVING, 0, None)
            await self.connection.finish()

    def expire(self) -> None:
        """Refuses what has waited too long without a scheduler, and gives up waiting for accounts.
        To be called about every `SWEEP_S` while there is none."""
        now = self._clock()
        for branch in list(self.record.branches):
            late = expired(branch, now)
            for ended in branch.ended:
                if not ended.told and (late or now - ended.ended_s >= self.limits.account_s):
                    ended.told = True
                    self._tell(branch, unknown_account(branch.submission.request, ended))
            if late:
                branch.standing = Standing.OVER
                self._tell(branch, unavailable(branch.submission.request))

    # Methods of `SchedulerPort`.

    async def take_request(self, key_id: str, limits: RateLimits) -> Refusal | None:
        """See `SchedulerPort`."""
        found: Refusal | None = await self._ask("take_request", (key_id, limits), Refusal | None)
        return found

    async def take_slot(self, key_id: str, limits: RateLimits) -> Refusal | None:
        """See `SchedulerPort`."""
        found: Refusal | None = await self._ask("take_slot", (key_id, limits), Refusal | None)
        if found is None:
            self.record.slots[key_id] += 1
        return found

    async def submit(self, submission: Submission, deliver: Deliver) -> None:
        """See `SchedulerPort`."""
        request, original_id = submission.request, submission.original_id
        is_original = submission.kind is BranchKind.ORIGINAL
        if is_original == (original_id in self.record.requests):
            deliver(request_in_flight(request))
            return
        if not self._has_room(request.tenant):
            self.record.refused(original_id)
            deliver(unavailable(request))
            return
        answered = asyncio.get_running_loop().create_future()
        branch = self.record.submitted(submission, deliver, answered)
        if self.joined.is_set():
            self._submit(branch)
        try:
            await answered
        except BaseException:
            if self.record.branch(request.request_id) is branch:
                self._report(self.record.record_withdrawn(branch))
            raise

    async def prompt_counted(self, request_id: str, prompt_tokens: int | None) -> None:
        """See `SchedulerPort`."""
        branch = self.record.branch(request_id)
        if branch is not None:
            branch.counted, branch.prompt_tokens = True, prompt_tokens
            if self.joined.is_set():
                self._count(branch)

    def send(self, message: Message) -> None:
        """See `SchedulerPort`."""
        now = self._clock()
        match message:
            case Progress():
                request_id, tokens = message.request_id, message.output_tokens
                if self.record.record_progress(request_id, message.attempt, tokens):
                    self._post(Kind.PROGRESS, message, key=request_id)
            case AttemptEnd():
                self._report(self.record.record_end(message, now))
            case RequestEnded():
                self._report(self.record.record_request_end(message, now))
            case SlotFreed():
                self._report(self.record.free_slot(message))

    async def quote(self, request: Request) -> DecisionRecord:
        """See `SchedulerPort`."""
        found: DecisionRecord = await self._ask(
            "quote", with_durations(request, self._clock()), DecisionRecord
        )
        return found

    async def explain(self, request_id: str) -> Explained | None:
        """See `SchedulerPort`."""
        found: Explained | None = await self._ask("explain", request_id, Explained | None)
        return found

    async def figures(self) -> FleetFigures:
        """See `SchedulerPort`."""
        found: FleetFigures = await self._ask("figures", None, FleetFigures)
        at_s = found.snapshot.at_s + self._clock()
        return replace(found, snapshot=replace(found.snapshot, at_s=at_s))

    async def pool_cost(self, pool: str, window_ns: int) -> PoolCostReport:
        """See `SchedulerPort`."""
        found: PoolCostReport = await self._ask("pool_cost", (pool, window_ns), PoolCostReport)
        return found

    async def pool_rates(self) -> Mapping[str, tuple[KindRates, ...]]:
        """See `SchedulerPort`."""
        found: Mapping[str, tuple[KindRates, ...]] = await self._ask(
            "pool_rates", None, dict[str, tuple[KindRates, ...]]
        )
        return found

    async def token_rates(self) -> Mapping[str, TokenRates]:
        """See `SchedulerPort`."""
        found: Mapping[str, TokenRates] = await self._ask(
            "token_rates", None, dict[str, TokenRates]
        )
        return found

    async def budget_standings(self, tenant: str, key_id: str) -> tuple[BudgetStanding, ...] | None:
        """See `SchedulerPort`."""
        found: tuple[BudgetStanding, ...] | None = await self._ask(
            "budget_standings", (tenant, key_id), tuple[BudgetStanding, ...] | None
        )
        return found

    async def key_spend(self, tenant: str, key_id: str) -> KeySpend | None:
        """See `SchedulerPort`."""
        found: KeySpend | None = await self._ask("key_spend", (tenant, key_id), KeySpend | None)
        return found

    async def drain(self, name: str) -> int:
        """See `SchedulerPort`."""
        found: int = await self._ask("drain", name, int)
        return found

    async def undrain(self, name: str) -> None:
        """See `SchedulerPort`."""
        await self._ask("undrain", name, None)

    # What the pipeline meets at placements.

    def notify_refused(self, placement: str, reason: str) -> None:
        """Tells the scheduler's side that a placement refused the connection."""
        refused = PlacementRefused(placement=placement, reason=reason)
        self._post(Kind.PLACEMENT_REFUSED, refused)

    def notify_silent(self, placement: str) -> None:
        """Tells the scheduler's side that a placement brought no token in time."""
        self._post(Kind.PLACEMENT_SILENT, PlacementSilent(placement=placement))

    def notify_adapter_missing(self, placement: str) -> None:
        """Tells the scheduler's side that a placement does not have an adapter that it had."""
        self._post(Kind.ADAPTER_MISSING, AdapterMissing(placement=placement))

    # Internals.

    def _has_room(self, tenant: str) -> bool:
        """Whether another request may be told to the scheduler, or wait for one."""
        if self.joined.is_set():
            return self.connection is not None and not self.connection.is_congested
        return has_room(self.record.branches, tenant, self.limits)

    def _post(self, kind: Kind, payload: Any, *, key: str = "") -> None:
        if self.joined.is_set() and self.connection is not None:
            self.connection.post(kind, 0, payload, key=key)

    def _submit(self, branch: SentBranch) -> None:
        assert self.connection is not None
        branch.told = True
        request = with_durations(branch.submission.request, self._clock())
        self.connection.post(
            Kind.SUBMIT, branch.number, structs.replace(branch.submission, request=request)
        )

    def _count(self, branch: SentBranch) -> None:
        counted = PromptCounted(
            request_id=branch.submission.request.request_id, prompt_tokens=branch.prompt_tokens
        )
        self._post(Kind.PROMPT_COUNTED, counted)

    def _report(self, report: Report | None) -> None:
        if report is None or not self.joined.is_set() or self.connection is None:
            return
        if report.kind is Kind.WITHDRAWN:
            self.connection.post(Kind.WITHDRAWN, report.message_number, report.number)
        else:
            self.connection.post(report.kind, report.number, report.message)

    def _joined(self, connection: Connection, reports: int) -> None:
        """The scheduler knows what the front had when it began to tell; the rest follows."""
        if connection.lost:
            raise LinkLost(connection.lost)
        self.joined.set()
        self.away.clear()
        for branch in list(self.record.branches):
            if not branch.told:
                self._submit(branch)
            elif branch.counted and branch.count_asked:
                self._count(branch)
        for report in list(self.record.reports):
            if report.number > reports:
                self._report(report)

    def _receive(self, kind: Kind, number: int, payload: Any) -> None:
        match kind:
            case Kind.FLEET:
                self._use(payload)
            case Kind.RECEIVED:
                self.record.received(number)
            case Kind.RESERVED:
                self.record.record_reservation(number, payload)
            case Kind.KEYS:
                self.record.keep_keys(payload, self._clock())
                if self.connection is not None:
                    self.connection.post(Kind.KEPT, number, None, key="kept")
            case Kind.FRONT_COPY:
                self.copies.keep(payload, self._clock())
            case Kind.FORGET_FRONT:
                self.copies.forget(payload)
            case Kind.LEVELS:
                self.record.keep_levels(payload, self._clock())
            case Kind.DISMISSED:
                if not self.dismissed.done():
                    self.dismissed.set_result(payload)
            case _ if kind < Kind.STARTED:
                raise LinkError(f"the scheduler sent {kind.name}")
            case _:
                if (branch := self.record.by_number.get(number)) is not None:
                    self._deliver(branch, payload)

    def _deliver(self, branch: SentBranch, answer: Answer) -> None:
        if self.record.record_answer(branch, answer, self._clock()):
            self._tell(branch, answer)

    def _tell(self, branch: SentBranch, answer: Answer) -> None:
        branch.deliver(answer)
        if not branch.answered.done():
            branch.answered.set_result(None)

    def _use(self, update: FleetUpdate) -> None:
        self._update = update
        self.fleet = view_of_update(update)
        self._on_fleet(self.fleet)

    def _lost(self, connection: Connection) -> None:
        if connection is self.connection:
            self.joined.clear()
            self.away.set()
