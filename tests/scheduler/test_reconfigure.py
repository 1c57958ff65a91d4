"""A reload changes the one scheduler by a difference, and no request is lost."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from scheduler.contract import (
    AttemptOutcome,
    Cancelled,
    Evict,
    Fault,
    Objective,
    PricesChanged,
    Progress,
    RefusalReason,
    Refuse,
    ServingChanged,
    SloClass,
)
from scheduler.limits.breaker import BreakerPhase
from scheduler.limits.retry_budget import RetryLimits
from scheduler.prefix.token_blocks import (
    CacheEvents,
)
from scheduler.queue.model_queue import QueueLimits
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
)
from tests.scheduler.requests_made import request


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
    assert not len(core._admission._admission["a"].breakers.evidence)
    for name in (where["b"], "s0", "s1"):
        end(core, name)
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
