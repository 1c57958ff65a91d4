"""Discrete-event simulation of engines behind the production scheduler; events lie on a heap.

Arrivals go to a `Decider` (`scheduler.core.Scheduler`, or another policy of the laboratory), its
actions to the engines, and what the engines do comes back to it as it would in production: token
counts at intervals, ends at once, reports that lag. Load that others put on the same engines goes
past it. Pure and deterministic: the same arrivals, engines and decider give the same run.

**The step-level truth.** Every `Outcome` carries `gpu_s`: the seconds of its group's time that the
request caused, dealt out step by step (`cost_truth`), partial attempts included. A
meter that only sees events is measured against it: a request's true cost is `gpu_s` times the
group's price per second, and per engine

    sum of gpu_s of ended requests + of those that run + of external load = engine.truth.busy_s;

what is left of the paid time is idle. `external_gpu_s` has the external part.

**Conservation.** submitted = finished + rejected + cancelled + running + queued at every moment:
`counts`, where running is counted in the engines and queued is what the decider still holds.

Memory does not grow with the number of requests: arrivals are an iterator, outcomes go to a sink.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from scheduler.contract import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    Cancelled,
    EngineReport,
    Evict,
    Progress,
    RefusalReason,
    Refuse,
    ServingChanged,
    Start,
)
from simulation.arrivals import Arrival, Counts, ExternalArrival, Outcome, OutcomeKind
from simulation.decider import ActiveRequest, Decider, FleetTiming, SimulatedPlacement, report_of
from simulation.engine.engine import Engine
from simulation.engine.sequences import LengthRequest
from simulation.engine.sequences import Sequence as EngineSequence
from simulation.powered import PoweredTime

MANY_STEPS = 1 << 30


@dataclass(slots=True)
class _Group:
    """An engine on the heap; `version` tells a planned end from one that was given up."""

    engine: Engine
    powered: PoweredTime
    version: int = 0
    steps: bool = False


class FleetSimulation:
    """One simulation run. `run` executes all of it; `run_until` executes it in parts."""

    def __init__(
        self,
        placements: Iterable[SimulatedPlacement],
        decider: Decider,
        arrivals: Iterable[Arrival],
        on_end: Callable[[Outcome], None],
        *,
        external: Iterable[ExternalArrival] = (),
        timing: FleetTiming | None = None,
        on_report: Callable[[float], None] | None = None,
    ) -> None:
        self.placements: Mapping[str, SimulatedPlacement] = {p.name: p for p in placements}
        self.timing = timing or FleetTiming()
        self.now = 0.0
        self.external_gpu_s = 0.0
        self._decider = decider
        self._arrivals = iter(arrivals)
        self._external = iter(external)
        self._on_end = on_end
        self._on_report = on_report
        self._groups = {
            id(p.engine): _Group(p.engine, PoweredTime(self.timing.release_s))
            for p in self.placements.values()
        }
        self._active: dict[str, ActiveRequest] = {}
        self._ended = dict.fromkeys(OutcomeKind, 0)
        self._submitted = 0
        self._externals = 0
        self._heap: list[tuple[float, int, Callable[[object], None], object]] = []
        self._pushed = 0
        self._coming = 0
        self._periodic = False
        self._wake_s = float("inf")
        for name in self.placements:
            self._perform(
                decider.handle(ServingChanged(placement=name, serving=True, reason=""), 0.0)
            )
        self._next_arrival()
        self._next_external()

    def run(self) -> None:
        """Executes all events."""
        self.run_until(float("inf"))

    def run_until(self, until_s: float) -> None:
        """Executes the events before `until_s`."""
        heap = self._heap
        while heap and heap[0][0] < until_s:
            self.now, _, act, what = heapq.heappop(heap)
            act(what)

    @property
    def counts(self) -> Counts:
        """Counts requests by state; running requests are counted in the engines."""
        in_engines = sum(group.engine.open_requests for group in self._groups.values())
        running = in_engines - self._externals
        return Counts(
            submitted=self._submitted,
            finished=self._ended[OutcomeKind.FINISHED],
            rejected=self._ended[OutcomeKind.REJECTED],
            cancelled=self._ended[OutcomeKind.CANCELLED],
            running=running,
            queued=sum(active.placement is None for active in self._active.values()),
        )

    def powered_s(self, until_s: float) -> list[float]:
        """Per engine: how long it was powered up to `until_s`, at work or within `release_s`."""
        return [group.powered.total_s(until_s) for group in self._groups.values()]

    def _push(self, at_s: float, act: Callable[[object], None], what: object) -> None:
        self._pushed += 1
        heapq.heappush(self._heap, (at_s, self._pushed, act, what))

    def _next_arrival(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is not None:
            self._coming += 1
            self._push(max(self.now, arrival.request.arrival_s), self._arrive, arrival)

    def _next_external(self) -> None:
        arrival = next(self._external, None)
        if arrival is not None:
            self._coming += 1
            self._push(max(self.now, arrival.at_s), self._arrive_external, arrival)

    def _arrive(self, what: object) -> None:
        assert isinstance(what, Arrival)
        self._coming -= 1
        self._next_arrival()
        request = what.request
        if request.request_id in self._active:
            raise ValueError(f"request id {request.request_id} is in use")
        self._submitted += 1
        self._active[request.request_id] = ActiveRequest(what)
        if what.gives_up_s is not None:
            self._push(self.now + what.gives_up_s, self._give_up, what)
        self._perform(self._decider.submit(request, self.now))
        self._start_periodic()

    def _arrive_external(self, what: object) -> None:
        assert isinstance(what, ExternalArrival)
        self._coming -= 1
        self._next_external()
        self._externals += 1
        self._add(self.placements[what.placement], what.request)
        self._start_periodic()

    def _give_up(self, what: object) -> None:
        assert isinstance(what, Arrival)
        request_id = what.request.request_id
        active = self._active.get(request_id)
        if active is None or active.arrival is not what:
            return
        tokens = self._take_from_engine(request_id, active)
        self._finish(active, OutcomeKind.CANCELLED, None, tokens)
        self._perform(self._decider.handle(Cancelled(request_id=request_id), self.now))

    def _start_periodic(self) -> None:
        if self._periodic:
            return
        self._periodic = True
        timing = self.timing
        self._push(self.now + timing.tick_s, self._tick, None)
        self._push(self.now + timing.progress_s, self._progress, None)
        self._push(self.now + timing.report_s, self._report, None)

    @property
    def _is_over(self) -> bool:
        return not (self._active or self._coming or self._externals)

    def _tick(self, _: object) -> None:
        if self._is_over:
            self._periodic = False
            return
        self._perform_tick()
        self._push(self.now + self.timing.tick_s, self._tick, None)

    def _wake(self, _: object) -> None:
        if self.now >= self._wake_s:
            self._wake_s = float("inf")
            self._perform_tick()

    def _perform_tick(self) -> None:
        tick = self._decider.tick(self.now)
        self._perform(tick.actions)
        wake_s = tick.next_wake_s
        if wake_s is not None and self.now < wake_s < min(
            self._wake_s, self.now + self.timing.tick_s
        ):
            self._wake_s = wake_s
            self._push(wake_s, self._wake, None)

    def _progress(self, _: object) -> None:
        """Reports the output tokens of every running request to the decider."""
        if self._is_over:
            return
        actions: list[Action] = []
        for group in self._groups.values():
            group.engine.settle(self.now)
            for rank in group.engine.ranks:
                for sequence in rank.running:
                    if sequence.decodes:
                        request_id = sequence.request.request_id
                        if (active := self._active.get(request_id)) is not None:
                            tokens = rank.output_tokens(sequence)
                            actions += self._tell(request_id, active, tokens)
        self._perform(actions)
        self._push(self.now + self.timing.progress_s, self._progress, None)

    def _report(self, _: object) -> None:
        if self._is_over:
            return
        for placement in self.placements.values():
            placement.engine.settle(self.now)
            report = report_of(placement, self.now)
            self._push(self.now + self.timing.report_lag_s, self._take_report, report)
        if self._on_report is not None:
            self._on_report(self.now)
        self._push(self.now + self.timing.report_s, self._report, None)

    def _take_report(self, what: object) -> None:
        assert isinstance(what, EngineReport)
        self._perform(self._decider.handle(what, self.now))

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Start():
                    self._dispatch(action)
                case Refuse():
                    active = self._active[action.request_id]
                    self._finish(active, OutcomeKind.REJECTED, action.reason, 0)
                case Evict():
                    self._evict(action)

    def _dispatch(self, action: Start) -> None:
        active = self._active[action.request_id]
        if active.placement is not None:
            raise RuntimeError(f"request {action.request_id} was dispatched twice")
        active.attempt = action.attempt
        active.placement = self.placements[action.placement]
        active.dispatched_s = self.now
        arrival = active.arrival
        request = LengthRequest(
            request_id=action.request_id,
            prompt_tokens=arrival.request.prompt_tokens,
            tokens=arrival.output_tokens,
            content=arrival.content,
        )
        self._add(active.placement, request)

    def _evict(self, action: Evict) -> None:
        """Evicts an attempt whose client has received no output."""
        active = self._active.get(action.request_id)
        if active is None or active.placement is None or active.attempt != action.attempt:
            return
        if active.first_token_s is not None and not active.arrival.request.whole_answer:
            return
        event = AttemptEnded(
            request_id=action.request_id,
            attempt=action.attempt,
            outcome=AttemptOutcome.EVICTED,
            detail=action.reason,
            output_tokens=self._take_from_engine(action.request_id, active),
        )
        active.placement = active.first_token_s = None
        active.told_tokens = 0
        self._perform(self._decider.handle(event, self.now))

    def _add(self, placement: SimulatedPlacement, request: LengthRequest) -> None:
        engine = placement.engine
        group = self._groups[id(engine)]
        blocked = engine.waiting > 0
        engine.add(request, self.now, placement.rank)
        if not group.steps:
            group.powered.begin(self.now)
            self._begin(group)
        elif not blocked or len(engine.ranks) > 1:
            # Steps are not interrupted for a request that waits behind one without room.
            self._interrupt(group)

    def _begin(self, group: _Group) -> None:
        duration_s = group.engine.begin_step(self.now, MANY_STEPS)
        group.steps = True
        group.version += 1
        self._push(self.now + duration_s, self._step_ends, (group, group.version))

    def _interrupt(self, group: _Group) -> None:
        if group.engine.steps_under_way > 1:
            group.version += 1
            end_s = group.engine.interrupt(self.now)
            self._push(end_s, self._step_ends, (group, group.version))

    def _step_ends(self, what: object) -> None:
        assert isinstance(what, tuple)
        group, version = what
        if version != group.version:
            return
        engine = group.engine
        actions: list[Action] = []
        for sequence in engine.finish():
            actions += self._tokens_of(engine, sequence)
        group.steps = False
        self._perform(actions)
        if not group.steps:
            if engine.has_work:
                self._begin(group)
            else:
                group.powered.end(self.now)

    def _tokens_of(self, engine: Engine, sequence: EngineSequence) -> Sequence[Action]:
        """Handles a first or a last token."""
        request_id = sequence.request.request_id
        active = self._active.get(request_id)
        if active is None:
            if sequence.ended:
                self._externals -= 1
                self.external_gpu_s += sequence.cost_s
            return ()
        if active.first_token_s is None:
            active.first_token_s = self.now
        active.cached_tokens = sequence.cached_tokens
        tokens = engine.output_tokens(sequence)
        if not sequence.ended:
            return self._tell(request_id, active, tokens)
        active.gpu_s += sequence.cost_s
        event = AttemptEnded(
            request_id=request_id,
            attempt=active.attempt,
            outcome=AttemptOutcome.OK,
            prompt_tokens=sequence.prompt_tokens,
            cached_tokens=sequence.cached_tokens,
            output_tokens=tokens,
        )
        self._finish(active, OutcomeKind.FINISHED, None, tokens)
        return self._decider.handle(event, self.now)

    def _tell(self, request_id: str, active: ActiveRequest, tokens: int) -> Sequence[Action]:
        if tokens == active.told_tokens:
            return ()
        active.told_tokens = tokens
        event = Progress(request_id=request_id, attempt=active.attempt, output_tokens=tokens)
        return self._decider.handle(event, self.now)

    def _take_from_engine(self, request_id: str, active: ActiveRequest) -> int:
        """Aborts the attempt on its engine; returns its output tokens."""
        placement = active.placement
        if placement is None:
            return 0
        group = self._groups[id(placement.engine)]
        self._interrupt(group)
        tokens = sum(map(placement.engine.output_tokens, placement.engine.sequences(request_id)))
        active.gpu_s += placement.engine.abort(request_id)
        return tokens

    def _finish(
        self, active: ActiveRequest, kind: OutcomeKind, reason: RefusalReason | None, tokens: int
    ) -> None:
        del self._active[active.arrival.request.request_id]
        self._ended[kind] += 1
        self._on_end(
            Outcome(
                arrival=active.arrival,
                kind=kind,
                reason=reason,
                placement=active.placement.name if active.placement else "",
                dispatched_s=active.dispatched_s,
                first_token_s=active.first_token_s,
                ended_s=self.now,
                output_tokens=tokens,
                cached_tokens=active.cached_tokens,
                gpu_s=active.gpu_s,
            )
        )
