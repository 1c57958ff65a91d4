"""The scheduler: requests and events come in, actions go out.

Pure: the caller gives `now` (seconds, monotonic) and performs the actions. Every request that is
submitted ends exactly once: by a `Refuse`, or by an `AttemptEnded` or `Cancelled` that the caller
reports. `gateway/pipeline/dispatch.py` drives it in production, `simulation/` and the tests drive
the same object. What is decided for a request, and why, is in `model_scheduler.py`, one per model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from scheduler.contract import (
    Action,
    AttemptEnded,
    Cancelled,
    EngineReport,
    Event,
    PricesChanged,
    Progress,
    RefusalReason,
    Refuse,
    Request,
    ServingChanged,
    Tick,
)
from scheduler.decisions import Decision, Decisions
from scheduler.limits.retry_budget import DEFAULT_RETRIES, RetryBudget, RetryLimits
from scheduler.model_scheduler import ModelScheduler
from scheduler.model_state import ModelState
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
    """Bounds of the scheduler; `attempts` counts the first one."""

    queue: QueueLimits
    attempts: int
    retries: RetryLimits = DEFAULT_RETRIES


class Scheduler:
    """Decides for one fleet. Not thread-safe: one loop owns it."""

    def __init__(
        self, placements: Iterable[Placement], limits: SchedulerLimits, policy: Policy | None = None
    ) -> None:
        placements = tuple(placements)
        self._states: dict[str, PlacementState] = {}
        by_model: dict[str, list[PlacementState]] = {}
        for facts in placements:
            if facts.name in self._states:
                raise ValueError(f"placement {facts.name!r} is there twice: names must differ")
            state = self._states[facts.name] = PlacementState(facts)
            by_model.setdefault(facts.model, []).append(state)
        self._admission = PlacementAdmission(placements)
        self.decisions = Decisions(max(map(len, by_model.values()), default=0))
        self._tracked: dict[str, TrackedRequest] = {}
        self._retries = RetryBudget(limits.retries)
        self._model_states = {
            model: ModelState(
                states, self._admission, policy or Policy(), limits.queue, self.decisions
            )
            for model, states in by_model.items()
        }
        self._model_schedulers = {
            model: ModelScheduler(model_state, self._tracked, self._retries, limits.attempts)
            for model, model_state in self._model_states.items()
        }

    def __repr__(self) -> str:
        running = sum(len(state.residents) for state in self._states.values())
        return f"<Scheduler: {self.queued_requests} queued, {running} running>"

    @property
    def queued_requests(self) -> int:
        """Requests that wait."""
        return sum(len(model_state.queue) for model_state in self._model_states.values())

    @property
    def placements(self) -> Sequence[PlacementState]:
        """Every placement, to read."""
        return tuple(self._states.values())

    @property
    def serves(self) -> bool:
        """Whether any placement is in service."""
        return any(state.serving for state in self._states.values())

    def gate(self, placement: str, now: float) -> AdmissionReport:
        """How the breaker and the learnt limits of a placement stand."""
        return self._admission.report(placement, now)

    def has_model(self, model: str) -> bool:
        """Whether any placement is there for the model, in service or not."""
        return model in self._model_states

    def token_block_sizes(self, model: str) -> tuple[int, ...]:
        """Tokens of a block, each size that the model's engines tell of; empty: none tells."""
        model_state = self._model_states.get(model)
        return () if model_state is None else model_state.engine_caches.block_sizes

    def snapshot(self, now: float) -> SchedulerSnapshot:
        """Figures of every placement, pool and queue."""
        return take_snapshot(tuple(self._states.values()), self._model_states, now)

    def step_model(self, placement: str, now: float) -> StepModel:
        """The step model of an own placement, as fitted now."""
        model_state = self._model_schedulers[self._states[placement].facts.model].model_state
        return model_state.fleet.fitted(placement, now)

    def submit(self, request: Request, now: float) -> tuple[Action, ...]:
        """Takes a new request; its id must be new among those that have not ended."""
        if request.request_id in self._tracked:
            raise ValueError(f"request id {request.request_id!r} is in use")
        model_scheduler = self._model_schedulers.get(request.model)
        if model_scheduler is None:
            return (
                Refuse(
                    request_id=request.request_id,
                    reason=RefusalReason.UNKNOWN_MODEL,
                    message=f"model {request.model!r} is not served here",
                    retry_after_s=None,
                ),
            )
        tracked = self._tracked[request.request_id] = TrackedRequest(request)
        self._retries.request()
        model_scheduler.model_state.promise(tracked)
        return model_scheduler.arrive(tracked, now)

    def quote(self, request: Request, now: float) -> Decision:
        """What would be decided for `request` now; nothing is started. The model must be known."""
        return self._model_schedulers[request.model].quote(request, now)

    def handle(self, event: Event, now: float) -> tuple[Action, ...]:
        """Takes an event. One that names an unknown request or an old attempt is ignored."""
        match event:
            case Progress() | AttemptEnded():
                tracked = self._tracked.get(event.request_id)
                if (
                    tracked is None
                    or tracked.placement is None
                    or tracked.attempts != event.attempt
                ):
                    return ()
                model_scheduler = self._model_schedulers[tracked.request.model]
                if isinstance(event, Progress):
                    return model_scheduler.progress(tracked, event, now)
                return model_scheduler.attempt_ended(tracked, event, now)
            case Cancelled():
                tracked = self._tracked.get(event.request_id)
                if tracked is None:
                    return ()
                return self._model_schedulers[tracked.request.model].cancelled(tracked, now)
            case EngineReport():
                model_scheduler = self._model_schedulers[self._states[event.placement].facts.model]
                return (
                    model_scheduler.start_waiting(now)
                    if model_scheduler.model_state.take_report(event, now)
                    else ()
                )
            case CacheEvents():
                model_state = self._model_states[self._states[event.placement].facts.model]
                model_state.take_cache_events(event, now)
                return ()
            case PricesChanged():
                state = self._states[event.placement]
                state.facts = replace(
                    state.facts, rates=event.rates, nano_usd_per_s=event.nano_usd_per_s
                )
                self._model_schedulers[state.facts.model].model_state.take_prices()
                return ()
            case ServingChanged():
                model_scheduler = self._model_schedulers[self._states[event.placement].facts.model]
                model_scheduler.model_state.set_serving(event, now)
                if event.serving:
                    self._admission.proved(event.placement)
                    return model_scheduler.start_waiting(now)
                return model_scheduler.reject_stranded(now)

    def tick(self, now: float) -> Tick:
        """Expires what waited too long, starts what can start, and says when to call again."""
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
