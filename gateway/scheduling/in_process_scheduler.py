"""In-process scheduler: implements `SchedulerPort` by direct calls.

It owns the core, and the state beside it: claims, budgets, the meter and attempt costs. It performs
the core's actions and ticks the core. Branches and requests are kept until `RequestEnded`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from msgspec import structs

from gateway.accounting.budgets import Budgets
from gateway.accounting.prices.source import group_of, priced
from gateway.scheduling.attempt_recorder import AttemptRecorder
from gateway.scheduling.branches import Branches, ClaimedRequest, OpenBranch
from gateway.scheduling.budget_admission import BudgetAdmission
from gateway.scheduling.claims import Claims, request_in_flight
from gateway.scheduling.hedges import Hedges
from gateway.scheduling.key_accounts import KeyAccounts
from gateway.scheduling.meter_setup import price_changes, set_up_meter
from gateway.scheduling.metering import Metering
from gateway.scheduling.pool_costs import PoolCosts
from gateway.scheduling.resumption import Resumption
from gateway.scheduling.settings import SchedulingSettings
from gateway.scheduling.views import FLEET_REPORTS, Targets, fleet_figures, shows_more, view_of
from scheduler.contract import EngineReport, Event, Progress, Refuse, Request, ServingChanged
from scheduler.core import Scheduler
from scheduler.decision_record import DecisionRecord, decision_record
from scheduler.fleet_view import FleetView
from scheduler.limits.drain_filter import DrainFilter
from scheduler.limits.rate_limit import RateLimits, Refusal
from scheduler.metering.rate_snapshot import RateSnapshot, rate_snapshot
from scheduler.metering.report import KindRates
from scheduler.metering.settlement import Sink
from scheduler.metering.throughput import Throughput
from scheduler.placement_state import Placement
from scheduler.port import (
    AttemptEnd,
    BranchKind,
    CountPrompt,
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

TICK_S = 0.05
"""Longest time in seconds between two ticks while requests run. The core's measurements depend on
time."""


class InProcessScheduler:
    """Implements `SchedulerPort`. Requires the task `run`."""

    def __init__(
        self,
        settings: SchedulingSettings,
        *,
        clock: Callable[[], float],
        metering: Metering,
        budgets: Budgets,
        accounts: KeyAccounts,
        targets: Targets,
        sinks: tuple[Sink, ...] = (),
    ) -> None:
        """`clock`: monotonic seconds. `targets`: address and upstream model of each placement that
        has a server. Its owner updates the mapping and then calls `refresh_fleet`. `sinks`:
        callbacks that receive every settled attempt."""
        self._clock = clock
        self._metering = metering
        self.budget_standings = accounts.standings
        self.key_spend = accounts.spend
        self._targets = targets
        self._throughput = Throughput()
        self._recorder = AttemptRecorder(metering, (self._throughput.settled, *sinks))
        self.claims = Claims()
        self.drains = DrainFilter()
        self._costs = PoolCosts(metering, clock)
        self._requests: dict[str, ClaimedRequest] = {}
        self._wake = asyncio.Event()
        self._sleeps_unbounded = False
        self._settings = settings
        self._facts: dict[str, Placement] = {}
        placements = self._priced(settings)
        self.core = Scheduler(placements, settings.limits)
        """Only tests read the core. All other code uses the port."""
        self._budgets = BudgetAdmission(budgets, self.core.base_model)
        self.fleet = FleetView()
        self.on_fleet: Callable[[FleetView], None] = lambda view: None
        """Called with each new view of the fleet."""
        self._branches = Branches(self.core, self._recorder, clock)
        held = self._requests, self._branches, self.claims, self._budgets
        self.resumption = Resumption(*held, rates=lambda: self._recorder.rates, clock=clock)
        self._hedges = Hedges(self._branches, settings.hedges, clock)
        self._configured(placements)

    @property
    def active_requests(self) -> int:
        """Number of client requests in progress."""
        return len(self._requests)

    @property
    def facts(self) -> Mapping[str, Placement]:
        """The configured placements with the prices in force, by name."""
        return self._facts

    # Configuration and fleet reports.

    def apply(self, settings: SchedulingSettings) -> None:
        """Applies the difference to another configuration. Learnt estimates are kept."""
        old, self._settings = self._settings, settings
        if settings.hedges != old.hedges:
            self._hedges.budget.set_limits(settings.hedges)
        placements = self._priced(settings)
        self._branches.perform(self.core.reconfigure(placements, settings.limits, self._clock()))
        self._configured(placements)

    def use_tenants(self, settings: SchedulingSettings) -> None:
        """Applies other tenants and keys; what else is in `settings` is as before."""
        self._settings = settings
        self.core.set_limits(settings.limits)
        self.claims.configure(settings.config)

    def report(self, event: Event) -> None:
        """Handles a report of the fleet. Reports about unknown placements are ignored. Raises
        TypeError for any other event."""
        if not isinstance(event, FLEET_REPORTS):
            raise TypeError(f"{event!r} is no report of the fleet")
        facts = self._facts.get(event.placement)
        if facts is None:
            return
        self._recorder.observe(event, self._clock())
        if isinstance(event, EngineReport):
            self._throughput.record_reports((event,))
        elif isinstance(event, ServingChanged):
            event = self.drains.filtered(event, group_of(facts))
        self._branches.handle(event)
        if isinstance(event, ServingChanged) or shows_more(self.core, self.fleet, event):
            self.refresh_fleet()

    def use_rates(self, rates: RateSnapshot) -> None:
        """Sets the token prices for requests admitted from now on."""
        self._recorder.rates = rates
        self._budgets.configure(self._settings.placements, rates)

    def refresh_fleet(self) -> None:
        """Rebuilds the fleet view."""
        self.fleet = view_of(self.core, self._targets)
        self.on_fleet(self.fleet)

    def is_idle(self, placement: str) -> bool:
        """Whether the core counts no sequence on the placement."""
        return not any(
            state.sequences for state in self.core.placements if state.facts.name == placement
        )

    async def run(self) -> None:
        """Ticks the core until cancelled: when the core asks for it, and every `TICK_S` while
        busy."""
        while True:
            now = self._clock()
            tick = self.core.tick(now)
            self._branches.perform(tick.actions)
            wait_s = TICK_S if self._requests else None
            if tick.next_wake_s is not None:
                due_s = max(0.0, tick.next_wake_s - now)
                wait_s = due_s if wait_s is None else min(wait_s, due_s)
            self._sleeps_unbounded = wait_s is None
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    # Methods of `SchedulerPort` for the pipeline and the services.

    async def take_request(self, key_id: str, limits: RateLimits) -> Refusal | None:
        """See `SchedulerPort`."""
        return self.claims.take_request(key_id, limits, self._clock())

    async def take_slot(self, key_id: str, limits: RateLimits) -> Refusal | None:
        """See `SchedulerPort`."""
        return self.claims.take_slot(key_id, limits)

    async def submit(self, submission: Submission, deliver: Deliver) -> None:
        """See `SchedulerPort`."""
        if (claimed := self.begin(submission, deliver)) is not None:
            await self.reserve(claimed)

    def begin(
        self, submission: Submission, deliver: Deliver, *, again: bool = False
    ) -> ClaimedRequest | None:
        """Submits a branch, as far as that needs no waiting. Returns the request that the caller
        must `reserve`, because budgets apply to it; None: nothing is left to do. `again`: see
        `Claims.claim`."""
        if submission.kind is not BranchKind.ORIGINAL:
            self._submit_branch(submission, deliver)
            return None
        request = submission.request
        if request.request_id in self._requests:
            deliver(request_in_flight(request))
            return None
        refusal = self.claims.claim(submission, self._clock(), again=again)
        if refusal is not None:
            deliver(refusal)
            return None
        claimed = ClaimedRequest(submission=submission, deliver=deliver)
        self._requests[request.request_id] = claimed
        if self._budgets.applies(submission):
            return claimed
        self._enter(claimed, submission, deliver)
        return None

    def withdraw(self, request_id: str) -> None:
        """Takes back a branch that waits, or whose attempt has not reached its upstream. Its
        request goes on."""
        self._branches.withdraw(request_id)

    async def prompt_counted(self, request_id: str, prompt_tokens: int | None) -> None:
        """See `SchedulerPort`."""
        claimed = self._requests.get(request_id)
        if claimed is not None and not claimed.branches:
            bound = claimed.submission.prompt_tokens_bound
            await self.reserve(claimed, bound if prompt_tokens is None else prompt_tokens)

    def send(self, message: Message) -> None:
        """See `SchedulerPort`."""
        match message:
            case Progress():
                self._branches.record_progress(message)
            case AttemptEnd():
                self._branches.end_attempt(message)
            case RequestEnded():
                self._end_request(message)
            case SlotFreed():
                self.claims.free_slot(message.key_id, self._clock())

    async def quote(self, request: Request) -> DecisionRecord:
        """See `SchedulerPort`."""
        return decision_record(self.core.quote(request, self._clock()), lists=True)

    async def explain(self, request_id: str) -> Explained | None:
        """See `SchedulerPort`."""
        decision = self.core.decisions.get(request_id)
        if decision is None:
            return None
        age_s = max(0.0, self._clock() - decision.at_s)
        return Explained(decision=decision_record(decision, lists=True), age_s=age_s)

    async def figures(self) -> FleetFigures:
        """See `SchedulerPort`."""
        now, unix_s = self._clock(), time.time()
        return fleet_figures(self.core, self._throughput, self._targets, now=now, now_unix_s=unix_s)

    async def pool_cost(self, pool: str, window_ns: int) -> PoolCostReport:
        """See `SchedulerPort`."""
        models = {p.name: p.model for p in self._settings.config.pools}
        facts = [state.facts for state in self.core.placements]
        return self._costs.report(pool, window_ns, models.get(pool), facts)

    async def pool_rates(self) -> Mapping[str, tuple[KindRates, ...]]:
        """See `SchedulerPort`."""
        return self._costs.rates()

    async def token_rates(self) -> Mapping[str, TokenRates]:
        """See `SchedulerPort`."""
        return self._recorder.rates.rates

    async def drain(self, name: str) -> int:
        """See `SchedulerPort`."""
        self.drains.drain(name)
        self._filter_again(name)
        names = {member.name for member in self.fleet.members(name)}
        return sum(
            len(state.residents) for state in self.core.placements if state.facts.name in names
        )

    async def undrain(self, name: str) -> None:
        """See `SchedulerPort`."""
        self.drains.undrain(name)
        self._filter_again(name)

    # Internals.

    def _filter_again(self, name: str) -> None:
        for member in self.fleet.members(name):
            event = self.drains.current(member.name, member.group)
            self._recorder.observe(event, self._clock())
            self._branches.handle(event)
        self.refresh_fleet()

    async def reserve(self, claimed: ClaimedRequest, prompt_tokens: int | None = None) -> None:
        """Reserves the worst case of a request in its budgets, and submits it to the core.
        `prompt_tokens`: None: not counted."""
        submission, deliver = claimed.submission, claimed.deliver
        request_id = submission.request.request_id
        claimed.budgeted = True
        try:
            answer = await self._budgets.reserve(submission, prompt_tokens)
        except BaseException:
            self._abandon(claimed)
            raise
        if answer is None:
            deliver(CountPrompt(request_id=request_id))
        elif isinstance(answer, Refuse):
            self._abandon(claimed)
            deliver(answer)
        elif self._requests.get(request_id) is claimed:
            claimed.charge_limit_nano_usd = answer.charge_limit_nano_usd
            claimed.reservation = self._budgets.reservation(answer)
            self._enter(claimed, structs.replace(submission, request=answer), deliver)
        else:  # the request ended during the reservation
            self._budgets.release(submission)

    def _abandon(self, claimed: ClaimedRequest) -> None:
        """Releases everything held by a request that is not admitted."""
        request_id = claimed.submission.request.request_id
        if self._requests.get(request_id) is claimed:
            del self._requests[request_id]
            self.claims.release(claimed.submission, 0, self._clock(), keep_key=False)
            self._budgets.release(claimed.submission)

    def _enter(self, claimed: ClaimedRequest, submission: Submission, deliver: Deliver) -> None:
        """Submits an admitted request to the core."""
        claimed.rates = self._recorder.rates
        self._hedges.budget.request()
        self._submitted(self._branches.submit(claimed, submission, deliver))

    def _submit_branch(self, submission: Submission, deliver: Deliver) -> None:
        """Submits a hedge or a continuation of a request in progress."""
        request = submission.request
        claimed = self._requests.get(submission.original_id)
        if claimed is None or request.request_id in self._branches:
            deliver(request_in_flight(request))
        elif submission.kind is BranchKind.CONTINUATION:
            self._submitted(self._branches.submit(claimed, submission, deliver))
        else:
            self._hedges.start(claimed, submission, deliver, self._facts)

    def _submitted(self, branch: OpenBranch) -> None:
        if self._sleeps_unbounded or not branch.decided:
            # The tick loop must learn of the first request, and of a queued request that may
            # expire.
            self._wake.set()

    def _end_request(self, message: RequestEnded) -> None:
        claimed = self._requests.pop(message.request_id, None)
        if claimed is None:
            return
        self._branches.end_all(claimed)
        if claimed.budgeted:
            self._budgets.release(claimed.submission)
        self.claims.release(
            claimed.submission,
            message.used_tokens,
            self._clock(),
            keep_key=message.keep_idempotency_key,
        )

    def _priced(self, settings: SchedulingSettings) -> list[Placement]:
        return priced(settings.placements, settings.config, settings.prices, self._metering.unix_s)

    def _configured(self, placements: list[Placement]) -> None:
        """Updates meter, recorder, budgets and fleet view after a configuration change.
        `placements`: with the prices that the core was given."""
        settings, metering = self._settings, self._metering
        self.claims.configure(settings.config)
        self._facts = {placement.name: placement for placement in placements}
        set_up_meter(
            placements,
            settings,
            metering=metering,
            recorder=self._recorder,
            core=self.core,
            targets=self._targets,
            on_change=self._reprice,
        )
        self.use_rates(rate_snapshot(placements))
        self.refresh_fleet()

    def _reprice(self) -> float:
        """Applies the prices valid now. Returns the time of the next price change, Unix seconds."""
        placements = self._priced(self._settings)
        for changed in price_changes(placements):
            self._branches.handle(changed)
        self._facts.update((placement.name, placement) for placement in placements)
        self.use_rates(rate_snapshot(placements))
        return self._settings.prices.next_change_s(self._metering.unix_s)
