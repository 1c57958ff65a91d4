"""The scheduler: requests and events come in, actions go out.

Pure: the caller passes `now` (seconds, monotonic) and performs the actions. Every submitted request
ends exactly once: by a `Refuse`, or by an `AttemptEnded` or a `Cancelled` that the caller reports.
The gateway drives it in production; `simulation/` and the tests drive the same object. Each model
has a `ModelScheduler`, which makes the decisions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from scheduler.adapters.adapter_report import AdapterReport
from scheduler.blame.quarantine import DEFAULT_QUARANTINE, Quarantine, QuarantineLimits
from scheduler.contract import (
    Action,
    AttemptEnded,
    Cancelled,
    EngineReport,
    Event,
    PlacementEvent,
    PlacementKind,
    PricesChanged,
    Progress,
    RefusalReason,
    Refuse,
    Request,
    ServingChanged,
    Tick,
)
from scheduler.decisions import Decision, Decisions
from scheduler.engine_steps import EngineSteps
from scheduler.limits.retry_budget import DEFAULT_RETRIES, RetryLimits, SharedRetryBudget
from scheduler.model.fleet_change import fleet_change
from scheduler.model.model_names import all_bases
from scheduler.model.model_scheduler import ModelScheduler
from scheduler.model.model_state import ModelState
from scheduler.model.quotation import quote_request
from scheduler.model.refusals import unknown_model
from scheduler.model.resumed import RunningAttempt, resume_attempt
from scheduler.placement_admission import AdmissionReport, PlacementAdmission
from scheduler.placement_state import Placement, PlacementState
from scheduler.policy import Policy
from scheduler.prefix.token_blocks import CacheEvents
from scheduler.queue.model_queue import QueueLimits
from scheduler.snapshot import SchedulerSnapshot, take_snapshot
from scheduler.step_time.step_model import StepModel
from scheduler.tracked_request import TrackedRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """Bounds of the scheduler. `attempts`: most attempts of a request, the first one included."""

    queue: QueueLimits
    attempts: int
    retries: RetryLimits = DEFAULT_RETRIES
    quarantine: QuarantineLimits = DEFAULT_QUARANTINE


@dataclass(frozen=True, slots=True)
class _LeavingModel:
    """A model that is not configured any more, and the ids of its requests that have not ended."""

    model_scheduler: ModelScheduler
    running: set[str]


class Scheduler:
    """Decisions for one fleet. Not thread-safe: one event loop owns it."""

    def __init__(
        self, placements: Iterable[Placement], limits: SchedulerLimits, policy: Policy | None = None
    ) -> None:
        self._policy = policy or Policy()
        self._limits = limits
        self._states: Mapping[str, PlacementState] = {}
        self._bases: Mapping[str, str] = {}
        """Base model of each adapter."""
        self._admission = PlacementAdmission(())
        self.decisions = Decisions(0)
        self._tracked: dict[str, TrackedRequest] = {}
        self._retries = SharedRetryBudget(limits.retries)
        self._quarantine = Quarantine(limits.quarantine)
        self._model_states: dict[str, ModelState] = {}
        self._model_schedulers: dict[str, ModelScheduler] = {}
        self._leaving: dict[str, _LeavingModel] = {}
        """Models that are not configured any more and have requests that run."""
        self.reconfigure(placements, limits, 0.0)

    def reconfigure(
        self, placements: Iterable[Placement], limits: SchedulerLimits, now: float
    ) -> tuple[Action, ...]:
        """Applies a changed configuration. Placements that stay keep their learnt state.

        Prices in `placements` are those that hold now. A placement that is added, or that is
        another server than before (`Placement.is_same_server`), is out of service until a
        `ServingChanged`. What runs on a placement that leaves ends as if the placement had stayed.
        Requests that wait for a model that leaves are refused. A configuration that equals the
        present one changes nothing. Raises ValueError if two placements have one name.
        """
        change = fleet_change(self._states, placements)
        self.set_limits(limits)
        self._states = change.after
        change.apply_to(self._admission)
        change.apply_facts()
        self._bases = all_bases(self._states.values())
        self.decisions.resize(max(map(len, change.models.values()), default=0))
        actions: list[Action] = []
        for model in [model for model in self._model_states if model not in change.models]:
            actions.extend(self._remove_model(model, now))
        for model in change.changed:
            actions.extend(self._reconfigure_model(model, change.models[model], now))
        return tuple(actions)

    def set_limits(self, limits: SchedulerLimits) -> None:
        """Applies other limits to requests from now on."""
        if limits == self._limits:
            return
        self._limits = limits
        self._retries.set_limits(limits.retries)
        leaving = [model.model_scheduler for model in self._leaving.values()]
        for model_scheduler in (*self._model_schedulers.values(), *leaving):
            model_scheduler.set_limits(limits.queue, limits.attempts)

    def _remove_model(self, model: str, now: float) -> tuple[Action, ...]:
        """Refuses waiting requests; the model's state stays while requests of it run."""
        del self._model_states[model]
        model_scheduler = self._model_schedulers.pop(model)
        refusals = model_scheduler.refuse_unknown_model(now)
        model_scheduler.model_state.reconfigure((), now)
        running = {i for i, tracked in self._tracked.items() if tracked.base_model == model}
        if running:
            self._leaving[model] = _LeavingModel(model_scheduler, running)
        return refusals

    def _reconfigure_model(
        self, model: str, states: Sequence[PlacementState], now: float
    ) -> tuple[Action, ...]:
        """Replaces the placements of a model, and creates the model's state if it is new."""
        model_scheduler = self._model_schedulers.get(model)
        if model_scheduler is None and (leaving := self._leaving.pop(model, None)) is not None:
            model_scheduler = leaving.model_scheduler
        if model_scheduler is None:
            limits, admission = self._limits, self._admission
            model_state = ModelState(states, admission, self._policy, limits.queue, self.decisions)
            model_scheduler = ModelScheduler(
                model_state, self._tracked, self._retries, limits.attempts, self._quarantine
            )
        else:
            model_scheduler.model_state.reconfigure(states, now)
        self._model_states[model] = model_scheduler.model_state
        self._model_schedulers[model] = model_scheduler
        return model_scheduler.refuse_orphaned(now)

    def __repr__(self) -> str:
        running = sum(tracked.placement is not None for tracked in self._tracked.values())
        return f"<Scheduler: {self.queued_requests} queued, {running} running>"

    @property
    def queued_requests(self) -> int:
        """Number of waiting requests."""
        return sum(len(model_state.queue) for model_state in self._model_states.values())

    @property
    def placements(self) -> Sequence[PlacementState]:
        """State of every placement, read-only."""
        return tuple(self._states.values())

    @property
    def serves(self) -> bool:
        """Whether any placement is in service."""
        return any(state.serving for state in self._states.values())

    def admission_report(self, placement: str, now: float) -> AdmissionReport:
        """State of the breaker and the learnt limits of a placement."""
        return self._admission.report(placement, now)

    def has_model(self, model: str) -> bool:
        """Whether a placement of the model is configured, in service or not."""
        return self.base_model(model) in self._model_states

    def base_model(self, model: str) -> str:
        """The base model of an adapter; any other name is its own."""
        return self._bases.get(model, model)

    def context_tokens(self, placement: str) -> int | None:
        """Most tokens of one sequence on a placement, configured or reported; None if unknown."""
        state = self._states.get(placement)
        return None if state is None else state.context_tokens

    def token_block_sizes(self, model: str) -> tuple[int, ...]:
        """Block sizes, in tokens, that the model's engines report; empty if none reports."""
        model_state = self._model_states.get(model)
        return () if model_state is None else model_state.engine_caches.block_sizes

    def snapshot(self, now: float) -> SchedulerSnapshot:
        """Figures of every placement, pool and queue."""
        states = tuple(self._states.values())
        return take_snapshot(states, self._model_states, self._bases, now)

    def step_model(self, placement: str) -> StepModel:
        """The step model of a self-hosted placement, as fitted so far."""
        model = self.base_model(self._states[placement].facts.model)
        return self._model_states[model].fleet.fitted(placement)

    def submit(self, request: Request, now: float, *, attempts: int = 0) -> tuple[Action, ...]:
        """Decides for a new request, or for one that has had `attempts` at an earlier scheduler.
        Raises ValueError if its id is that of an open request."""
        if request.request_id in self._tracked:
            raise ValueError(f"request id {request.request_id!r} is in use")
        model = self.base_model(request.model)
        model_scheduler = self._model_schedulers.get(model)
        if model_scheduler is None:
            return (
                Refuse(
                    request_id=request.request_id,
                    reason=RefusalReason.UNKNOWN_MODEL,
                    message=unknown_model(request.model),
                    retry_after_s=None,
                ),
            )
        tracked = TrackedRequest(request, model, attempts=attempts)
        self._tracked[request.request_id] = tracked
        self._retries.request(request.tenant)
        model_scheduler.model_state.set_expectations(tracked)
        return model_scheduler.decide(tracked, now)

    def resume(self, running: RunningAttempt, now: float) -> bool:
        """Takes over an attempt that an earlier scheduler has started. Returns False, and does
        nothing, if its placement is not configured, or serves another model."""
        request = running.request
        if request.request_id in self._tracked:
            raise ValueError(f"request id {request.request_id!r} is in use")
        state, model = self._states.get(running.placement), self.base_model(request.model)
        if state is None or self.base_model(state.facts.model) != model:
            return False
        tracked = self._tracked[request.request_id] = TrackedRequest(request, model)
        model_state = self._model_states[model]
        model_state.set_expectations(tracked, count=False)
        resume_attempt(model_state, tracked, state, running, now)
        return True

    def quote(self, request: Request, now: float) -> Decision:
        """The decision that `request` would get now. Changes nothing. The model must be known."""
        return quote_request(self._model_states[self.base_model(request.model)], request, now)

    def handle(self, event: Event, now: float) -> tuple[Action, ...]:
        """Applies an event. Events of an unknown request, an old attempt, or a placement that is
        not configured are ignored."""
        match event:
            case Progress() | AttemptEnded():
                tracked = self._tracked.get(event.request_id)
                if (
                    tracked is None
                    or tracked.placement is None
                    or tracked.attempts != event.attempt
                ):
                    return ()
                model_scheduler = self._scheduler_of(tracked)
                if isinstance(event, Progress):
                    return model_scheduler.on_progress(tracked, event, now)
                actions = model_scheduler.on_attempt_ended(tracked, event, now)
                self._drop_if_done(tracked)
                return actions
            case Cancelled():
                tracked = self._tracked.get(event.request_id)
                if tracked is None:
                    return ()
                actions = self._scheduler_of(tracked).on_cancelled(tracked, now)
                self._drop_if_done(tracked)
                return actions
            case _:
                return self._handle_placement_event(event, now)

    def _handle_placement_event(self, event: PlacementEvent, now: float) -> tuple[Action, ...]:
        """Applies an event of a placement; engine events of remotes are ignored."""
        state = self._states.get(event.placement)
        if state is None:
            return ()
        self_hosted = state.facts.kind is PlacementKind.SELF_HOSTED
        model_scheduler = self._model_schedulers[self.base_model(state.facts.model)]
        match event:
            case EngineReport() if self_hosted:
                return (
                    model_scheduler.start_waiting(now)
                    if model_scheduler.model_state.observe_report(event, now)
                    else ()
                )
            case EngineSteps() if self_hosted:
                model_scheduler.model_state.observe_steps(event, now)
            case CacheEvents() if self_hosted:
                model_scheduler.model_state.observe_cache_events(event, now)
            case AdapterReport() if self_hosted:
                if state.adapters.observe(event):
                    self._bases = all_bases(self._states.values())
                return model_scheduler.start_waiting(now)
            case PricesChanged():
                state.facts = replace(
                    state.facts,
                    rates=event.rates,
                    adapter_rates=event.adapter_rates,
                    nano_usd_per_s=event.nano_usd_per_s,
                )
                model_scheduler.model_state.apply_prices()
            case ServingChanged():
                model_scheduler.model_state.set_serving(event, now)
                if event.serving:
                    self._admission.close_breaker(event.placement)
                    return model_scheduler.start_waiting(now)
                return model_scheduler.refuse_orphaned(now)
        return ()

    def _scheduler_of(self, tracked: TrackedRequest) -> ModelScheduler:
        """The scheduler of a tracked request's model, which may be leaving."""
        found = self._model_schedulers.get(tracked.base_model)
        return found or self._leaving[tracked.base_model].model_scheduler

    def _drop_if_done(self, tracked: TrackedRequest) -> None:
        """Drops the state of a leaving model after its last request."""
        leaving = self._leaving.get(tracked.base_model)
        if leaving is not None and tracked.request.request_id not in self._tracked:
            leaving.running.discard(tracked.request.request_id)
            if not leaving.running:
                del self._leaving[tracked.base_model]

    def tick(self, now: float) -> Tick:
        """Expires and starts waiting requests, and returns when to call again."""
        actions: list[Action] = []
        wakes: list[float] = []
        for model_scheduler in self._model_schedulers.values():
            tick = model_scheduler.tick(now)
            actions.extend(tick.actions)
            if tick.next_wake_s is not None:
                wakes.append(tick.next_wake_s)
        if wakes and (change_s := self._admission.next_change_s(now)) is not None:
            wakes.append(change_s)
        return Tick(actions=tuple(actions), next_wake_s=min(wakes, default=None))
