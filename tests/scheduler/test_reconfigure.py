"""A reload changes the one scheduler: what stays keeps all that was learnt, nothing is lost."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scheduler.contract import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    Cancelled,
    EngineCounts,
    EngineReport,
    Evict,
    Fault,
    Objective,
    PlacementKind,
    PricesChanged,
    Progress,
    RefusalReason,
    Refuse,
    ServingChanged,
    SloClass,
    Start,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.limits.breaker import BreakerPhase
from scheduler.limits.rate_limit import RateLimits
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

EU = frozenset({"eu"})
LIMITS = SchedulerLimits(queue=QueueLimits(requests=8, size_bytes=10_000), attempts=3)


def local(name: str, model: str = "moe", *, slots: int = 1) -> Placement:
    return Placement(
        name=name,
        kind=PlacementKind.LOCAL,
        model=model,
        max_running=slots,
        kv_capacity_tokens=100_000,
        step_model=QWEN3_30B_H100,
    )


def remote(name: str = "far", model: str = "moe", *, slots: int = 4) -> Placement:
    return Placement(
        name=name, kind=PlacementKind.REMOTE, model=model, max_running=slots, remote_class="eu"
    )


def scheduler(*placements: Placement, limits: SchedulerLimits = LIMITS) -> Scheduler:
    made = Scheduler(placements, limits)
    for placement in placements:
        serve(made, placement.name)
    return made


def serve(core: Scheduler, name: str, now: float = 0.0) -> tuple[Action, ...]:
    return core.handle(ServingChanged(placement=name, serving=True, reason=""), now)


def end(
    core: Scheduler,
    name: str,
    outcome: AttemptOutcome = AttemptOutcome.OK,
    *,
    now: float = 1.0,
    attempt: int = 1,
    fault: Fault = Fault.NONE,
    tokens: int = 10,
) -> tuple[Action, ...]:
    event = AttemptEnded(
        request_id=name, attempt=attempt, outcome=outcome, fault=fault, output_tokens=tokens
    )
    return core.handle(event, now)


def places(actions: tuple[Action, ...]) -> list[tuple[str, str]]:
    """Who was started where, or why not."""
    return [
        (a.request_id, a.placement if isinstance(a, Start) else a.reason)
        for a in actions
        if not isinstance(a, Evict)
    ]


def state_of(core: Scheduler, name: str) -> PlacementState:
    [state] = [state for state in core.placements if state.facts.name == name]
    return state


def report(name: str, at_s: float, *, step_s: float = 0.0, gaps: int = 0) -> EngineReport:
    return EngineReport(
        placement=name,
        at_s=at_s,
        running=4,
        waiting=0,
        kv_usage=0.01,
        prompt_tokens_total=0,
        generation_tokens_total=gaps,
        kv_capacity_tokens=100_000,
        counts=EngineCounts(gaps=gaps, gaps_s=gaps * step_s, steps=gaps // 4),
    )


def teach(core: Scheduler, name: str, *, step_s: float = 0.02, start_s: float = 0.0) -> float:
    """Reports of an engine that takes `step_s` for a token; when the last one came."""
    now = start_s
    for second in range(40):
        now = start_s + second
        core.handle(report(name, now, step_s=step_s, gaps=second * 200), now)
    return now


def start(core: Scheduler, name: str, now: float = 0.0, **facts: Any) -> str:
    """Submits a request that starts at once; where."""
    made = request(name, arrival_s=now, **facts)
    [action] = core.submit(made, now)
    assert isinstance(action, Start), action
    return action.placement


def idle(core: Scheduler) -> None:
    """Nothing of any request is left."""
    assert repr(core) == "<Scheduler: 0 queued, 0 running>"
    assert not core._tracked
    assert not core._leaving
    assert all(not state.residents for state in core.placements)
    for gate in core._admission._admission.values():
        assert not gate.running
    for model_state in core._model_states.values():
        assert not model_state.batch
        assert all(not len(group.streams) for group in model_state.fleet.groups)


def test_an_added_placement_is_out_of_service_until_it_is_told_to_serve() -> None:
    core = scheduler(local("a"))
    assert start(core, "r1") == "a"
    core.submit(request("r2"), 0.0)
    assert core.reconfigure((local("a"), local("b")), LIMITS, 0.1) == ()
    assert [state.facts.name for state in core.placements] == ["a", "b"]
    assert not state_of(core, "b").serving
    assert state_of(core, "a").serving
    assert places(serve(core, "b", 0.2)) == [("r2", "b")]
    end(core, "r1")
    end(core, "r2")
    idle(core)


def test_a_removed_placement_takes_nothing_and_its_request_ends_normally() -> None:
    core = scheduler(local("a", slots=2), local("b", slots=2))
    where = {start(core, name): name for name in ("r1", "r2")}
    assert set(where) == {"a", "b"}
    core.reconfigure((local("b", slots=2),), LIMITS, 0.1)
    assert [state.facts.name for state in core.placements] == ["b"]
    assert start(core, "r3", 0.2) == "b"
    gone = where["a"]
    assert core.handle(Progress(request_id=gone, attempt=1, output_tokens=3), 0.3) == ()
    with pytest.raises(ValueError, match="in use"):
        core.submit(request(gone), 0.3)
    assert repr(core) == "<Scheduler: 0 queued, 3 running>"
    end(core, gone)
    end(core, where["b"])
    core.handle(Cancelled(request_id="r3"), 2.0)
    idle(core)


def test_a_request_that_fails_on_a_removed_placement_is_tried_on_another() -> None:
    core = scheduler(local("a"))
    start(core, "r1")
    core.reconfigure((local("b"),), LIMITS, 0.1)
    serve(core, "b", 0.2)
    failed = end(core, "r1", AttemptOutcome.RETRYABLE, fault=Fault.PLACEMENT)
    assert places(failed) == [("r1", "b")]
    assert core.admission_report("b", 1.0).phase is BreakerPhase.CLOSED
    end(core, "r1", attempt=2)
    idle(core)


def test_the_service_of_a_removed_placement_is_settled_with_its_tenant() -> None:
    kept, changed = scheduler(local("a"), local("b")), scheduler(local("a"), local("b"))
    for core in (kept, changed):
        start(core, "r1", tenant="x")
        start(core, "r2", tenant="y")
    changed.reconfigure((local("b"),), LIMITS, 0.1)
    for core in (kept, changed):
        for name in ("r1", "r2"):
            core.handle(Progress(request_id=name, attempt=1, output_tokens=50), 0.5)
            end(core, name, tokens=50)
    served = [
        [core._model_states["moe"].queue.counters.served(tenant) for tenant in ("x", "y")]
        for core in (kept, changed)
    ]
    assert served[0] == pytest.approx(served[1])
    assert min(served[0]) > 0


def test_two_placements_of_one_name_are_refused_and_nothing_changes() -> None:
    core = scheduler(local("a"))
    with pytest.raises(ValueError, match="there twice"):
        core.reconfigure((local("b"), local("b")), LIMITS, 0.0)
    assert [state.facts.name for state in core.placements] == ["a"]


def test_changed_facts_apply_to_a_placement_that_stays() -> None:
    core = scheduler(local("a"))
    start(core, "r1")
    core.submit(request("r2"), 0.0)
    more = replace(local("a", slots=2), nano_usd_per_s=7, objective=Objective.COST)
    assert places(core.reconfigure((more,), LIMITS, 0.1)) == [("r2", "a")]
    assert state_of(core, "a").facts == more
    fleet = core._model_states["moe"].fleet
    assert fleet.nano_usd_per_s.tolist() == [7]
    assert core.decisions.get("r2") is not None
    core.reconfigure((replace(more, kv_capacity_tokens=10, context_tokens=50),), LIMITS, 0.2)
    [refused] = core.submit(request("r3", prompt_tokens=60, prompt_tokens_exact=True), 0.2)
    assert isinstance(refused, Refuse)
    assert refused.reason is RefusalReason.TOO_LONG


def test_prices_of_the_configuration_replace_dated_ones() -> None:
    core = scheduler(local("a"))
    core.handle(PricesChanged(placement="a", rates=None, nano_usd_per_s=5), 0.0)
    core.reconfigure((replace(local("a"), nano_usd_per_s=5),), LIMITS, 0.1)
    assert state_of(core, "a").facts.nano_usd_per_s == 5
    core.reconfigure((local("a"),), LIMITS, 0.1)
    assert state_of(core, "a").facts.nano_usd_per_s is None


def test_a_changed_class_of_a_remote_closes_it_to_requests_of_the_old_one() -> None:
    core = scheduler(remote())
    assert start(core, "r1", remote_classes=EU) == "far"
    core.reconfigure((replace(remote(), remote_class="us"),), LIMITS, 0.1)
    [refused] = core.submit(request("r2", remote_classes=EU), 0.2)
    assert isinstance(refused, Refuse)
    assert start(core, "r3", 0.3, remote_classes=frozenset({"us"})) == "far"


def test_step_fits_reports_and_lengths_stay_with_the_placements_that_stay() -> None:
    core = scheduler(local("a", slots=9), local("b", slots=9))
    now = teach(core, "b")
    for number in range(30):
        start(core, f"r{number}", now, key_id="k")
        end(core, f"r{number}", now=now, tokens=900)
    fitted, before = core.step_model("b", now), core.step_model("a", now)
    assert fitted.base_s > 1.5 * before.base_s
    lengths = core._model_states["moe"].fleet.lengths
    mean = lengths.mean("k", 4096)
    assert mean > 400
    newest = state_of(core, "b").report
    assert newest is not None
    core.reconfigure((local("c"), local("b", slots=5), remote()), LIMITS, now)
    fleet = core._model_states["moe"].fleet
    assert core.step_model("b", now) == fitted
    assert fleet.lengths.mean("k", 4096) == mean
    assert state_of(core, "b").report is newest
    assert fleet.groups[fleet.index["b"]].meter._report is newest
    assert core.step_model("c", now) == before


def test_a_changed_prior_begins_the_fit_of_its_group_anew() -> None:
    core = scheduler(local("a", slots=9), local("b", slots=9))
    now = teach(core, "a")
    teach(core, "b")
    slower = QWEN3_30B_H100.scaled(base=3.0)
    where = start(core, "r1", now)
    fitted = {name: core.step_model(name, now) for name in ("a", "b")}
    other = "b" if where == "a" else "a"
    changed = replace(local(where, slots=9), step_model=slower)
    core.reconfigure((changed, local(other, slots=9)), LIMITS, now)
    assert core.step_model(where, now) == slower
    assert core.step_model(other, now) == fitted[other]
    fleet = core._model_states["moe"].fleet
    assert len(fleet.groups[fleet.index[where]].streams) == 1
    end(core, "r1", now=now + 1)
    idle(core)


def test_prefix_memory_moves_with_the_placements_that_stay() -> None:
    blocks = tuple(range(1, 9))
    core = scheduler(local("a", slots=9), local("b", slots=9), remote())
    prompt: dict[str, Any] = {"prompt_tokens": 8 * 512 + 1, "prefix_blocks": blocks}
    home = start(core, "r1", **prompt)
    end(core, "r1")
    other = "b" if home == "a" else "a"
    core.reconfigure((local("c"), remote(), local(other, slots=9), local(home)), LIMITS, 1.0)
    names = [state.facts.name for state in core._model_states["moe"].states]
    hits = core._model_states["moe"].hit_tokens(request("r", **prompt))
    assert dict(zip(names, hits.tolist(), strict=True)) == {
        **dict.fromkeys(("c", other, "far"), 0.0),
        home: 8 * 512,
    }
    core.reconfigure((local("d"), local(other, slots=9)), LIMITS, 2.0)
    assert not len(core._model_states["moe"].prefixes)


def test_what_engines_tell_of_their_caches_moves_with_them() -> None:
    token_ids = tuple(range(64))
    core = scheduler(local("a"), local("b"), local("c"))
    for name, count in (("a", 16), ("b", 32), ("c", 48)):
        stored = BlocksStored(
            hashes=tuple(range(count // 16)),
            parent=None,
            token_ids=token_ids[:count],
            block_tokens=16,
            salt="",
        )
        changes = (CacheReset(known=True, emptied=False), stored)
        event = CacheEvents(placement=name, rank=0, ranks=1, changes=changes)
        core.handle(event, 0.0)
    asked = (TokenBlocks(block_tokens=16, names=tuple(chain(root(16, ""), token_ids, 16))),)
    caches = core._model_states["moe"].engine_caches
    assert caches.hit_tokens(asked).tolist() == [16, 32, 48]
    core.reconfigure((local("d"), local("c"), local("b")), LIMITS, 0.1)
    assert caches.hit_tokens(asked).tolist() == [0, 48, 32]
    assert caches.known.tolist() == [False, True, True]
    core.handle(CacheEvents(placement="d", rank=0, ranks=1, changes=changes[:1]), 0.2)
    assert caches.hit_tokens(asked).tolist() == [0, 48, 32]
    assert core.token_block_sizes("moe") == (16,)
    core.reconfigure((local("d"),), LIMITS, 0.3)
    assert len(caches) == 0
    assert core.token_block_sizes("moe") == ()


def test_a_breaker_stays_with_its_placement() -> None:
    core = scheduler(local("a"), local("b"))
    for number in range(5):
        name = f"r{number}"
        core.reconfigure((local("a"),), LIMITS, 0.0)
        start(core, name)
        end(core, name, AttemptOutcome.FAILED, fault=Fault.PLACEMENT)
    assert core.admission_report("a", 1.0).phase is BreakerPhase.OPEN
    core.reconfigure((local("c"), local("a", slots=2)), LIMITS, 1.0)
    assert core.admission_report("a", 1.0).phase is BreakerPhase.OPEN
    assert core.admission_report("c", 1.0).phase is BreakerPhase.CLOSED
    serve(core, "c", 1.0)
    assert {start(core, f"s{i}", 1.0) for i in range(1)} == {"c"}


def test_learnt_slots_and_rate_windows_of_a_remote_stay() -> None:
    facts = replace(remote(), send_limits=RateLimits(requests_per_minute=6))
    core = scheduler(facts)
    for number in range(4):
        start(core, f"r{number}", remote_classes=EU)
    end(core, "r0", AttemptOutcome.CANCELLED, fault=Fault.BUSY, now=0.0)
    assert core.admission_report("far", 0.0).slots == 2
    core.reconfigure((replace(facts, max_running=3), local("a")), LIMITS, 1.0)
    assert core.admission_report("far", 1.0).slots == 2
    for number in range(1, 4):
        end(core, f"r{number}", AttemptOutcome.CANCELLED, now=10.0)
    core.reconfigure((replace(facts, max_running=9),), LIMITS, 10.0)
    assert core.admission_report("far", 10.0).slots == 2
    for number in range(3):  # 6 a minute: 4 are used, one came back in 10 s
        start(core, f"s{number}", 10.0, remote_classes=EU)
        end(core, f"s{number}", AttemptOutcome.CANCELLED, now=10.0)
    assert core.submit(request("last", arrival_s=10.0, remote_classes=EU), 10.0) == ()
    faster = replace(facts, send_limits=RateLimits(requests_per_minute=60))
    assert places(core.reconfigure((faster,), LIMITS, 11.0)) == [("last", "far")]


def test_slots_that_were_never_cut_follow_the_configuration() -> None:
    core = scheduler(remote(slots=2))
    core.reconfigure((remote(slots=5),), LIMITS, 0.0)
    assert core.admission_report("far", 0.0).slots == 5
    core.reconfigure((remote(slots=1),), LIMITS, 0.0)
    assert core.admission_report("far", 0.0).slots == 1


def test_fairness_and_the_queue_stay() -> None:
    cores = [scheduler(local("a")), scheduler(local("a"))]
    for core in cores:
        start(core, "r1", tenant="x")
        for name, tenant in (("r2", "x"), ("r3", "y"), ("r4", "x"), ("r5", "y")):
            core.submit(request(name, tenant=tenant), 0.0)
    assert cores[1].reconfigure((local("b"), local("a")), LIMITS, 0.1) == ()
    assert cores[1].queued_requests == 4
    counters = [core._model_states["moe"].queue.counters for core in cores]
    assert counters[0].served("x") == counters[1].served("x") > 0
    order = ["r1"]
    for _ in range(4):
        first, second = (places(end(core, order[-1])) for core in cores)
        assert first == second
        order.append(first[0][0])
    assert sorted(order) == ["r1", "r2", "r3", "r4", "r5"]


def test_a_changed_model_is_another_placement_under_the_same_name() -> None:
    core = scheduler(local("a", "moe"), local("b", "moe"), local("c", "other"))
    where = {start(core, name): name for name in ("r1", "r2")}
    gone = where["a"]
    changed = (local("a", "other"), local("b", "moe"), local("c", "other"))
    core.reconfigure(changed, LIMITS, 0.1)
    assert not state_of(core, "a").serving
    serve(core, "a", 0.2)
    core.handle(report("a", 0.2), 0.2)
    assert state_of(core, "a").report is not None
    assert {start(core, f"s{i}", 0.3, model="other") for i in range(2)} == {"a", "c"}
    core.handle(Progress(request_id=gone, attempt=1, output_tokens=9), 0.4)
    end(core, gone, AttemptOutcome.FAILED, fault=Fault.PLACEMENT)
    assert core._admission._admission["a"].breaker._recent == type(
        core._admission._admission["a"].breaker._recent
    )(maxlen=20)
    for name in (where["b"], "s0", "s1"):
        end(core, name)
    idle(core)


def test_another_incarnation_begins_anew_and_its_predecessors_requests_end_normally() -> None:
    core = scheduler(local("a", slots=20))
    now = teach(core, "a")
    fitted = core.step_model("a", now)
    blocks: dict[str, Any] = {"prompt_tokens": 600, "prefix_blocks": (7,)}
    start(core, "r1", now, **blocks)
    for number in range(5):
        start(core, f"f{number}", now)
    for number in range(5):
        end(core, f"f{number}", AttemptOutcome.FAILED, fault=Fault.PLACEMENT, now=now)
    assert core.admission_report("a", now).phase is BreakerPhase.OPEN
    moved = replace(local("a", slots=20), incarnation="10.0.0.2")
    core.reconfigure((moved,), LIMITS, now)
    state = state_of(core, "a")
    assert not state.serving
    assert state.report is None
    assert core.admission_report("a", now).phase is BreakerPhase.CLOSED
    assert core.step_model("a", now) == fitted
    model_state = core._model_states["moe"]
    assert model_state.hit_tokens(request("r", **blocks)).tolist() == [0]
    assert model_state.fleet.groups[0].meter._report is None
    assert not len(model_state.fleet.groups[0].streams)
    serve(core, "a", now)
    assert start(core, "r2", now) == "a"
    assert state.sequences == 1
    core.handle(Progress(request_id="r1", attempt=1, output_tokens=5), now)
    for number in range(9):  # ends on the old server say nothing of the new one
        name = "r1" if number == 0 else f"x{number}"
        end(core, name, AttemptOutcome.FAILED, fault=Fault.PLACEMENT, now=now)
    assert not core._admission._admission["a"].breaker._recent
    end(core, "r2", now=now)
    idle(core)


def test_a_remote_of_another_incarnation_keeps_its_account() -> None:
    facts = replace(remote(), send_limits=RateLimits(requests_per_minute=2))
    core = scheduler(facts)
    for name in ("r1", "r2"):
        start(core, name, remote_classes=EU)
    core.reconfigure((replace(facts, incarnation="b"),), LIMITS, 0.0)
    serve(core, "far")
    assert core.submit(request("r3", remote_classes=EU), 0.0) == ()
    end(core, "r1", now=0.0)
    end(core, "r2", now=0.0)
    assert places(core.tick(30.1).actions)[0][0] == "r3"


def test_a_changed_rank_keeps_the_fit_of_its_group_and_the_others_streams() -> None:
    ranks = [replace(local(f"a{i}"), group="a", dp_rank=i) for i in range(2)]
    core = scheduler(*ranks)
    where = {start(core, name): name for name in ("r1", "r2")}
    core.reconfigure((ranks[0],), LIMITS, 0.1)
    fleet = core._model_states["moe"].fleet
    assert len(fleet.groups[0].streams) == fleet.groups[0].batch == 1
    core.reconfigure(ranks, LIMITS, 0.2)
    fleet = core._model_states["moe"].fleet
    assert fleet.grouped
    assert fleet.groups[0] is fleet.groups[1]
    assert fleet.batch.tolist() == [1, 1]
    assert fleet.ranks.tolist() == [2, 2]
    end(core, where["a0"])
    end(core, where["a1"])
    idle(core)


def test_who_waits_for_a_model_that_vanishes_is_refused_and_who_runs_ends_normally() -> None:
    core = scheduler(local("a"), local("b", "other"))
    start(core, "r1")
    core.submit(request("r2"), 0.0)
    actions = core.reconfigure((local("b", "other"),), LIMITS, 0.1)
    assert places(actions) == [("r2", RefusalReason.UNKNOWN_MODEL)]
    assert not core.has_model("moe")
    assert [queue.model for queue in core.snapshot(0.1).queues] == ["other"]
    [refused] = core.submit(request("r3"), 0.1)
    assert places((refused,)) == [("r3", RefusalReason.UNKNOWN_MODEL)]
    with pytest.raises(ValueError, match="in use"):
        core.submit(request("r1", model="other"), 0.1)
    assert "moe" in core._leaving
    core.handle(Progress(request_id="r1", attempt=1, output_tokens=5), 0.2)
    end(core, "r1")
    idle(core)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (AttemptOutcome.EVICTED, RefusalReason.UNKNOWN_MODEL),
        (AttemptOutcome.RETRYABLE, RefusalReason.ATTEMPTS_EXHAUSTED),
    ],
)
def test_a_request_of_a_vanished_model_finds_no_second_place(
    outcome: AttemptOutcome, reason: RefusalReason
) -> None:
    core = scheduler(local("a"))
    start(core, "r1", slo_class=SloClass.BATCH)
    core.reconfigure((), LIMITS, 0.1)
    assert places(end(core, "r1", outcome)) == [("r1", reason)]
    idle(core)


def test_a_model_that_comes_back_meets_its_own_running_requests() -> None:
    core = scheduler(local("a"))
    start(core, "r1", key_id="k")
    core.reconfigure((), LIMITS, 0.1)
    core.reconfigure((local("a"),), LIMITS, 0.2)
    serve(core, "a", 0.2)
    assert start(core, "r2", 0.3) == "a"
    end(core, "r1", tokens=900)
    assert core._model_states["moe"].fleet.lengths.mean("k", 4096) > 256
    end(core, "r2")
    idle(core)


def test_a_new_model_is_served() -> None:
    core = scheduler(local("a"))
    core.reconfigure((local("a"), local("b", "new"), remote("far", "new")), LIMITS, 0.1)
    assert core.has_model("new")
    serve(core, "b", 0.2)
    assert start(core, "r1", 0.3, model="new") == "b"


def test_who_waits_is_refused_when_no_placement_is_left_in_service() -> None:
    core = scheduler(local("a"))
    start(core, "r1")
    core.submit(request("r2"), 0.0)
    actions = core.reconfigure((local("b"),), LIMITS, 0.1)
    assert places(actions) == [("r2", RefusalReason.UNAVAILABLE)]


def test_a_queue_above_a_new_bound_keeps_what_it_has() -> None:
    core = scheduler(local("a"))
    start(core, "r0")
    for number in range(1, 6):
        core.submit(request(f"r{number}", slo_class=SloClass.BATCH), 0.0)
    lower = replace(LIMITS, queue=QueueLimits(requests=2, size_bytes=10_000))
    assert core.reconfigure((local("a"),), lower, 0.1) == ()
    assert core.queued_requests == 5
    [refused] = core.submit(request("late"), 0.1)
    assert places((refused,)) == [("late", RefusalReason.QUEUE_FULL)]
    assert core.queued_requests == 5
    higher = replace(LIMITS, queue=QueueLimits(requests=6, size_bytes=10_000))
    core.reconfigure((local("a"),), higher, 0.2)
    core.submit(request("more", slo_class=SloClass.BATCH), 0.2)
    assert core.queued_requests == 6


def test_changed_attempts_and_retries_apply() -> None:
    core = scheduler(local("a"), local("b"), local("c"))
    core.reconfigure((local("a"), local("b"), local("c")), replace(LIMITS, attempts=1), 0.0)
    start(core, "r1")
    [refused] = end(core, "r1", AttemptOutcome.RETRYABLE)
    assert places((refused,)) == [("r1", RefusalReason.ATTEMPTS_EXHAUSTED)]
    none = replace(LIMITS, retries=RetryLimits(share=0.0, reserve=0.0, most=0.0))
    core.reconfigure((local("a"), local("b"), local("c")), none, 1.0)
    start(core, "r2", 1.0)
    [refused] = end(core, "r2", AttemptOutcome.RETRYABLE)
    assert isinstance(refused, Refuse)
    assert "too many retries" in refused.message
    core.reconfigure((local("a"), local("b"), local("c")), LIMITS, 2.0)
    start(core, "r3", 2.0)
    assert len(end(core, "r3", AttemptOutcome.RETRYABLE, now=9.0)) == 1


def test_records_of_decisions_stay() -> None:
    core = scheduler(local("a"))
    start(core, "r1")
    core.reconfigure((local("b"), remote()), LIMITS, 0.1)
    record = core.decisions.get("r1")
    assert record is not None
    assert [candidate.placement for candidate in record.candidates()] == ["a"]


def test_events_that_name_a_placement_that_is_not_configured_are_ignored() -> None:
    core = scheduler(local("a"), remote())
    unknown = (
        report("b", 0.0),
        ServingChanged(placement="b", serving=True, reason=""),
        PricesChanged(placement="b", rates=None, nano_usd_per_s=1),
        CacheEvents(placement="b", rank=0, ranks=1, changes=()),
        report("far", 0.0),
        CacheEvents(placement="far", rank=0, ranks=1, changes=()),
    )
    assert [core.handle(event, 0.0) for event in unknown] == [()] * len(unknown)


def test_a_batch_request_on_a_removed_placement_is_not_evicted_again() -> None:
    core = scheduler(local("a"), local("b"))
    where = {start(core, name, slo_class=SloClass.BATCH): name for name in ("r1", "r2")}
    core.reconfigure((local("b"),), LIMITS, 0.1)
    [evict] = core.submit(request("urgent", arrival_s=0.2), 0.2)
    assert isinstance(evict, Evict)
    assert evict.request_id == where["b"]
    assert places(end(core, where["b"], AttemptOutcome.EVICTED)) == [("urgent", "b")]


def test_a_large_fleet_is_reconfigured_in_less_than_a_second() -> None:
    many = tuple(local(f"p{i}", slots=4) for i in range(1024))
    core = scheduler(*many)
    for number in range(2048):
        start(core, f"r{number}", prefix_blocks=tuple(range(number, number + 40)))
    began_s = time.thread_time()
    core.reconfigure(many[1:], LIMITS, 0.0)
    assert time.thread_time() - began_s < 1.0
    assert np.count_nonzero(core._model_states["moe"].fleet.serving) == 1023


def test_the_same_configuration_changes_nothing() -> None:
    facts = (local("a"), local("b", "other"), remote())
    core = scheduler(*facts)
    start(core, "r1")
    core.submit(request("r2"), 0.0)
    before = {m: (s.fleet, s.remotes) for m, s in core._model_states.items()}
    assert core.reconfigure(facts, LIMITS, 1.0) == ()
    assert {m: (s.fleet, s.remotes) for m, s in core._model_states.items()} == before
    # Nor does a change of one model touch another.
    core.reconfigure((local("a"), local("c"), remote(), local("b", "other")), LIMITS, 1.0)
    assert core._model_states["other"].fleet is before["other"][0]
    assert core._model_states["moe"].fleet is not before["moe"][0]


def test_a_group_that_leaves_counts_no_more_in_the_mean_of_its_like() -> None:
    core = scheduler(local("a", slots=9), local("b", slots=9))
    teach(core, "a", step_s=0.03)
    now = teach(core, "b")
    [like] = core._model_states["moe"].fleet.pooled.values()
    assert len(like) == 2
    core.reconfigure((local("b", slots=9),), LIMITS, now)
    assert core._model_states["moe"].fleet.pooled[QWEN3_30B_H100] is like
    assert len(like) == 1


def test_harm_curves_stay_with_groups_that_stay() -> None:
    core = scheduler(local("a", slots=9), local("b", slots=9))
    for number in range(6):
        start(core, f"r{number}")
    fleet = core._model_states["moe"].fleet
    for index in range(2):
        fleet.refresh_curve(index, 0.05)
    lines, at_s = fleet.interference_lines[fleet.index["b"]].copy(), 0.05
    assert lines.any()
    core.reconfigure((local("c"), local("b", slots=9)), LIMITS, 0.06)
    fleet = core._model_states["moe"].fleet
    index = fleet.index["b"]
    assert np.array_equal(fleet.interference_lines[index], lines)
    assert fleet.curve_at_s.tolist() == [-1.0, at_s]


def test_external_load_and_what_preemptions_ask_for_outlast_a_reload() -> None:
    core = scheduler(local("a", slots=9))
    now = 1e6
    for second in range(2):
        told = report("a", now + second, gaps=second)
        told = replace(told, counts=EngineCounts(preemptions=3 * second))
        core.handle(told, now + second)
    now += 1.0
    before = core._model_states["moe"].fleet
    assert before.sequences.tolist() == [4]
    core.reconfigure((local("b"), local("a", slots=9)), LIMITS, now)
    fleet = core._model_states["moe"].fleet
    assert fleet.sequences.tolist() == [0, 4]
    assert fleet.kv_free_tokens[1] == before.kv_free_tokens[0] < 95_000
    core.tick(now + 60.0)  # the report is stale
    assert fleet.sequences.tolist() == [0, 0]
