"""Plays a decider, the real scheduler or a rival, on engines of the referee in virtual time.

Deciders see what a gateway sees: first tokens and ends at once, token counts every `progress_s`,
engine reports every second and 0.1 s late. `Trouble` holds what goes wrong.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from benchmarks.referee.engine import RefereeEngine, Resident
from scheduler.contract import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    EngineReport,
    Event,
    Evict,
    Fault,
    Progress,
    Refuse,
    ServingChanged,
    Start,
)
from scheduler.engine_steps import EngineCounts
from simulation.arrivals import Arrival
from simulation.decider import Decider

REPORT_S, REPORT_LAG_S, TICK_S = 1.0, 0.1, 0.05
DEATH_SEEN_S = 2.0
"""Time until a prober notices that a server is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What happens to the engine of a number.

    Attributes:
        slow: (engine, from s, factor on its steps).
        dies: (engine, at s, back at s).
        silent: (from s, to s) in which no engine reports.
        others: (at s, engine, prompt tokens, output tokens) that other clients send.
    """

    slow: tuple[tuple[int, float, float], ...] = ()
    dies: tuple[tuple[int, float, float], ...] = ()
    silent: tuple[float, float] = (0.0, 0.0)
    others: tuple[tuple[float, int, int, int], ...] = ()


NO_TROUBLE = Trouble()


@dataclass(slots=True, kw_only=True)
class Played:
    """A request and what became of it; times in seconds of the run, None: it never came so far.

    `predicted_ttft_s`, `predicted_tpot_s`: what was told when it was sent the last time.
    `longest_gap_s`: longest time between two of its tokens.
    """

    arrival: Arrival
    engine: int | None = None
    attempt: int = 0
    sent_s: float | None = None
    first_s: float | None = None
    ended_s: float | None = None
    refused: bool = False
    predicted_ttft_s: float | None = None
    predicted_tpot_s: float | None = None
    longest_gap_s: float = 0.0
    told_tokens: int = 0

    @property
    def ttft_s(self) -> float | None:
        """From arrival to the first token."""
        return None if self.first_s is None else self.first_s - self.arrival.request.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first; None: it has no second one, or did not end."""
        if self.first_s is None or self.ended_s is None or self.arrival.output_tokens < 2:
            return None
        return (self.ended_s - self.first_s) / (self.arrival.output_tokens - 1)

    @property
    def met(self) -> bool:
        """Whether it finished within its SLO."""
        slo = self.arrival.request.slo
        if self.refused or self.ended_s is None or self.ttft_s is None:
            return False
        return self.ttft_s <= slo.ttft_s and (self.tpot_s or 0.0) <= slo.tpot_s


@dataclass(slots=True)
class Referee:
    """One run."""

    names: Sequence[str]
    engines: Sequence[RefereeEngine]
    decider: Decider
    trouble: Trouble = NO_TROUBLE
    progress_s: float = 0.25
    release_s: float = 30.0
    now: float = 0.0
    played: dict[str, Played] = field(default_factory=dict)
    powered_s: float = 0.0
    _heap: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _count: Iterator[int] = field(default_factory=itertools.count)
    _stepping: set[int] = field(default_factory=set)
    _dead: set[int] = field(default_factory=set)
    _powered_until_s: list[float] = field(default_factory=list)
    _power_limit_s: float | None = None
    _open: int = 0
    _coming: int = 0
    _wake_s: float = float("inf")

    def run(self, arrivals: Sequence[Arrival], until_s: float | None = None) -> None:
        """Plays all arrivals to their ends; with `until_s` powered time counts up to then."""
        self._powered_until_s = [0.0] * len(self.engines)
        self._power_limit_s = until_s
        for name in self.names:
            self._tell(ServingChanged(placement=name, serving=True, reason=""))
        for arrival in arrivals:
            self._at(arrival.request.arrival_s, partial(self._arrive, arrival))
        self._coming = len(arrivals)
        for engine, at_s, factor in self.trouble.slow:
            self._at(at_s, partial(self._slow, engine, factor))
        for engine, at_s, back_s in self.trouble.dies:
            self._at(at_s, partial(self._die, engine))
            self._at(at_s + DEATH_SEEN_S, partial(self._seen, engine, serving=False))
            self._at(back_s, partial(self._seen, engine, serving=True))
        for number, (at_s, engine, prompt, output) in enumerate(self.trouble.others):
            other = Resident(f"other-{number}", prompt, output)
            self._at(at_s, partial(self._add, engine, other))
        for begin in (self._tick, self._progress, self._report):
            self._at(0.0, begin)
        while self._heap:
            self.now, _, act = heapq.heappop(self._heap)
            act()

    def _at(self, at_s: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (max(at_s, self.now), next(self._count), act))

    @property
    def _is_over(self) -> bool:
        return not self._open and not self._coming

    def _arrive(self, arrival: Arrival) -> None:
        self._coming -= 1
        self._open += 1
        self.played[arrival.request.request_id] = Played(arrival=arrival)
        self._perform(self.decider.submit(arrival.request, self.now))

    def _tell(self, event: Event) -> None:
        self._perform(self.decider.handle(event, self.now))

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Start():
                    self._send(action)
                case Refuse():
                    self._open -= 1
                    self.played[action.request_id].refused = True
                case Evict():
                    self._evict(action)

    def _send(self, start: Start) -> None:
        played = self.played[start.request_id]
        engine = self.names.index(start.placement)
        played.engine, played.attempt, played.sent_s = engine, start.attempt, self.now
        played.predicted_ttft_s = start.predicted_ttft_s
        played.predicted_tpot_s = start.predicted_tpot_s
        if engine in self._dead:
            self._fail(start.request_id)
            return
        arrival = played.arrival
        self._add(
            engine,
            Resident(
                start.request_id,
                arrival.request.prompt_tokens,
                arrival.output_tokens,
                arrival.content,
            ),
        )

    def _add(self, engine: int, resident: Resident) -> None:
        if engine in self._dead:
            return
        self.engines[engine].add(resident)
        if engine not in self._stepping:
            self._begin(engine)

    def _begin(self, engine: int) -> None:
        took_s = self.engines[engine].begin()
        if took_s <= 0.0:
            self._stepping.discard(engine)
            return
        self._stepping.add(engine)
        end_s = self.now + took_s
        limit_s = self._power_limit_s
        until_s = end_s + self.release_s
        from_s = max(self.now, self._powered_until_s[engine])
        if limit_s is not None:
            until_s = min(until_s, limit_s)
        self.powered_s += max(0.0, until_s - from_s)
        self._powered_until_s[engine] = max(self._powered_until_s[engine], until_s)
        self._at(end_s, partial(self._step_ends, engine))

    def _step_ends(self, engine: int) -> None:
        if engine in self._dead:
            self._stepping.discard(engine)
            return
        step = self.engines[engine].finish(self.now)
        self._begin(engine)  # before anybody is told, as vLLM's engine does
        for resident in step.first:
            if (played := self.played.get(resident.name)) is not None:
                played.first_s = self.now
                self._progressed(resident, played)
        for resident in step.ended:
            if (played := self.played.get(resident.name)) is None:
                continue
            played.ended_s = self.now
            self._open -= 1
            played.longest_gap_s = max(resident.longest_gap_s, played.tpot_s or 0.0)
            self._tell(
                AttemptEnded(
                    request_id=resident.name,
                    attempt=played.attempt,
                    outcome=AttemptOutcome.OK,
                    prompt_tokens=resident.prompt_tokens,
                    cached_tokens=resident.cached_tokens,
                    output_tokens=resident.generated,
                )
            )

    def _progressed(self, resident: Resident, played: Played) -> None:
        if resident.generated > played.told_tokens:
            played.told_tokens = resident.generated
            self._tell(
                Progress(
                    request_id=resident.name,
                    attempt=played.attempt,
                    output_tokens=resident.generated,
                )
            )

    def _progress(self) -> None:
        for engine in self.engines:
            for resident in tuple(engine.running):
                played = self.played.get(resident.name)
                if played is not None and played.ended_s is None:
                    self._progressed(resident, played)
        if not self._is_over:
            self._at(self.now + self.progress_s, self._progress)

    def _tick(self) -> None:
        self._perform_tick()
        if not self._is_over:
            self._at(self.now + TICK_S, self._tick)

    def _perform_tick(self) -> None:
        tick = self.decider.tick(self.now)
        self._perform(tick.actions)
        wake_s = tick.next_wake_s
        if wake_s is not None and self.now < wake_s < min(self._wake_s, self.now + TICK_S):
            self._wake_s = wake_s
            self._at(wake_s, self._wake)

    def _wake(self) -> None:
        self._wake_s = float("inf")
        self._perform_tick()

    def _report(self) -> None:
        silent_from_s, silent_to_s = self.trouble.silent
        if not silent_from_s <= self.now < silent_to_s:
            for number, engine in enumerate(self.engines):
                if number not in self._dead:
                    report = _report_of(self.names[number], engine, self.now)
                    self._at(self.now + REPORT_LAG_S, partial(self._tell, report))
        if not self._is_over:
            self._at(self.now + REPORT_S, self._report)

    def _evict(self, evict: Evict) -> None:
        played = self.played[evict.request_id]
        if played.engine is None or played.ended_s is not None or played.attempt != evict.attempt:
            return
        if played.first_s is not None:
            return
        self.engines[played.engine].drop(evict.request_id)
        self._end(evict.request_id, AttemptOutcome.EVICTED, Fault.NONE, evict.reason)

    def _fail(self, request_id: str) -> None:
        self._end(request_id, AttemptOutcome.RETRYABLE, Fault.ABSENT, "connection refused")

    def _end(self, request_id: str, outcome: AttemptOutcome, fault: Fault, detail: str) -> None:
        played = self.played[request_id]
        attempt, played.first_s, played.told_tokens = played.attempt, None, 0
        self._tell(
            AttemptEnded(
                request_id=request_id,
                attempt=attempt,
                outcome=outcome,
                fault=fault,
                detail=detail,
                output_tokens=0,
            )
        )

    def _slow(self, engine: int, factor: float) -> None:
        self.engines[engine].pace = factor

    def _die(self, engine: int) -> None:
        """Loses its requests: those without output are tried again, the others have failed."""
        self._dead.add(engine)
        for resident in self.engines[engine].clear():
            played = self.played.get(resident.name)
            if played is None:
                continue
            if played.first_s is None:
                self._fail(resident.name)
            else:
                played.refused = True
                self._open -= 1
                self._end(resident.name, AttemptOutcome.FAILED, Fault.PLACEMENT, "cut")

    def _seen(self, engine: int, *, serving: bool) -> None:
        if serving:
            self._dead.discard(engine)
        self._tell(ServingChanged(placement=self.names[engine], serving=serving, reason="probed"))


def _report_of(name: str, engine: RefereeEngine, now: float) -> EngineReport:
    """What vLLM's metrics would tell."""
    size = engine.size
    return EngineReport(
        placement=name,
        at_s=now,
        running=len(engine.running),
        waiting=len(engine.waiting),
        kv_usage=min(1.0, engine.used_tokens / size.kv_tokens),
        prompt_tokens_total=engine.prompt_tokens,
        generation_tokens_total=engine.output_tokens,
        kv_capacity_tokens=size.kv_tokens,
        context_tokens=size.kv_tokens,
        counts=EngineCounts(
            gaps=engine.decoded_gaps,
            gaps_s=engine.decoded_gaps_s,
            first_tokens=engine.first_tokens,
            steps=engine.steps,
            cached_prompt_tokens=engine.cached_tokens,
            preemptions=engine.preemptions,
        ),
    )
