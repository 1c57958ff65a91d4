"""Requests for adapters: where they may go, what they share with the base model, what not."""

from __future__ import annotations

from dataclasses import replace

from scheduler.adapters.adapter_report import AdapterReport
from scheduler.contract import (
    Action,
    AttemptOutcome,
    EngineReport,
    Fault,
    RefusalReason,
    Refuse,
    ServingChanged,
    Start,
)
from scheduler.core import Scheduler
from scheduler.decisions import Tier
from tests.scheduler.reload_made import (
    EU,
    LIMITS,
    end,
    idle,
    local,
    places,
    remote,
    scheduler,
    start,
    state_of,
)
from tests.scheduler.requests_made import request


def tell(
    core: Scheduler, name: str, *loaded: str, most_active: int | None = None, at_s: float = 0.0
) -> tuple[Action, ...]:
    event = AdapterReport(placement=name, loaded=frozenset(loaded), most_active=most_active)
    return core.handle(event, at_s)


def ask(core: Scheduler, name: str, model: str, at_s: float = 0.0, **fields: object) -> Action:
    [action] = core.submit(request(name, model=model, arrival_s=at_s, **fields), at_s)  # type: ignore[arg-type]
    return action


def placement_of(action: Action) -> str:
    assert isinstance(action, Start), action
    return action.placement


def test_a_request_for_an_adapter_goes_only_where_it_is_loaded() -> None:
    core = scheduler(local("a", slots=8), local("b", slots=8), local("c", slots=8))
    tell(core, "b", "x")
    assert core.base_model("x") == "moe"
    assert {placement_of(ask(core, f"r{i}", "x")) for i in range(5)} == {"b"}
    assert {placement_of(ask(core, f"m{i}", "moe")) for i in range(4)} >= {"a", "c"}
    candidates = core.decisions.get("r0")
    assert candidates is not None
    reasons = {c.placement: c.reason for c in candidates.candidates()}
    assert reasons["a"] == reasons["c"] == "has not loaded the adapter"


def test_an_adapter_shares_slots_and_queue_with_its_model() -> None:
    core = scheduler(local("a", slots=1))
    tell(core, "a", "x")
    assert start(core, "m") == "a"
    assert core.submit(request("r", model="x"), 0.0) == ()
    [queue] = core.snapshot(0.0).queues
    assert queue.model == "moe"
    assert sum(queue.requests.values()) == 1
    assert places(end(core, "m", now=0.5)) == [("r", "a")]
    end(core, "r", now=0.6)
    idle(core)


def test_a_declared_adapter_that_is_loaded_nowhere_is_unavailable_and_not_unknown() -> None:
    core = scheduler(replace(local("a"), adapters=("x",)))
    refusal = ask(core, "r", "x")
    assert isinstance(refusal, Refuse)
    assert refusal.reason is RefusalReason.UNAVAILABLE
    assert "'x' loaded" in refusal.message
    assert refusal.retry_after_s
    unknown = ask(core, "r2", "y")
    assert isinstance(unknown, Refuse)
    assert unknown.reason is RefusalReason.UNKNOWN_MODEL


def test_a_waiting_request_starts_where_its_adapter_is_loaded_and_is_refused_where_it_leaves() -> (
    None
):
    core = scheduler(local("a", slots=1), local("b", slots=1))
    tell(core, "a", "x", "y")
    assert start(core, "x1", model="x") == "a"
    assert core.submit(request("x2", model="x"), 0.0) == ()
    assert places(tell(core, "b", "x")) == [("x2", "b")]
    assert core.submit(request("y1", model="y"), 0.0) == ()
    [refusal] = tell(core, "a", "x")
    assert isinstance(refusal, Refuse)
    assert refusal.request_id == "y1"
    assert refusal.reason is RefusalReason.UNAVAILABLE
    end(core, "x1")
    end(core, "x2")
    idle(core)


def test_a_request_whose_adapter_leaves_is_refused_though_all_others_wait_for_pending_prompts() -> (
    None
):
    core = scheduler(local("a", slots=8))
    tell(core, "a", "x")
    assert start(core, "long", prompt_tokens=40_000, ttft_s=60.0) == "a"
    assert core.submit(request("m", ttft_s=60.0), 0.0) == ()
    assert core.submit(request("x1", model="x", prompt_tokens=200, ttft_s=60.0), 0.0) == ()
    assert places(tell(core, "a")) == [("x1", RefusalReason.UNAVAILABLE)]


def test_a_placement_whose_slots_run_other_adapters_takes_no_further_one_for_now() -> None:
    core = scheduler(local("a", slots=8))
    tell(core, "a", "x", "y", most_active=1)
    assert placement_of(ask(core, "x1", "x")) == "a"
    assert core.submit(request("y1", model="y"), 0.0) == (), "it would only wait in the engine"
    assert placement_of(ask(core, "x2", "x")) == "a", "the one that runs needs no slot"
    assert placement_of(ask(core, "m", "moe")) == "a", "nor does the model itself"
    assert end(core, "x1", now=0.1) == ()
    assert places(end(core, "x2", now=0.2)) == [("y1", "a")]


def test_the_placement_that_has_the_adapter_active_is_preferred() -> None:
    core = scheduler(*(local(name, slots=8) for name in "abcd"))
    for name in "abcd":
        tell(core, name, "x", "y", most_active=2)
    chosen = placement_of(ask(core, "first", "x"))
    end(core, "first", now=0.5)
    again = []
    for i in range(6):
        again.append(placement_of(ask(core, f"s{i}", "x", 5.0 + i)))
        end(core, f"s{i}", now=5.5 + i)
    assert set(again) == {chosen}


def test_a_remote_of_the_model_never_serves_an_adapter_and_one_of_the_adapter_does() -> None:
    own = replace(local("a", slots=1), adapters=("x",))
    core = scheduler(own, remote("far"), replace(remote("tuned"), model="x"))
    tell(core, "a", "x")
    assert placement_of(ask(core, "x1", "x", remote_classes=EU)) == "a"
    late = request("x2", model="x", remote_classes=EU, ttft_s=0.01, max_output_tokens=9000)
    actions = core.submit(late, 0.0)
    if not actions:
        actions = core.tick(5.0).actions
    assert places(actions) == [("x2", "tuned")]
    decision = core.decisions.get("x2")
    assert decision is not None
    assert decision.tier is Tier.REMOTE
    end(core, "x1", now=5.1)
    end(core, "x2", now=5.2)
    # The model itself may go to its own remote only.
    core.handle(ServingChanged(placement="a", serving=False, reason="down"), 6.0)
    assert placement_of(ask(core, "m", "moe", 6.0, remote_classes=EU)) == "far"


def test_a_placement_that_has_unloaded_the_adapter_is_not_blamed() -> None:
    core = scheduler(local("a", slots=8), local("b", slots=8))
    for name in "ab":
        tell(core, name, "x")
    first = placement_of(ask(core, "r", "x"))
    retried = end(core, "r", AttemptOutcome.RETRYABLE, fault=Fault.NONE)
    [(_, second)] = places(retried)
    assert {first, second} == {"a", "b"}
    for i in range(20):
        assert core.admission_report(first, 1.0 + i).reason == ""
    assert state_of(core, first).error_share == 0.0


def test_a_reload_that_takes_the_adapter_away_lets_its_requests_end() -> None:
    core = scheduler(replace(local("a", slots=1), adapters=("x",)))
    tell(core, "a", "x")
    assert start(core, "x1", model="x") == "a"
    core.reconfigure((local("a", slots=1),), LIMITS, 0.1)
    tell(core, "a", at_s=0.2)
    assert not core.has_model("x")
    end(core, "x1")
    idle(core)


def test_a_restarted_engine_has_empty_slots() -> None:
    core = scheduler(local("a", slots=8))
    tell(core, "a", "x")
    ask(core, "x1", "x")
    end(core, "x1", now=0.1)
    assert state_of(core, "a").adapters.is_active("x", external=False)
    for at_s, tokens in ((1.0, 500), (2.0, 3)):
        core.handle(
            EngineReport(
                placement="a", at_s=at_s, running=0, waiting=0, kv_usage=0.0,
                prompt_tokens_total=tokens, generation_tokens_total=tokens,
            ),
            at_s,
        )  # fmt: skip
    assert not state_of(core, "a").adapters.is_active("x", external=False)


def test_the_snapshot_shows_adapters() -> None:
    core = scheduler(local("a", slots=8))
    tell(core, "a", "x", "y")
    ask(core, "x1", "x")
    [placement] = core.snapshot(0.0).placements
    assert (placement.adapters, placement.active_adapters) == (("x", "y"), ("x",))
