"""Whatever happens in whatever order: every request ends once, and no bound is broken."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from scheduler.contract import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    Cancelled,
    EngineReport,
    Evict,
    PlacementKind,
    Progress,
    ServingChanged,
    SloClass,
    Start,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.placement_state import Placement
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.requests_made import request

QUEUE = QueueLimits(requests=3, size_bytes=100)
ATTEMPTS = 3
LOCALS = ("a", "b")
PLACEMENTS = (
    *(
        Placement(
            name=name,
            kind=PlacementKind.SELF_HOSTED,
            model="moe",
            max_running=3,
            kv_capacity_tokens=1000,
            step_model=QWEN3_30B_H100,
        )
        for name in LOCALS
    ),
    Placement(name="far", kind=PlacementKind.REMOTE, model="moe", max_running=2, remote_class="eu"),
)


class SchedulerMachine(RuleBasedStateMachine):
    """The shell's part, with all it may do; a model of who is where."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.core = Scheduler(PLACEMENTS, SchedulerLimits(queue=QUEUE, attempts=ATTEMPTS))
        self.submitted: set[str] = set()
        self.waiting: set[str] = set()
        self.running: dict[str, Start] = {}
        self.local_only: set[str] = set()
        self.batch: set[str] = set()
        self.evictions: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        for placement in PLACEMENTS:
            self.set_serving(placement.name, True)

    def take(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            if isinstance(action, Evict):
                assert action.request_id in self.batch
                assert self.running[action.request_id].attempt == action.attempt
                assert self.evictions[action.request_id] < 3
                continue
            assert action.request_id in self.waiting, "an action for a request that does not wait"
            self.waiting.remove(action.request_id)
            if isinstance(action, Start):
                self.check_kv(action)
                assert action.attempt <= ATTEMPTS + self.evictions[action.request_id]
                assert action.placement != "far" or action.request_id not in self.local_only
                self.running[action.request_id] = action
            else:
                self.ends[action.request_id] += 1

    def check_kv(self, action: Start) -> None:
        """No start fills a KV cache beyond what is planned; answers may outgrow that later."""
        [state] = [s for s in self.core.placements if s.facts.name == action.placement]
        if state.facts.kv_capacity_tokens is not None and len(state.residents) > 1:
            whole = state.kv_reserved_tokens + math.sqrt(state.kv_variance)
            capacity = state.facts.kv_capacity_tokens
            assert whole <= capacity or (self.learnt() and state.kv_tokens <= capacity)

    def learnt(self) -> bool:
        """Whether ends of answers are planned, not only the sum of their expected lengths."""
        return self.core._model_states["moe"].fleet.lengths.learnt

    @rule(placement=st.sampled_from([p.name for p in PLACEMENTS]), serving=st.booleans())
    def set_serving(self, placement: str, serving: bool) -> None:
        changed = ServingChanged(placement=placement, serving=serving, reason="")
        self.take(self.core.handle(changed, self.now))

    @rule(
        slo_class=st.sampled_from(SloClass),
        prompt_tokens=st.integers(1, 1500),
        max_output_tokens=st.integers(1, 400),
        choices=st.integers(1, 4),
        size_bytes=st.integers(1, 60),
        priority=st.integers(-10, 10),
        local=st.booleans(),
        deadline_s=st.floats(0.0, 40.0),
    )
    def submit(
        self,
        slo_class: SloClass,
        prompt_tokens: int,
        max_output_tokens: int,
        choices: int,
        size_bytes: int,
        priority: int,
        local: bool,
        deadline_s: float,
    ) -> None:
        name = f"r{len(self.submitted)}"
        self.submitted.add(name)
        self.waiting.add(name)
        if local:
            self.local_only.add(name)
        if slo_class is SloClass.BATCH:
            self.batch.add(name)
        made = request(
            name,
            slo_class,
            arrival_s=self.now,
            deadline_s=self.now + deadline_s,
            prompt_tokens=prompt_tokens,
            max_output_tokens=max_output_tokens,
            choices=choices,
            size_bytes=size_bytes,
            priority=priority,
            remote_classes=frozenset() if local else frozenset({"eu"}),
        )
        self.take(self.core.submit(made, self.now))

    @rule(pick=st.integers(0), output_tokens=st.integers(0, 500))
    def progress(self, pick: int, output_tokens: int) -> None:
        if self.running:
            name, dispatch = sorted(self.running.items())[pick % len(self.running)]
            event = Progress(request_id=name, attempt=dispatch.attempt, output_tokens=output_tokens)
            self.take(self.core.handle(event, self.now))

    @rule(pick=st.integers(0), outcome=st.sampled_from(AttemptOutcome))
    def end(self, pick: int, outcome: AttemptOutcome) -> None:
        if self.running:
            name = sorted(self.running)[pick % len(self.running)]
            dispatch = self.running.pop(name)
            self.evictions[name] += outcome is AttemptOutcome.EVICTED
            if outcome in (AttemptOutcome.RETRYABLE, AttemptOutcome.EVICTED):
                self.waiting.add(name)
            else:
                self.ends[name] += 1
            event = AttemptEnded(
                request_id=name, attempt=dispatch.attempt, outcome=outcome, output_tokens=5
            )
            self.take(self.core.handle(event, self.now))
            self.take(self.core.handle(event, self.now))  # told twice: ignored

    @rule(pick=st.integers(0))
    def cancel(self, pick: int) -> None:
        alive = sorted(self.waiting | self.running.keys())
        if alive:
            name = alive[pick % len(alive)]
            self.waiting.discard(name)
            self.running.pop(name, None)
            self.ends[name] += 1
            self.take(self.core.handle(Cancelled(request_id=name), self.now))

    @rule(placement=st.sampled_from(LOCALS), running=st.integers(0, 6), capacity=st.none())
    def report(self, placement: str, running: int, capacity: None) -> None:
        event = EngineReport(
            placement=placement,
            at_s=self.now,
            running=running,
            waiting=0,
            kv_usage=0.0,
            prompt_tokens_total=0,
            generation_tokens_total=0,
        )
        self.take(self.core.handle(event, self.now))

    @rule(passed_s=st.floats(0.0, 20.0))
    def tick(self, passed_s: float) -> None:
        self.now += passed_s
        tick = self.core.tick(self.now)
        self.take(tick.actions)
        assert (tick.next_wake_s is not None) == (self.core.queued_requests > 0)
        assert tick.next_wake_s is None or tick.next_wake_s > self.now

    @invariant()
    def nothing_is_lost_and_nothing_ends_twice(self) -> None:
        ended = set(self.ends)
        assert all(count == 1 for count in self.ends.values())
        assert ended | self.waiting | self.running.keys() == self.submitted
        assert len(ended) + len(self.waiting) + len(self.running) == len(self.submitted)
        assert self.core.queued_requests == len(self.waiting) <= QUEUE.requests

    @invariant()
    def no_placement_holds_more_than_it_can(self) -> None:
        for state in self.core.placements:
            mine = {n for n, d in self.running.items() if d.placement == state.facts.name}
            assert state.residents.keys() == mine
            residents = state.residents.values()
            assert state.sequences == sum(r.request.choices for r in residents)
            assert state.sequences <= state.facts.max_running or len(residents) == 1
            assert state.kv_tokens == sum(r.kv_tokens for r in residents)
            reserved = sum(r.kv_reserved_tokens for r in residents)
            assert state.kv_reserved_tokens == reserved
            variance = sum(r.kv_spread_tokens**2 for r in residents)
            assert state.kv_variance == pytest.approx(variance, abs=1e-6)
            assert state.pending.keys() == {n for n in mine if not state.residents[n].output_tokens}

    def teardown(self) -> None:
        """At the end all who wait leave: by a place, by a refusal, or by the passing of time."""
        for _ in range(2 * len(self.submitted) + 2):
            if self.running:
                self.end(0, AttemptOutcome.OK)
            elif self.waiting:
                self.tick(1000.0)
        assert not self.waiting | self.running.keys()
        assert repr(self.core) == "<Scheduler: 0 queued, 0 running>"


SchedulerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestScheduler = SchedulerMachine.TestCase
