"""Reloads at random under random load: nothing is lost, and one that changes nothing is not felt.

Two schedulers are told the same. Only the first is also told, now and then, to take the present
configuration once more: its answers and all that it has learnt stay those of the other one.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
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
    Event,
    Evict,
    Fault,
    Objective,
    PlacementKind,
    PricesChanged,
    Progress,
    RefusalReason,
    ServingChanged,
    SloClass,
    Start,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.engine_steps import EngineCounts
from scheduler.limits.rate_limit import NO_RATE_LIMITS, RateLimits
from scheduler.limits.retry_budget import RetryLimits
from scheduler.placement_state import Placement, PlacementState
from scheduler.prefix.token_blocks import (
    BlocksStored,
    CacheEvents,
    CacheReset,
    TokenBlocks,
    chain,
    root,
)
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.requests_made import request

MODELS = ("moe", "other")
NAMES = ("a", "b", "c", "far", "near")
PRIORS = (QWEN3_30B_H100, QWEN3_30B_H100.scaled(base=2.0))
TOKEN_IDS = tuple(range(64))
ASKED = (TokenBlocks(block_tokens=16, names=tuple(chain(root(16, ""), TOKEN_IDS, 16))),)


@st.composite
def placements(draw: st.DrawFn) -> tuple[Placement, ...]:
    made = []
    objective = draw(st.sampled_from(Objective))
    for name in draw(st.permutations(NAMES)):
        if draw(st.integers(0, 3)) == 0:
            continue
        remote = name in ("far", "near")
        facts = Placement(
            name=name,
            kind=PlacementKind.REMOTE if remote else PlacementKind.SELF_HOSTED,
            model=draw(st.sampled_from(("moe", "moe", "other"))),
            max_running=draw(st.integers(1, 4)),
            incarnation=draw(st.sampled_from(("", "", "", "1"))),
            nano_usd_per_s=draw(st.sampled_from((None, 3))),
            objective=objective,
        )
        if remote:
            limits = draw(st.sampled_from((NO_RATE_LIMITS, RateLimits(requests_per_minute=9))))
            facts = replace(facts, remote_class="eu", send_limits=limits)
        else:
            facts = replace(
                facts,
                group=draw(st.sampled_from(("", "g"))) and f"g-{facts.model}",
                kv_capacity_tokens=draw(st.sampled_from((None, 1000, 3000))),
                step_model=draw(st.sampled_from(PRIORS)),
            )
        made.append(facts)
    return tuple(made)


LIMITS = st.builds(
    SchedulerLimits,
    queue=st.builds(QueueLimits, requests=st.integers(1, 5), size_bytes=st.integers(50, 200)),
    attempts=st.integers(1, 3),
    retries=st.builds(RetryLimits, share=st.floats(0.0, 1.0), reserve=st.floats(0.0, 5.0)),
)
START = SchedulerLimits(queue=QueueLimits(requests=4, size_bytes=150), attempts=3)


def learnt(core: Scheduler, now: float) -> dict[str, object]:
    """What the scheduler has learnt, in figures that can be compared."""
    figures: dict[str, object] = {"snapshot": core.snapshot(now)}
    for state in core.placements:
        name = state.facts.name
        figures[f"gate {name}"] = core.admission_report(name, now)
        if state.facts.kind is PlacementKind.SELF_HOSTED:
            figures[f"fit {name}"] = core.step_model(name)
    for model, model_state in core._model_states.items():
        lengths = model_state.fleet.lengths
        asked = request("q", model=model, prompt_tokens=5000, prefix_blocks=(0, 1, 2))
        figures[f"lengths {model}"] = [lengths.mean(key, 4096) for key in ("", "k")]
        figures[f"hits {model}"] = model_state.hit_tokens(asked).tolist()
        figures[f"caches {model}"] = model_state.engine_caches.hit_tokens(ASKED).tolist()
        counters = model_state.queue.counters
        figures[f"served {model}"] = [counters.served(tenant) for tenant in "xy"]
    return figures


class ReconfigureMachine(RuleBasedStateMachine):
    """The shell's part, and a model of where each request is."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.core, self.twin = Scheduler((), START), Scheduler((), START)
        self.limits = START
        self.models: dict[str, str] = {}
        self.waiting: set[str] = set()
        self.running: dict[str, Start] = {}
        self.homes: dict[str, PlacementState] = {}
        self.ends: Counter[str] = Counter()
        self.queued = dict.fromkeys(MODELS, 0)
        self.reports = 0

    def states(self) -> dict[str, PlacementState]:
        return {state.facts.name: state for state in self.core.placements}

    def tell(self, event: Event) -> None:
        actions = self.core.handle(event, self.now)
        assert actions == self.twin.handle(event, self.now)
        self.take(actions)

    def take(self, actions: tuple[Action, ...]) -> None:
        states = self.states()
        for action in actions:
            name = action.request_id
            if isinstance(action, Evict):
                assert self.running[name].attempt == action.attempt
                assert self.homes[name] is states[self.running[name].placement]
                continue
            assert name in self.waiting, "an action for a request that does not wait"
            self.waiting.remove(name)
            if isinstance(action, Start):
                state = states[action.placement]
                assert state.serving
                assert state.facts.model == self.models[name]
                self.running[name], self.homes[name] = action, state
            else:
                gone = not self.core.has_model(self.models[name])
                assert gone or action.reason is not RefusalReason.UNKNOWN_MODEL
                self.ends[name] += 1

    @rule(made=placements(), limits=st.none() | LIMITS, serve=st.booleans())
    def reconfigure(
        self, made: tuple[Placement, ...], limits: SchedulerLimits | None, serve: bool
    ) -> None:
        before = self.states()
        self.limits = limits or self.limits
        actions = self.core.reconfigure(made, self.limits, self.now)
        assert actions == self.twin.reconfigure(made, self.limits, self.now)
        self.take(actions)
        after = self.states()
        assert tuple(state.facts for state in after.values()) == made
        for name, state in after.items():
            assert state is before.get(name) or not state.serving
        if serve:
            for name in after:
                self.set_serving(name, True)

    @rule()
    def reconfigure_with_the_same(self) -> None:
        same = tuple(state.facts for state in self.core.placements)
        assert self.core.reconfigure(same, self.limits, self.now) == ()

    @rule(placement=st.sampled_from(NAMES), serving=st.booleans())
    def set_serving(self, placement: str, serving: bool) -> None:
        self.tell(ServingChanged(placement=placement, serving=serving, reason=""))

    @rule(
        model=st.sampled_from(("moe", "moe", "other")),
        slo_class=st.sampled_from(SloClass),
        prompt_tokens=st.integers(1, 1500),
        max_output_tokens=st.integers(1, 400),
        tenant=st.sampled_from("xy"),
        local=st.booleans(),
        reuse=st.booleans(),
    )
    def submit(
        self,
        model: str,
        slo_class: SloClass,
        prompt_tokens: int,
        max_output_tokens: int,
        tenant: str,
        local: bool,
        reuse: bool,
    ) -> None:
        name = f"r{len(self.models)}"
        if reuse and (alive := sorted(self.waiting | self.running.keys())):
            name = alive[0]
        made = request(
            name,
            slo_class,
            model=model,
            arrival_s=self.now,
            deadline_s=self.now + 30.0,
            prompt_tokens=prompt_tokens,
            max_output_tokens=max_output_tokens,
            size_bytes=20,
            tenant=tenant,
            key_id="k",
            prefix_blocks=tuple(range(prompt_tokens // 512)),
            token_blocks=ASKED,
            remote_classes=frozenset() if local else frozenset({"eu"}),
        )
        if name in self.models:
            for core in (self.core, self.twin):
                with pytest.raises(ValueError, match="in use"):
                    core.submit(made, self.now)
            return
        self.models[name] = model
        self.waiting.add(name)
        actions = self.core.submit(made, self.now)
        assert actions == self.twin.submit(made, self.now)
        self.take(actions)

    @rule(pick=st.integers(0), output_tokens=st.integers(0, 500))
    def progress(self, pick: int, output_tokens: int) -> None:
        if self.running:
            name, started = sorted(self.running.items())[pick % len(self.running)]
            self.tell(
                Progress(request_id=name, attempt=started.attempt, output_tokens=output_tokens)
            )

    @rule(
        pick=st.integers(0), outcome=st.sampled_from(AttemptOutcome), fault=st.sampled_from(Fault)
    )
    def end(self, pick: int, outcome: AttemptOutcome, fault: Fault = Fault.NONE) -> None:
        if self.running:
            name = sorted(self.running)[pick % len(self.running)]
            started = self.running.pop(name)
            del self.homes[name]
            if outcome in (AttemptOutcome.RETRYABLE, AttemptOutcome.EVICTED):
                self.waiting.add(name)
            else:
                self.ends[name] += 1
            event = AttemptEnded(
                request_id=name,
                attempt=started.attempt,
                outcome=outcome,
                fault=Fault.NONE if outcome is AttemptOutcome.OK else fault,
                output_tokens=5,
            )
            self.tell(event)
            self.tell(event)  # told twice: ignored

    @rule(pick=st.integers(0))
    def cancel(self, pick: int) -> None:
        alive = sorted(self.waiting | self.running.keys())
        if alive:
            name = alive[pick % len(alive)]
            self.waiting.discard(name)
            self.running.pop(name, None)
            self.homes.pop(name, None)
            self.ends[name] += 1
            self.tell(Cancelled(request_id=name))

    @rule(placement=st.sampled_from(NAMES), running=st.integers(0, 6), step_s=st.floats(0.01, 0.05))
    def report(self, placement: str, running: int, step_s: float) -> None:
        for _ in range(3):
            self.reports += 1
            self.now += 1.0
            gaps = 200 * self.reports
            counts = EngineCounts(
                gaps=gaps,
                gaps_s=gaps * step_s,
                steps=50 * self.reports,
                first_tokens=0,
                cached_prompt_tokens=0,
            )
            self.tell(
                EngineReport(
                    placement=placement,
                    at_s=self.now,
                    running=running,
                    waiting=0,
                    kv_usage=0.01,
                    prompt_tokens_total=0,
                    generation_tokens_total=gaps,
                    kv_capacity_tokens=2000,
                    counts=counts,
                )
            )

    @rule(placement=st.sampled_from(NAMES), blocks=st.integers(0, 4), reset=st.booleans())
    def cache(self, placement: str, blocks: int, reset: bool) -> None:
        stored = BlocksStored(
            hashes=tuple(range(blocks)),
            parent=None,
            token_ids=TOKEN_IDS[: 16 * blocks],
            block_tokens=16,
            salt="",
        )
        changes = (CacheReset(known=True, emptied=True), stored) if reset else (stored,)
        self.tell(CacheEvents(placement=placement, rank=0, ranks=1, changes=changes))

    @rule(placement=st.sampled_from(NAMES), price=st.sampled_from((None, 5)))
    def price(self, placement: str, price: int | None) -> None:
        self.tell(PricesChanged(placement=placement, rates=None, nano_usd_per_s=price))

    @rule(passed_s=st.floats(0.0, 20.0))
    def tick(self, passed_s: float) -> None:
        self.now += passed_s
        tick = self.core.tick(self.now)
        assert tick == self.twin.tick(self.now)
        self.take(tick.actions)
        assert (tick.next_wake_s is not None) == (self.core.queued_requests > 0)

    @invariant()
    def nothing_is_lost_and_nothing_ends_twice(self) -> None:
        ended = set(self.ends)
        assert all(count == 1 for count in self.ends.values())
        assert ended | self.waiting | self.running.keys() == self.models.keys()
        assert len(ended) + len(self.waiting) + len(self.running) == len(self.models)
        assert self.core.queued_requests == len(self.waiting)
        for model in MODELS:
            state = self.core._model_states.get(model)
            queued = 0 if state is None else len(state.queue)
            assert queued <= max(self.limits.queue.requests, self.queued[model])
            self.queued[model] = queued

    @invariant()
    def every_attempt_is_counted_where_it_runs(self) -> None:
        for state in self.core.placements:
            mine = {name for name, home in self.homes.items() if home is state}
            assert state.residents.keys() == mine
        for model_state in self.core._model_states.values():
            fleet = model_state.fleet
            for group in fleet.groups:
                residents = [r for m in group.members for r in fleet.states[m].residents]
                assert sorted(group.streams._ids) == sorted(residents)
                own = sum(fleet.states[m].sequences for m in group.members)
                assert own <= group.batch
            assert model_state.batch.keys() <= self.running.keys()
            for name, index in model_state.batch.items():
                assert fleet.states[index] is self.homes[name]
            assert np.array_equal(fleet.serving, [state.serving for state in fleet.states])
        homes = self.homes.values()
        gone = {self.models[n] for n in self.running} - self.core._model_states.keys()
        assert self.core._leaving.keys() == gone
        assert repr(self.core).endswith(f"{len(homes)} running>")

    @invariant()
    def a_reload_without_a_change_is_not_felt(self) -> None:
        assert learnt(self.core, self.now) == learnt(self.twin, self.now)

    def teardown(self) -> None:
        for _ in range(2 * len(self.models) + 2):
            if self.running:
                self.end(0, AttemptOutcome.OK)
            elif self.waiting:
                self.tick(1000.0)
        assert not self.waiting | self.running.keys()
        core = self.core
        assert not core._tracked
        assert not core._leaving
        for gate in core._admission._admission.values():
            assert not gate.running
        assert core._admission._admission.keys() == self.states().keys()
        assert core.reconfigure((), self.limits, self.now) == ()
        assert not core.placements
        assert not core._model_states
        assert not core._admission._admission


ReconfigureMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestReconfigure = ReconfigureMachine.TestCase
