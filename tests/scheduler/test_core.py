"""The scheduler's decisions, one by one."""

from __future__ import annotations

import math

import pytest

from scheduler.contract import (
    AttemptEnded,
    AttemptOutcome,
    Cancelled,
    EngineReport,
    Objective,
    PlacementKind,
    Progress,
    RefusalReason,
    Refuse,
    ServingChanged,
    SloClass,
    Start,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.placement_state import Placement
from scheduler.policy import Policy
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.requests_made import request

EU = frozenset({"eu"})


def local(
    name: str,
    *,
    slots: int = 2,
    kv: int | None = None,
    context: int | None = None,
    objective: Objective = Objective.LATENCY,
) -> Placement:
    return Placement(
        name=name,
        kind=PlacementKind.SELF_HOSTED,
        model="moe",
        max_running=slots,
        kv_capacity_tokens=kv,
        context_tokens=context,
        step_model=QWEN3_30B_H100,
        objective=objective,
    )


def remote(name: str = "far", *, slots: int = 2) -> Placement:
    return Placement(
        name=name, kind=PlacementKind.REMOTE, model="moe", max_running=slots, remote_class="eu"
    )


def scheduler(*placements: Placement, queue: int = 2, attempts: int = 3) -> Scheduler:
    made = Scheduler(
        placements,
        SchedulerLimits(queue=QueueLimits(requests=queue, size_bytes=10_000), attempts=attempts),
    )
    for placement in placements:
        made.handle(ServingChanged(placement=placement.name, serving=True, reason=""), 0.0)
    return made


def ended(name: str, outcome: AttemptOutcome = AttemptOutcome.OK, attempt: int = 1) -> AttemptEnded:
    return AttemptEnded(
        request_id=name, attempt=attempt, outcome=outcome, detail="why", output_tokens=10
    )


def first_actions(core: Scheduler, now: float) -> tuple[float, tuple[object, ...]]:
    """Ticks at the wake-ups until something happens: when, and what."""
    while not (tick := core.tick(now)).actions:
        assert tick.next_wake_s is not None
        now = tick.next_wake_s
    return now, tick.actions


def where(actions: tuple[object, ...]) -> list[tuple[str, str]]:
    return [
        (a.request_id, a.placement) if isinstance(a, Start) else (a.request_id, a.reason.value)
        for a in actions
        if isinstance(a, Start | Refuse)
    ]


def test_spreading_takes_the_emptiest_and_packing_the_fullest() -> None:
    spread = scheduler(local("a"), local("b"))
    assert where(spread.submit(request("r1"), 0.0)) == [("r1", "a")]
    assert where(spread.submit(request("r2"), 0.0)) == [("r2", "b")]
    packed = scheduler(*(local(name, objective=Objective.COST) for name in "ab"))
    for i in range(2):
        assert where(packed.submit(request(f"r{i}"), 0.0)) == [(f"r{i}", "a")]
    # a is full, but b is opened only when a quarter of the time to a first token is gone.
    assert packed.submit(request("r2"), 0.0) == ()
    assert packed.tick(0.4).actions == ()
    assert where(packed.tick(0.6).actions) == [("r2", "b")]


def test_packing_opens_the_group_that_fell_idle_last() -> None:
    core = scheduler(*(local(name, slots=1, objective=Objective.COST) for name in "abc"))
    assert where(core.submit(request("r0"), 0.0)) == [("r0", "a")]
    core.submit(request("r1"), 0.0)
    assert where(core.tick(0.6).actions) == [("r1", "b")]
    core.handle(ended("r0"), 1.0)
    core.handle(ended("r1"), 2.0)
    assert where(core.submit(request("r2"), 3.0)) == [("r2", "b")]


@pytest.mark.parametrize(("blocks", "goes"), [(20, [("again", "a")]), (0, [])])
def test_packing_holds_no_session_back_from_its_idle_home(
    blocks: int, goes: list[tuple[str, str]]
) -> None:
    core = scheduler(*(local(name, slots=1, objective=Objective.COST) for name in "ab"))
    prefix = tuple(range(blocks))
    core.submit(request("turn", prompt_tokens=10_300, prefix_blocks=prefix), 0.0)
    core.submit(request("other"), 0.0)
    assert where(core.tick(0.6).actions) == [("other", "b")]
    core.handle(ended("turn"), 1.0)
    again = request("again", prompt_tokens=10_400, prefix_blocks=prefix, arrival_s=1.1)
    assert where(core.submit(again, 1.1)) == goes


@pytest.mark.parametrize(("spare", "goes"), [(False, [("long", "a")]), (True, [])])
@pytest.mark.parametrize("most", [10.0, 10])
def test_packing_harms_nobody_while_a_group_is_spare(
    spare: bool, goes: list[tuple[str, str]], most: float
) -> None:
    placements = [local(name, slots=9, objective=Objective.COST) for name in "ab"]
    limits = SchedulerLimits(queue=QueueLimits(requests=2, size_bytes=1 << 20), attempts=1)
    core = Scheduler(placements, limits, Policy(max_violations=most, spare_violations=0))
    for name in "ab" if spare else "a":
        core.handle(ServingChanged(placement=name, serving=True, reason=""), 0.0)
    core.submit(request("talks", max_output_tokens=400), 0.0)
    core.handle(Progress(request_id="talks", attempt=1, output_tokens=1), 0.1)
    core.handle(Progress(request_id="talks", attempt=1, output_tokens=5), 0.3)
    assert where(core.submit(request("long", prompt_tokens=30_000), 0.3)) == goes


@pytest.mark.parametrize("tokens", [1, 3])
def test_who_waits_for_a_lone_stream_starts_when_it_has_ended(tokens: int) -> None:
    core = scheduler(local("a", slots=9))
    core.submit(request("long", max_output_tokens=400), 0.0)
    core.handle(Progress(request_id="long", attempt=1, output_tokens=1), 0.1)
    assert core.submit(request("waits", prompt_tokens=30_000, max_output_tokens=tokens), 0.1) == ()
    assert where(core.handle(ended("long"), 0.11)) == [("waits", "a")]


def test_answers_of_one_token_run_side_by_side() -> None:
    core = scheduler(local("a", slots=9))
    for name in ("r1", "r2", "r3"):
        assert where(core.submit(request(name, max_output_tokens=1), 0.0)) == [(name, "a")]


def test_a_pending_prefill_counts() -> None:
    core = scheduler(local("a"), local("b"))
    core.submit(request("long", prompt_tokens=50_000, max_output_tokens=10), 0.0)
    core.submit(request("short", max_output_tokens=10), 0.0)
    assert where(core.submit(request("next"), 0.0)) == [("next", "b")]


def test_a_prefill_that_is_overdue_is_not_taken_for_done() -> None:
    core = scheduler(local("a", slots=9))
    [long] = core.submit(request("long", prompt_tokens=30_000, max_output_tokens=10), 0.0)
    assert isinstance(long, Start)
    assert long.predicted_ttft_s is not None
    assert long.predicted_ttft_s < 5.0
    # No token yet: the next one would wait behind it, longer than it is promised.
    assert core.submit(request("next", max_output_tokens=10, arrival_s=30.0), 30.0) == ()
    actions = core.handle(Progress(request_id="long", attempt=1, output_tokens=1), 30.1)
    assert where(actions) == [("next", "a")]


def test_a_prefix_that_was_not_cached_makes_those_behind_wait() -> None:
    core = scheduler(local("a", slots=9))
    prefix = tuple(range(58))
    core.submit(request("first", prompt_tokens=30_000, prefix_blocks=prefix), 0.0)
    core.handle(Progress(request_id="first", attempt=1, output_tokens=1), 1.0)
    core.handle(ended("first"), 2.0)
    core.submit(request("again", prompt_tokens=30_000, prefix_blocks=prefix), 2.0)
    core.submit(request("behind", prompt_tokens=9_000), 2.0)
    [state] = core.placements
    expected_s, rest_s = state.pending.values()
    assert state.prefill_end_s == pytest.approx(2.0 + expected_s + rest_s)
    core.tick(3.0)
    core.submit(request("asks", arrival_s=3.0), 3.0)
    whole_s = QWEN3_30B_H100.prefill_time_s(30_000, 30_000)
    assert expected_s < 0.2 < whole_s
    assert state.prefill_end_s >= 2.0 + whole_s + rest_s


def test_a_prefill_waits_rather_than_make_running_streams_late() -> None:
    core = scheduler(local("a", slots=9))
    core.submit(request("talks", max_output_tokens=400), 0.0)
    core.handle(Progress(request_id="talks", attempt=1, output_tokens=1), 0.1)
    # 40,000 tokens stall the stream for 1.3 s, after a single token of at most 50 ms each.
    assert core.submit(request("long", prompt_tokens=40_000), 0.11) == ()
    assert core.tick(0.11).next_wake_s == pytest.approx(0.16)
    # Far ahead of its promise, the stream can bear it.
    core.handle(Progress(request_id="talks", attempt=1, output_tokens=60), 0.4)
    assert where(core.tick(0.41).actions) == [("long", "a")]


def test_what_finds_no_room_waits_and_starts_when_room_comes() -> None:
    core = scheduler(local("a", slots=1))
    core.submit(request("r1"), 0.0)
    assert core.submit(request("r2"), 0.0) == ()
    assert core.queued_requests == 1
    assert where(core.handle(ended("r1"), 1.0)) == [("r2", "a")]
    assert repr(core) == "<Scheduler: 0 queued, 1 running>"


def test_a_newcomer_gets_one_look_but_does_not_pass_a_class_above() -> None:
    core = scheduler(local("a", slots=2))
    core.submit(request("r1"), 0.0)
    core.submit(request("two", choices=2), 0.0)
    low = request("low", SloClass.STANDARD, arrival_s=0.1)
    assert core.submit(low, 0.1) == ()
    assert where(core.submit(request("r3", arrival_s=0.1), 0.1)) == [("r3", "a")]
    core.handle(ended("r3"), 0.5)
    assert where(core.handle(ended("r1"), 1.0)) == [("two", "a")]


def test_kv_capacity_bounds_what_runs() -> None:
    core = scheduler(local("a", slots=9, kv=500))
    assert where(core.submit(request("r1"), 0.0)) == [("r1", "a")]
    assert where(core.submit(request("r2"), 0.0)) == [("r2", "a")]
    assert core.submit(request("r3"), 0.0) == ()
    [state] = core.placements
    # Of up to 100 tokens 82 are expected; 18 more are well possible, of both together 26.
    assert (state.kv_tokens, state.kv_reserved_tokens) == (200, 364)
    assert math.sqrt(state.kv_variance) == pytest.approx(26.3, abs=0.1)


def test_of_many_answers_long_ones_are_made_up_for_by_short_ones() -> None:
    core = scheduler(local("a", slots=99, kv=20_000), queue=99)
    for i in range(99):
        core.submit(request(f"r{i}", max_output_tokens=4096), 0.0)
    [state] = core.placements
    alone = state.residents["r0"]
    each = alone.kv_reserved_tokens + alone.kv_spread_tokens
    assert len(state.residents) > 1.3 * 20_000 / each
    assert state.kv_reserved_tokens + math.sqrt(state.kv_variance) <= 0.99 * 20_000


def test_the_engine_tells_its_kv_capacity() -> None:
    core = scheduler(local("a", slots=9))
    core.handle(
        EngineReport(
            placement="a", at_s=0.0, running=0, waiting=0, kv_usage=0.0, prompt_tokens_total=0,
            generation_tokens_total=0, kv_capacity_tokens=250,
        ),
        0.0,
    )  # fmt: skip
    core.submit(request("r1"), 0.0)
    assert core.submit(request("r2"), 0.0) == ()


def test_external_load_takes_slots_once_two_reports_show_it_and_until_they_are_stale() -> None:
    core = scheduler(local("a", slots=4))

    def report(at_s: float) -> None:
        core.handle(
            EngineReport(
                placement="a", at_s=at_s, running=3, waiting=1, kv_usage=0.5,
                prompt_tokens_total=0, generation_tokens_total=0,
            ),
            at_s,
        )  # fmt: skip

    report(0.0)
    assert where(core.submit(request("r1"), 0.1)) == [("r1", "a")]
    report(1.0)
    report(2.0)
    assert core.submit(request("r2"), 2.1) == ()
    assert where(core.tick(9.0).actions) == [("r2", "a")]


def test_a_remote_serves_what_cannot_be_in_time_at_home() -> None:
    core = scheduler(local("a", slots=1), remote(), queue=9)
    core.submit(request("r1", remote_classes=EU), 0.0)
    assert core.submit(request("r2", remote_classes=EU), 0.0) == (), "nobody waits: in time"
    now, [dispatch] = first_actions(core, 0.0)
    assert 1.8 < now < 1.9, "at the last moment at which the remote is in time"
    assert isinstance(dispatch, Start)
    assert dispatch.placement == "far"
    assert dispatch.reason.startswith("own servers saturated; ")


def test_a_remote_serves_what_finds_the_queue_full() -> None:
    core = scheduler(local("a", slots=1), remote(), queue=1)
    core.submit(request("r1", remote_classes=EU), 0.0)
    core.submit(request("r2", remote_classes=EU), 0.0)
    assert where(core.submit(request("r3", remote_classes=EU), 0.0)) == [("r3", "far")]


def test_content_that_must_stay_local_is_refused_when_the_queue_is_full() -> None:
    core = scheduler(local("a", slots=1), remote(), queue=1)
    for name in ("r1", "r2"):
        core.submit(request(name), 0.0)
    [reject] = core.submit(request("r3"), 0.0)
    assert isinstance(reject, Refuse)
    assert reject.reason is RefusalReason.QUEUE_FULL
    assert reject.retry_after_s is not None
    assert 0.2 <= reject.retry_after_s <= 60


def test_a_full_remote_is_no_way_out() -> None:
    core = scheduler(local("a", slots=1), remote(slots=1), queue=1)
    for name in ("r1", "r2", "r3"):
        core.submit(request(name, remote_classes=EU), 0.0)
    assert where(core.submit(request("r4", remote_classes=EU), 0.0)) == [("r4", "queue_full")]


def test_a_model_without_own_servers_runs_on_its_remote() -> None:
    core = scheduler(remote(slots=1))
    assert core.quote(request("asks", remote_classes=EU), 0.0).chosen == "far"
    assert where(core.submit(request("r1", remote_classes=EU), 0.0)) == [("r1", "far")]
    assert core.submit(request("r2", remote_classes=EU), 0.0) == ()
    assert where(core.handle(ended("r1"), 1.0)) == [("r2", "far")]


def test_refusals_that_are_known_at_admission() -> None:
    core = scheduler(local("a", context=500), remote())
    cases = {
        RefusalReason.UNKNOWN_MODEL: request("r1", model="other"),
        RefusalReason.TOO_LONG: request("r2", prompt_tokens=500, prompt_tokens_exact=True),
        RefusalReason.NO_PLACEMENT_ALLOWED: request("r3", unsupported_by=frozenset({"a", "far"})),
        RefusalReason.DEADLINE: request("r4", deadline_s=0.001),
    }
    for reason, made in cases.items():
        assert where(core.submit(made, 0.0)) == [(made.request_id, reason.value)]
    # An estimate that is too long is left to the engine, which counts.
    assert where(core.submit(request("r5", prompt_tokens=9000), 0.0)) == [("r5", "a")]
    assert repr(core) == "<Scheduler: 0 queued, 1 running>"


def test_a_queue_that_takes_too_long_is_left_with_a_hint() -> None:
    core = scheduler(local("a", slots=1))
    core.submit(request("r1"), 0.0)
    core.submit(request("r2", max_queue_s=5.0), 0.0)
    core.submit(request("r3", deadline_s=3.0), 0.0)
    ends: list[tuple[float, str, str]] = []
    now: float | None = 0.0
    while now is not None:
        tick = core.tick(now)
        ends += [(round(now, 1), name, reason) for name, reason in where(tick.actions)]
        now = tick.next_wake_s
    assert ends == [(3.0, "r3", "deadline"), (5.0, "r2", "queue_timeout")]


def test_a_failed_attempt_goes_elsewhere_and_ends_when_none_is_left() -> None:
    core = scheduler(local("a"), local("b"))
    core.submit(request("r1"), 0.0)
    [again] = core.handle(ended("r1", AttemptOutcome.RETRYABLE), 1.0)
    assert isinstance(again, Start)
    assert (again.placement, again.attempt) == ("b", 2)
    [reject] = core.handle(ended("r1", AttemptOutcome.RETRYABLE, attempt=2), 2.0)
    assert isinstance(reject, Refuse)
    assert reject.reason is RefusalReason.ATTEMPTS_EXHAUSTED
    assert "why" in reject.message
    assert repr(core) == "<Scheduler: 0 queued, 0 running>"


def test_attempts_are_bounded() -> None:
    core = scheduler(*(local(name) for name in "abcd"), attempts=2)
    core.submit(request("r1"), 0.0)
    core.handle(ended("r1", AttemptOutcome.RETRYABLE), 1.0)
    last = core.handle(ended("r1", AttemptOutcome.RETRYABLE, attempt=2), 2.0)
    assert where(last) == [("r1", "attempts_exhausted")]


def test_a_failure_fails_over_to_a_remote_when_no_own_server_is_left() -> None:
    core = scheduler(local("a"), remote())
    core.submit(request("r1", remote_classes=EU), 0.0)
    assert where(core.handle(ended("r1", AttemptOutcome.RETRYABLE), 1.0)) == [("r1", "far")]


def test_nothing_in_service_is_unavailable_at_once_and_for_those_who_wait() -> None:
    core = scheduler(local("a", slots=1))
    core.submit(request("r1"), 0.0)
    core.submit(request("r2"), 0.0)
    down = ServingChanged(placement="a", serving=False, reason="connection refused")
    assert where(core.handle(down, 1.0)) == [("r2", "unavailable")]
    [reject] = core.submit(request("r3"), 1.0)
    assert isinstance(reject, Refuse)
    assert reject.reason is RefusalReason.UNAVAILABLE
    assert "connection refused" in reject.message
    assert not core.serves


def test_cancelling_frees_the_place_or_the_seat_in_the_queue() -> None:
    core = scheduler(local("a", slots=1))
    for name in ("r1", "r2", "r3"):
        core.submit(request(name), 0.0)
    assert core.handle(Cancelled(request_id="r2"), 0.5) == ()
    assert where(core.handle(Cancelled(request_id="r1"), 1.0)) == [("r3", "a")]
    assert core.handle(Cancelled(request_id="never"), 1.0) == ()


def test_events_of_old_attempts_change_nothing() -> None:
    core = scheduler(local("a"), local("b"))
    core.submit(request("r1"), 0.0)
    core.handle(ended("r1", AttemptOutcome.RETRYABLE), 1.0)
    assert core.handle(ended("r1"), 1.5) == ()
    assert core.handle(Progress(request_id="r1", attempt=1, output_tokens=5), 1.5) == ()
    assert repr(core) == "<Scheduler: 0 queued, 1 running>"


def test_an_answer_that_outgrew_its_prediction_takes_room_at_once() -> None:
    facts = Placement(
        name="a",
        kind=PlacementKind.SELF_HOSTED,
        model="moe",
        max_running=3,
        kv_capacity_tokens=1000,
    )
    limits = SchedulerLimits(queue=QueueLimits(requests=9, size_bytes=1 << 20), attempts=1)
    scheduler = Scheduler([facts], limits)
    scheduler.handle(ServingChanged(placement="a", serving=True, reason=""), 0.0)
    scheduler.submit(request("long", prompt_tokens=271, max_output_tokens=1), 0.0)
    for tokens in (1, 486):
        scheduler.handle(Progress(request_id="long", attempt=1, output_tokens=tokens), 0.1)
    assert scheduler.submit(request("next", prompt_tokens=243, max_output_tokens=1), 0.1) == ()


def test_a_placements_context_is_configured_or_reported_or_unknown() -> None:
    core = scheduler(local("a", context=500), local("b"))
    assert core.context_tokens("a") == 500
    assert core.context_tokens("b") is None
    core.handle(
        EngineReport(
            placement="b", at_s=0.0, running=0, waiting=0, kv_usage=0.0, prompt_tokens_total=0,
            generation_tokens_total=0, context_tokens=800,
        ),
        0.0,
    )  # fmt: skip
    assert core.context_tokens("b") == 800
    assert core.context_tokens("not there") is None
