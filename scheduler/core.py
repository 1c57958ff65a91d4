"""The scheduler: requests and events come in, actions go out.

Pure: the caller gives `now` (seconds, monotonic) and performs the actions. Every request that is
submitted ends exactly once: by a `Reject`, or by an `AttemptEnded` or `Cancelled` that the caller
reports. `gateway/dispatch.py` drives it in production, `simulation/` and the tests drive the same
object.

The first policy: requests start at once on the own placement with the least predicted work, wait
in a bounded queue while none has room, and go to a remote only when that queue is full or no own
placement serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scheduler.fleet import Fleet, Placement, PlacementState
from scheduler.flow_control import ModelQueue, Queued, QueueLimits
from scheduler.gates import Gates
from scheduler.placement import (
    choose,
    fits_context,
    full_batch_work_s,
    optimistic_ttft_s,
    permitted,
)
from scheduler.retry_budget import DEFAULT_RETRIES, RetryBudget, RetryLimits
from scheduler.snapshot import PlacementSnapshot, PoolSnapshot, SchedulerSnapshot
from scheduler.ticket import Ticket
from scheduler.types import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    Cancelled,
    Dispatch,
    EngineReport,
    Event,
    PlacementKind,
    Progress,
    Reject,
    RejectReason,
    Request,
    ServingChanged,
    Tick,
)

FIRST_OUTPUT_TOKENS = 256.0
"""Output length expected before any was seen: the order of the mean of public chat traces."""
OUTPUT_LENGTH_WEIGHT = 0.02
"""Weight of a new output length in the running mean: the last 50 requests or so."""
UNAVAILABLE_RETRY_S = 2.0
"""When to try again after every placement was down: two probe intervals."""
SATURATION_TTFT_S = 2.0
"""Wait that counts as saturation 1: the default time to first token of interactive requests."""
SHORTEST_RETRY_S = 0.2
LONGEST_RETRY_S = 60.0
"""Bounds of the hint when to try again, so that a wrong prediction does little harm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """Bounds of the scheduler; `attempts` counts the first one."""

    queue: QueueLimits
    attempts: int
    retries: RetryLimits = DEFAULT_RETRIES


class Scheduler:
    """Decides for one fleet. Not thread-safe: one loop owns it."""

    def __init__(self, placements: Iterable[Placement], limits: SchedulerLimits) -> None:
        self._limits = limits
        placements = tuple(placements)
        self._fleet = Fleet(placements)
        self._gates = Gates(placements)
        self._retries = RetryBudget(limits.retries)
        self._queues = {name: ModelQueue(limits.queue) for name in self._fleet.by_model}
        self._output_tokens = dict.fromkeys(self._fleet.by_model, FIRST_OUTPUT_TOKENS)
        self._tickets: dict[str, Ticket] = {}

    def __repr__(self) -> str:
        running = sum(len(state.residents) for state in self._fleet.by_name.values())
        return f"<Scheduler: {self.queued_requests} queued, {running} running>"

    @property
    def queued_requests(self) -> int:
        """Requests that wait."""
        return sum(len(queue) for queue in self._queues.values())

    @property
    def placements(self) -> Sequence[PlacementState]:
        """Every placement, to read."""
        return tuple(self._fleet.by_name.values())

    @property
    def serves(self) -> bool:
        """Whether any placement is in service."""
        return any(state.serving for state in self._fleet.by_name.values())

    def snapshot(self, now: float) -> SchedulerSnapshot:
        """Figures of every placement, pool and queue."""
        placements = tuple(state.snapshot(now) for state in self._fleet.by_name.values())
        drains_s = {model: self._queue_work_s(model) for model in self._queues}
        pools: dict[str, list[PlacementSnapshot]] = {}
        for placement in placements:
            if placement.kind is PlacementKind.LOCAL:
                pools.setdefault(placement.pool, []).append(placement)
        return SchedulerSnapshot(
            at_s=now,
            placements=placements,
            pools=tuple(
                PoolSnapshot(
                    pool=name,
                    model=members[0].model,
                    groups=len({p.group for p in members}),
                    groups_serving=len({p.group for p in members if p.serving}),
                    releasable_groups=0,
                    saturation=drains_s[members[0].model] / SATURATION_TTFT_S,
                    saturated=drains_s[members[0].model] >= SATURATION_TTFT_S,
                )
                for name, members in pools.items()
            ),
            queues=tuple(
                queue.snapshot(model, drains_s[model], now) for model, queue in self._queues.items()
            ),
        )

    def has_model(self, model: str) -> bool:
        """Whether any placement is there for the model, in service or not."""
        return model in self._fleet.by_model

    def submit(self, request: Request, now: float) -> tuple[Action, ...]:
        """Takes a new request; its id must be new among those that have not ended."""
        if request.request_id in self._tickets:
            raise ValueError(f"request id {request.request_id!r} is in use")
        self._tickets[request.request_id] = Ticket(request)
        self._retries.request()
        refusal = self._refuse_at_admission(request, now)
        if refusal is not None:
            return (self._reject(request, *refusal),)
        return (*self._admit(request, now), *self._pump(request.model, now))

    def handle(self, event: Event, now: float) -> tuple[Action, ...]:
        """Takes an event. One that names an unknown request or an old attempt is ignored."""
        match event:
            case Progress():
                ticket = self._current(event.request_id, event.attempt)
                if ticket is not None and ticket.placement is not None:
                    ticket.placement.progress(event.request_id, event.output_tokens, now)
                return ()
            case AttemptEnded():
                return self._attempt_ended(event, now)
            case Cancelled():
                return self._cancelled(event.request_id, now)
            case EngineReport():
                state = self._fleet.by_name[event.placement]
                state.take_report(event)
                return self._pump(state.facts.model, now)
            case ServingChanged():
                state = self._fleet.by_name[event.placement]
                state.serving, state.reason = event.serving, event.reason
                if event.serving:
                    self._gates.proved(event.placement)
                return self._pump(state.facts.model, now)

    def tick(self, now: float) -> Tick:
        """Expires what waited too long, starts what can start, and says when to call again."""
        actions: list[Action] = []
        wakes: list[float] = []
        for model, queue in self._queues.items():
            actions.extend(self._expire(queued, now) for queued in queue.expired(now))
            actions.extend(self._pump(model, now))
            if (expiry_s := queue.next_expiry_s()) is not None:
                wakes.append(expiry_s)
        if wakes and (change_s := self._gates.next_change_s(now)) is not None:
            wakes.append(change_s)
        return Tick(actions=tuple(actions), next_wake_s=min(wakes, default=None))

    def _refuse_at_admission(
        self, request: Request, now: float
    ) -> tuple[RejectReason, str, float | None] | None:
        states = self._fleet.by_model.get(request.model)
        if states is None:
            return RejectReason.UNKNOWN_MODEL, f"model {request.model!r} is not served here", None
        usable = [state for state in states if permitted(state, request)]
        if not usable:
            message = "no server of this model may see or can honour this request"
            return RejectReason.NO_PLACEMENT_ALLOWED, message, None
        fitting = [state for state in usable if fits_context(state, request)]
        if not fitting:
            longest = max(state.context_tokens or 0 for state in usable)
            message = f"{request.prompt_tokens} prompt tokens, the context has {longest}"
            return RejectReason.TOO_LONG, message, None
        serving = [state for state in fitting if state.serving]
        if not serving:
            message = f"no server of model {request.model!r} is in service: {fitting[0].reason}"
            return RejectReason.UNAVAILABLE, message, UNAVAILABLE_RETRY_S
        broken = self._gates.all_broken([state.facts.name for state in serving], now)
        if broken is not None:
            message = f"every server of model {request.model!r} that could run this fails: "
            retry_s = max(UNAVAILABLE_RETRY_S, broken.retry_after_s)
            return RejectReason.UNAVAILABLE, message + broken.reason, retry_s
        if now + min(optimistic_ttft_s(state.facts) for state in serving) > request.deadline_s:
            return RejectReason.DEADLINE, "the deadline is too near for a single token", None
        return None

    def _admit(self, request: Request, now: float) -> tuple[Action, ...]:
        """Starts a request, queues it, sends it to a remote, or refuses it: the first that goes."""
        queue = self._queues[request.model]
        if not queue:
            action = self._start(request, self._candidates(request, now), now)
            if action is not None:
                return (action,)
        if queue.has_room(request):
            last_start_s = request.deadline_s - min(
                (optimistic_ttft_s(state.facts) for state in self._open(request, now)), default=0.0
            )
            expires_s = min(now + request.slo.max_queue_s, last_start_s)
            queue.push(request, expires_s, self._work_s(request, now))
            return ()
        action = self._start(request, self._remotes(request, now), now)
        if action is not None:
            return (action,)
        message = f"the queue of model {request.model!r} is full ({len(queue)} requests)"
        return (
            self._reject(request, RejectReason.QUEUE_FULL, message, self._drain_s(request.model)),
        )

    def _pump(self, model: str, now: float) -> tuple[Action, ...]:
        """Starts waiting requests, in order, until the first that finds no room."""
        queue = self._queues[model]
        actions: list[Action] = []
        while (request := queue.head()) is not None:
            candidates = self._candidates(request, now)
            if not candidates:
                queue.remove(request.request_id)
                message = f"no server of model {model!r} is in service"
                actions.append(
                    self._reject(request, RejectReason.UNAVAILABLE, message, UNAVAILABLE_RETRY_S)
                )
                continue
            action = self._start(request, candidates, now)
            if action is None:
                break
            queue.remove(request.request_id)
            actions.append(action)
        return tuple(actions)

    def _open(self, request: Request, now: float) -> Sequence[PlacementState]:
        """Placements in service, unbroken, that may run it and have not failed it yet."""
        ticket = self._tickets[request.request_id]
        states = [
            state
            for state in self._fleet.by_model[request.model]
            if state.serving
            and ticket.may_try(state.facts)
            and permitted(state, request)
            and fits_context(state, request)
            and not self._gates.broken(state.facts.name, now)
        ]
        return ticket.preferred(states)

    def _remotes(self, request: Request, now: float) -> list[PlacementState]:
        return [s for s in self._open(request, now) if s.facts.kind is PlacementKind.REMOTE]

    def _candidates(self, request: Request, now: float) -> Sequence[PlacementState]:
        """Own placements; remotes only where no own one could ever serve it."""
        open_states = self._open(request, now)
        local = [state for state in open_states if state.facts.kind is PlacementKind.LOCAL]
        return local or open_states

    def _start(
        self, request: Request, states: Sequence[PlacementState], now: float
    ) -> Dispatch | None:
        admitting = [s for s in states if self._gates.admits(s.facts.name, request, now)]
        chosen = choose(admitting, request, self._expected_output(request), now)
        if chosen is None:
            return None
        state, prediction = chosen
        ticket = self._tickets[request.request_id]
        ticket.attempts += 1
        ticket.placement = state
        state.add(request, self._expected_output(request), now)
        self._gates.started(state.facts.name, request, now)
        if state.facts.kind is PlacementKind.LOCAL:
            reason = f"least predicted work of {len(states)}: {prediction.work_s:.2f} s"
        elif len(self._queues[request.model]):
            reason = "own servers saturated: the queue is full"
        else:
            reason = "no own server can serve it"
        return Dispatch(
            request_id=request.request_id,
            attempt=ticket.attempts,
            placement=state.facts.name,
            kind=state.facts.kind,
            reason=reason,
            predicted_ttft_s=prediction.ttft_s,
            predicted_tpot_s=prediction.tpot_s,
        )

    def _attempt_ended(self, event: AttemptEnded, now: float) -> tuple[Action, ...]:
        ticket = self._current(event.request_id, event.attempt)
        if ticket is None or ticket.placement is None:
            return ()
        state, ticket.placement = ticket.placement, None
        state.remove(event.request_id, now)
        self._gates.ended(state.facts.name, event.request_id, event, now)
        model = ticket.request.model
        if event.outcome is not AttemptOutcome.RETRYABLE:
            del self._tickets[event.request_id]
            if event.outcome is AttemptOutcome.OK and ticket.attempts > 1:
                self._retries.succeeded()
            if event.outcome is AttemptOutcome.OK and event.output_tokens is not None:
                per_choice = event.output_tokens / ticket.request.choices
                mean = self._output_tokens[model]
                self._output_tokens[model] = mean + OUTPUT_LENGTH_WEIGHT * (per_choice - mean)
            return self._pump(model, now)
        ticket.failed_at(state.facts, event.fault)
        request = ticket.request
        hint = f"the last on {state.facts.name}: {event.detail}"
        if ticket.attempts >= self._limits.attempts or not self._open(request, now):
            message = f"{ticket.attempts} attempts failed, {hint}"
        elif not self._retries.take(now):
            message = f"too many retries in the whole gateway, {hint}"
        else:
            return (*self._admit(request, now), *self._pump(model, now))
        retry_s = event.retry_after_s
        retry_s = UNAVAILABLE_RETRY_S if retry_s is None else min(LONGEST_RETRY_S, retry_s)
        refusal = self._reject(request, RejectReason.ATTEMPTS_EXHAUSTED, message, retry_s)
        return (refusal, *self._pump(model, now))

    def _cancelled(self, request_id: str, now: float) -> tuple[Action, ...]:
        ticket = self._tickets.pop(request_id, None)
        if ticket is None:
            return ()
        model = ticket.request.model
        self._queues[model].remove(request_id)
        if ticket.placement is not None:
            ticket.placement.remove(request_id, now)
            self._gates.ended(ticket.placement.facts.name, request_id, None, now)
        return self._pump(model, now)

    def _current(self, request_id: str, attempt: int) -> Ticket | None:
        ticket = self._tickets.get(request_id)
        return ticket if ticket is not None and ticket.attempts == attempt else None

    def _expire(self, queued: Queued, now: float) -> Reject:
        request = queued.request
        waited_s = now - request.arrival_s
        if now + SHORTEST_RETRY_S >= request.deadline_s:
            message = f"no room before the deadline: {waited_s:.1f} s in the queue"
            return self._reject(request, RejectReason.DEADLINE, message, None)
        message = f"no room within {request.slo.max_queue_s:g} s (class {request.slo.slo_class})"
        return self._reject(
            request, RejectReason.QUEUE_TIMEOUT, message, self._drain_s(request.model)
        )

    def _reject(
        self, request: Request, reason: RejectReason, message: str, retry_after_s: float | None
    ) -> Reject:
        del self._tickets[request.request_id]
        return Reject(
            request_id=request.request_id,
            reason=reason,
            message=message,
            retry_after_s=retry_after_s,
        )

    def _expected_output(self, request: Request) -> float:
        expected = min(self._output_tokens[request.model], request.max_output_tokens)
        return expected * request.choices

    def _work_s(self, request: Request, now: float) -> float:
        """Engine time that a waiting request adds to the queue."""
        expected = self._expected_output(request)
        states = [state for state in self._open(request, now) if state.facts.step_model is not None]
        works = [full_batch_work_s(state.facts, request, expected) for state in states]
        return min(works, default=0.0)

    def _drain_s(self, model: str) -> float:
        """When a refused request is worth another try: the predicted time to work the queue off."""
        return min(LONGEST_RETRY_S, max(SHORTEST_RETRY_S, self._queue_work_s(model)))

    def _queue_work_s(self, model: str) -> float:
        states = self._fleet.by_model[model]
        serving = sum(s.serving and s.facts.kind is PlacementKind.LOCAL for s in states)
        return self._queues[model].work_s / max(1, serving)
