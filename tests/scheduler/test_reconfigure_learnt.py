"""What stays in a reload keeps all that was learnt of it; what is another begins anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scheduler.contract import (
    AttemptOutcome,
    Fault,
    Progress,
)
from scheduler.engine_steps import EngineCounts
from scheduler.limits.breaker import BreakerPhase
from scheduler.limits.rate_limit import RateLimits
from scheduler.prefix.token_blocks import (
    BlocksStored,
    CacheEvents,
    CacheReset,
    TokenBlocks,
    chain,
    root,
)
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.reload_made import (
    EU,
    LIMITS,
    end,
    idle,
    local,
    places,
    remote,
    report,
    scheduler,
    serve,
    start,
    state_of,
    teach,
)
from tests.scheduler.requests_made import request


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


def test_step_fits_reports_and_lengths_stay_with_the_placements_that_stay() -> None:
    core = scheduler(local("a", slots=9), local("b", slots=9))
    now = teach(core, "b")
    for number in range(30):
        start(core, f"r{number}", now, key_id="k")
        end(core, f"r{number}", now=now, tokens=900)
    fitted, before = core.step_model("b"), core.step_model("a")
    assert fitted.base_s > 1.5 * before.base_s
    lengths = core._model_states["moe"].fleet.lengths
    mean = lengths.mean("k", 4096)
    assert mean > 400
    newest = state_of(core, "b").report
    assert newest is not None
    core.reconfigure((local("c"), local("b", slots=5), remote()), LIMITS, now)
    fleet = core._model_states["moe"].fleet
    assert core.step_model("b") == fitted
    assert fleet.lengths.mean("k", 4096) == mean
    assert state_of(core, "b").report is newest
    assert fleet.groups[fleet.index["b"]].meter._report is newest
    assert core.step_model("c") == before


def test_a_changed_prior_begins_the_fit_of_its_group_anew() -> None:
    core = scheduler(local("a", slots=9), local("b", slots=9))
    now = teach(core, "a")
    teach(core, "b")
    slower = QWEN3_30B_H100.scaled(base=3.0)
    where = start(core, "r1", now)
    fitted = {name: core.step_model(name) for name in ("a", "b")}
    other = "b" if where == "a" else "a"
    changed = replace(local(where, slots=9), step_model=slower)
    core.reconfigure((changed, local(other, slots=9)), LIMITS, now)
    assert core.step_model(where) == slower
    assert core.step_model(other) == fitted[other]
    fleet = core._model_states["moe"].fleet
    assert len(fleet.groups[fleet.index[where]].streams) == 1
    end(core, "r1", now=now + 1)
    idle(core)


def test_what_awaits_the_end_of_an_answer_goes_with_the_server_that_gives_it() -> None:
    core = scheduler(local("a", slots=9))
    prompt: dict[str, Any] = {"prompt_tokens": 8 * 512 + 1, "prefix_blocks": tuple(range(1, 9))}
    for number, now in enumerate((0.0, 5.0)):
        start(core, f"r{number}", now, **prompt)
        core.handle(Progress(request_id=f"r{number}", attempt=1, output_tokens=1), now + 0.5)
    core.reconfigure((replace(local("a", slots=9), incarnation="elsewhere"),), LIMITS, 6.0)
    for number in range(2):
        end(core, f"r{number}", now=7.0)
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
    for number in range(2):  # 6 a minute: 4 are used
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


def test_another_incarnation_begins_anew_and_its_predecessors_requests_end_normally() -> None:
    core = scheduler(local("a", slots=20))
    now = teach(core, "a")
    fitted = core.step_model("a")
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
    assert core.step_model("a") == fitted
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
    assert not len(core._admission._admission["a"].breakers.evidence)
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
        told = replace(told, counts=EngineCounts(preemptions=9 * second))
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
