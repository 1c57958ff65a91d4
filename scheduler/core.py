"""The scheduler: requests and events come in, actions go out.

Pure: the caller gives `now` (seconds, monotonic) and performs the actions. Every request that is
submitted ends exactly once: by a `Reject`, or by an `AttemptEnded` or `Cancelled` that the caller
reports. `gateway/pipeline/dispatch.py` drives it in production, `simulation/` and the tests drive the same
object. What is decided for a request, and why, is in `decider.py`, one per model.
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
    Reject,
    RejectReason,
    Request,
    ServingChanged,
    Tick,
)
from scheduler.decisions import Decision, Decisions
from scheduler.limits.retry_budget import DEFAULT_RETRIES, RetryBudget, RetryLimits
from scheduler.model_scheduler import ModelDecider
from scheduler.model_state import Lane
from scheduler.placement_gates import GateReport, Gates
from scheduler.placement_state import Placement, PlacementState
from scheduler.policy import Policy
from scheduler.prefix.token_blocks import CacheEvents
from scheduler.queue.model_queue import QueueLimits
from scheduler.request_state import Ticket
from scheduler.snapshot import SchedulerSnapshot, take_snapshot
from scheduler.step_time.step_model import StepModel

LOOK_AGAIN_S = 0.05
"""Time between looks at a queue that only time can help: streams that must first get ahead."""


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
        self._gates = Gates(placements)
        self.decisions = Decisions(max(map(len, by_model.values()), default=0))
        self._tickets: dict[str, Ticket] = {}
        self._retries = RetryBudget(limits.retries)
        self._lanes = {
            model: Lane(states, self._gates, policy or Policy(), limits.queue, self.decisions)
            for model, states in by_model.items()
        }
        self._deciders = {
            model: ModelDecider(lane, self._tickets, self._retries, limits.attempts)
            for model, lane in self._lanes.items()
        }

    def __repr__(self) -> str:
        running = sum(len(state.residents) for state in self._states.values())
        return f"<Scheduler: {self.queued_requests} queued, {running} running>"

    @property
    def queued_requests(self) -> int:
        """Requests that wait."""
        return sum(len(lane.queue) for lane in self._lanes.values())

    @property
    def placements(self) -> Sequence[PlacementState]:
        """Every placement, to read."""
        return tuple(self._states.values())

    @property
    def serves(self) -> bool:
        """Whether any placement is in service."""
        return any(state.serving for state in self._states.values())

    def gate(self, placement: str, now: float) -> GateReport:
        """How the breaker and the learnt limits of a placement stand."""
        return self._gates.report(placement, now)

    def has_model(self, model: str) -> bool:
        """Whether any placement is there for the model, in service or not."""
        return model in self._lanes

    def token_block_sizes(self, model: str) -> tuple[int, ...]:
        """Tokens of a block, each size that the model's engines tell of; empty: none tells."""
        lane = self._lanes.get(model)
        return () if lane is None else lane.engine_caches.block_sizes

    def snapshot(self, now: float) -> SchedulerSnapshot:
        """Figures of every placement, pool and queue."""
        return take_snapshot(tuple(self._states.values()), self._lanes, now)

    def step_model(self, placement: str, now: float) -> StepModel:
        """The step model of an own placement, as fitted now."""
        lane = self._deciders[self._states[placement].facts.model].lane
        return lane.fleet.fitted(placement, now)

    def submit(self, request: Request, now: float) -> tuple[Action, ...]:
        """Takes a new request; its id must be new among those that have not ended."""
        if request.request_id in self._tickets:
            raise ValueError(f"request id {request.request_id!r} is in use")
        decider = self._deciders.get(request.model)
        if decider is None:
            return (
                Reject(
                    request_id=request.request_id,
                    reason=RejectReason.UNKNOWN_MODEL,
                    message=f"model {request.model!r} is not served here",
                    retry_after_s=None,
                ),
            )
        ticket = self._tickets[request.request_id] = Ticket(request)
        self._retries.request()
        decider.lane.promise(ticket)
        return decider.arrive(ticket, now)

    def quote(self, request: Request, now: float) -> Decision:
        """What would be decided for `request` now; nothing is started. The model must be known."""
        return self._deciders[request.model].quote(request, now)

    def handle(self, event: Event, now: float) -> tuple[Action, ...]:
        """Takes an event. One that names an unknown request or an old attempt is ignored."""
        match event:
            case Progress() | AttemptEnded():
                ticket = self._tickets.get(event.request_id)
                if ticket is None or ticket.placement is None or ticket.attempts != event.attempt:
                    return ()
                decider = self._deciders[ticket.request.model]
                if isinstance(event, Progress):
                    return decider.progress(ticket, event, now)
                return decider.attempt_ended(ticket, event, now)
            case Cancelled():
                ticket = self._tickets.get(event.request_id)
                if ticket is None:
                    return ()
                return self._deciders[ticket.request.model].cancelled(ticket, now)
            case EngineReport():
                decider = self._deciders[self._states[event.placement].facts.model]
                return decider.pump(now) if decider.lane.take_report(event, now) else ()
            case CacheEvents():
                lane = self._lanes[self._states[event.placement].facts.model]
                lane.take_cache_events(event, now)
                return ()
            case PricesChanged():
                state = self._states[event.placement]
                state.facts = replace(
                    state.facts, rates=event.rates, nano_usd_per_s=event.nano_usd_per_s
                )
                self._deciders[state.facts.model].lane.take_prices()
                return ()
            case ServingChanged():
                decider = self._deciders[self._states[event.placement].facts.model]
                decider.lane.set_serving(event, now)
                if event.serving:
                    self._gates.proved(event.placement)
                    return decider.pump(now)
                return decider.reject_stranded(now)

    def tick(self, now: float) -> Tick:
        """Expires what waited too long, starts what can start, and says when to call again."""
        actions: list[Action] = []
        wakes: list[float] = []
        for decider in self._deciders.values():
            lane = decider.lane
            if not lane.queue:
                lane.observe(now)
                continue
            for due, queued in lane.queue.due(now):
                actions.extend(decider.due(due, queued, now))
            actions.extend(decider.pump(now))
            if (due_s := lane.queue.next_due_s()) is not None:
                wakes.append(due_s)
                if lane.time_heals:
                    wakes.append(now + LOOK_AGAIN_S)
        if wakes and (change_s := self._gates.next_change_s(now)) is not None:
            wakes.append(change_s)
        return Tick(actions=tuple(actions), next_wake_s=min(wakes, default=None))
