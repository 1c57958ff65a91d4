"""The breaker of one placement, the retry budget, and the gates that the scheduler asks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.contract import (
    AttemptEnded,
    AttemptOutcome,
    Fault,
    PlacementKind,
    RefusalReason,
    Refuse,
    ServingChanged,
    SloClass,
    Start,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.limits.breaker import Breaker, BreakerLimits, BreakerPhase
from scheduler.limits.rate_limit import RateLimits
from scheduler.limits.retry_budget import RetryBudget, RetryLimits
from scheduler.placement_admission import PlacementAdmission
from scheduler.placement_state import Placement
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.requests_made import request

LIMITS = BreakerLimits()


def end(
    breaker: Breaker,
    now: float,
    *,
    ok: bool = False,
    fault: Fault = Fault.NONE,
    retry_after_s: float | None = None,
    request_id: str = "r",
    started_s: float | None = None,
) -> None:
    breaker.count_end(
        request_id,
        started_s=now if started_s is None else started_s,
        ok=ok,
        fault=fault,
        retry_after_s=retry_after_s,
        detail="why",
        now=now,
    )


def fail(breaker: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        end(breaker, now, fault=Fault.PLACEMENT)


def test_it_opens_on_five_failures_and_a_trial_decides() -> None:
    breaker = Breaker()
    fail(breaker, 0.0, 4)
    assert breaker.admits(0.0)
    fail(breaker, 0.0)
    assert breaker.phase(0.0) is BreakerPhase.OPEN
    assert breaker.broken(0.0)
    assert breaker.next_change_s(0.0) == 5.0
    assert breaker.phase(5.0) is BreakerPhase.HALF_OPEN
    assert not breaker.broken(5.0), "it waits for its trial: worth a try"
    breaker.count_start("trial", 5.0)
    assert not breaker.admits(5.0)
    assert breaker.broken(5.0)
    end(breaker, 6.0, fault=Fault.PLACEMENT, request_id="trial", started_s=5.0)
    assert breaker.next_change_s(6.0) == 16.0, "twice as long"
    breaker.count_start("second", 16.0)
    end(breaker, 17.0, ok=True, request_id="second", started_s=16.0)
    assert breaker.phase(17.0) is BreakerPhase.CLOSED


def test_a_trial_that_tells_nothing_lets_the_next_one_go() -> None:
    breaker = Breaker()
    fail(breaker, 0.0, 5)
    breaker.count_start("left", 5.0)
    end(breaker, 5.5, request_id="left", started_s=5.0)
    assert breaker.phase(5.5) is BreakerPhase.HALF_OPEN
    assert breaker.admits(5.5)


def test_few_failures_among_many_successes_do_not_open_it() -> None:
    breaker = Breaker()
    for i in range(100):
        end(breaker, i * 0.1, ok=i % 3 != 0, fault=Fault.NONE if i % 3 else Fault.PLACEMENT)
        assert breaker.phase(i * 0.1) is BreakerPhase.CLOSED
    for i in range(20):
        fail(breaker, 10.0 + i)
    assert breaker.phase(29.0) is not BreakerPhase.CLOSED


def test_old_failures_are_forgotten() -> None:
    breaker = Breaker()
    for i in range(10):
        now = i * LIMITS.window_s / 3
        fail(breaker, now)
        assert breaker.phase(now) is BreakerPhase.CLOSED


def test_a_refused_key_opens_it_at_once_and_for_long() -> None:
    breaker = Breaker()
    end(breaker, 0.0, fault=Fault.ACCOUNT)
    assert breaker.broken(59.0)
    assert breaker.phase(60.0) is BreakerPhase.HALF_OPEN


def test_retry_after_is_honoured_and_one_burst_is_one_pause() -> None:
    breaker = Breaker()
    for _ in range(20):
        end(breaker, 1.0, fault=Fault.BUSY, retry_after_s=7.0, started_s=0.5)
    assert breaker.phase(7.9) is BreakerPhase.PAUSED
    assert not breaker.broken(7.9), "it only asks for time: a request may wait for that"
    assert breaker.phase(8.0) is BreakerPhase.CLOSED
    end(breaker, 9.0, fault=Fault.BUSY, started_s=8.5)
    assert breaker.phase(9.9) is BreakerPhase.PAUSED
    assert breaker.phase(10.0) is BreakerPhase.HALF_OPEN, "the second in a row: on trial"


def test_pauses_without_a_hint_grow_up_to_a_bound() -> None:
    breaker, now, lengths = Breaker(), 0.0, []
    for _ in range(10):
        breaker.count_start("r", now)
        end(breaker, now, fault=Fault.BUSY)
        until_s = breaker.next_change_s(now)
        assert until_s is not None
        lengths.append(until_s - now)
        now = until_s
    assert lengths[:4] == pytest.approx([0.5, 1.0, 2.0, 4.0])
    assert lengths[-1] == pytest.approx(LIMITS.longest_pause_s)


def test_what_started_before_the_opening_changes_nothing() -> None:
    breaker = Breaker()
    fail(breaker, 10.0, 5)
    end(breaker, 11.0, ok=True, started_s=1.0)
    end(breaker, 12.0, fault=Fault.PLACEMENT, started_s=2.0)
    assert breaker.next_change_s(12.0) == 15.0


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 30.0),
            st.sampled_from(["ok", *Fault]),
            st.one_of(st.none(), st.floats(0.0, 100.0)),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_it_always_opens_again_and_never_runs_two_trials(
    ends: Sequence[tuple[float, str, float | None, bool]],
) -> None:
    breaker, now, started = Breaker(), 0.0, 0
    running: list[tuple[str, float]] = []
    for wait_s, kind, retry_after_s, start in ends:
        now += wait_s
        if start and breaker.admits(now):
            half_open = breaker.phase(now) is BreakerPhase.HALF_OPEN
            started += 1
            breaker.count_start(f"r{started}", now)
            running.append((f"r{started}", now))
            assert not (half_open and breaker.admits(now))
        elif running:
            request_id, started_s = running.pop(0)
            fault = Fault.NONE if kind == "ok" else Fault(kind)
            end(
                breaker,
                now,
                ok=kind == "ok",
                fault=fault,
                retry_after_s=retry_after_s,
                request_id=request_id,
                started_s=started_s,
            )
    for request_id, started_s in running:
        end(breaker, now, request_id=request_id, started_s=started_s)
    assert breaker.admits(now + LIMITS.longest_open_s + 100.0)


def test_the_retry_budget_is_a_share_with_a_reserve() -> None:
    budget = RetryBudget(RetryLimits(share=0.5, reserve=2.0, reserve_per_s=0.1, most=4.0))
    assert [budget.take(0.0) for _ in range(3)] == [True, True, False]
    budget.request()
    budget.request()
    assert [budget.take(0.0) for _ in range(2)] == [True, False]
    budget.succeeded()
    assert budget.take(0.0)
    assert not budget.take(5.0)
    assert budget.take(10.1)
    for _ in range(100):
        budget.succeeded()
    assert [budget.take(20.0) for _ in range(5)] == [True] * 4 + [False]


def remote(
    name: str = "far", *, failure_domain: str = "", rates: RateLimits | None = None
) -> Placement:
    return Placement(
        name=name,
        kind=PlacementKind.REMOTE,
        model="moe",
        max_running=8,
        remote_class="eu",
        failure_domain=failure_domain,
        send_limits=rates or RateLimits(),
    )


def attempt_end(
    request_id: str,
    outcome: AttemptOutcome,
    fault: Fault = Fault.NONE,
    *,
    attempt: int = 1,
    retry_after_s: float | None = None,
) -> AttemptEnded:
    return AttemptEnded(
        request_id=request_id,
        attempt=attempt,
        outcome=outcome,
        detail="why",
        fault=fault,
        retry_after_s=retry_after_s,
    )


def test_the_slots_of_a_remote_are_cut_by_refusals_and_grow_with_use() -> None:
    admission = PlacementAdmission([remote()], BreakerLimits(first_pause_s=0.1))
    for i in range(8):
        admission.record_start("far", request(f"r{i}"), 0.0)
    assert not admission.admits("far", request("next"), 0.0)
    for i in range(6):
        busy = attempt_end(f"r{i}", AttemptOutcome.RETRYABLE, Fault.BUSY)
        admission.record_end("far", f"r{i}", busy, 1.0)
    assert admission.report("far", 1.0).slots == 5, "one burst of refusals is one cut"
    assert admission.report("far", 1.0).phase is BreakerPhase.PAUSED
    for i in (6, 7):
        admission.record_end("far", f"r{i}", attempt_end(f"r{i}", AttemptOutcome.OK), 1.0)
    for n in range(100):
        now = 2.0 + n
        names = [f"{n}-{i}" for i in range(8)]
        begun = []
        for name in names:
            if admission.admits("far", request(name), now):
                admission.record_start("far", request(name), now)
                begun.append(name)
        for name in begun:
            admission.record_end("far", name, attempt_end(name, AttemptOutcome.OK), now)
    assert admission.report("far", 200.0).slots == 8


def test_rates_of_a_remote_hold_and_tell_when_to_come_again() -> None:
    admission = PlacementAdmission([remote(rates=RateLimits(requests_per_minute=2))])
    for i in range(2):
        assert admission.admits("far", request(f"r{i}"), 0.0)
        admission.record_start("far", request(f"r{i}"), 0.0)
    assert not admission.admits("far", request("r2"), 0.0)
    assert admission.opens_s("far", request("r2"), 0.0) == pytest.approx(60.0)
    assert not admission.admits("far", request("r2"), 59.9)
    assert admission.opens_s("far", request("r2"), 60.0) is None
    assert admission.admits("far", request("r2"), 60.0)
    for i in range(2):
        admission.record_end("far", f"r{i}", None, 1.0)


def scheduler(*placements: Placement, attempts: int = 3) -> Scheduler:
    limits = SchedulerLimits(queue=QueueLimits(requests=100, size_bytes=1 << 20), attempts=attempts)
    core = Scheduler(placements, limits)
    for placement in placements:
        serving = ServingChanged(placement=placement.name, serving=True, reason="")
        core.handle(serving, 0.0)
    return core


def own(name: str) -> Placement:
    return Placement(
        name=name,
        kind=PlacementKind.SELF_HOSTED,
        model="moe",
        pool="p",
        max_running=8,
        step_model=QWEN3_30B_H100,
    )


def dispatched(actions: Sequence[object]) -> Start:
    (action,) = actions
    assert isinstance(action, Start)
    return action


def rejected(actions: Sequence[object]) -> Refuse:
    (action,) = actions
    assert isinstance(action, Refuse)
    return action


def test_a_fleet_that_only_fails_is_not_asked_again_at_once() -> None:
    core = scheduler(own("p/a"), attempts=1)
    for i in range(5):
        assert dispatched(core.submit(request(f"r{i}"), 0.0)).placement == "p/a"
        failed = attempt_end(f"r{i}", AttemptOutcome.RETRYABLE, Fault.PLACEMENT)
        assert rejected(core.handle(failed, 0.0)).reason is RefusalReason.ATTEMPTS_EXHAUSTED
    refusal = rejected(core.submit(request("r5"), 1.0))
    assert refusal.reason is RefusalReason.UNAVAILABLE
    assert refusal.retry_after_s == pytest.approx(4.0)
    assert "why" in refusal.message
    assert dispatched(core.submit(request("r6"), 5.0)).placement == "p/a"
    # The probe of a replica is a trial too.
    core.handle(ServingChanged(placement="p/a", serving=True, reason=""), 5.0)
    assert dispatched(core.submit(request("r7"), 5.0)).placement == "p/a"


def test_while_a_busy_server_asks_for_time_requests_wait() -> None:
    core = scheduler(own("p/a"), own("p/b"))
    first = dispatched(core.submit(request("r0"), 0.0)).placement
    busy = attempt_end("r0", AttemptOutcome.RETRYABLE, Fault.BUSY, retry_after_s=3.0)
    second = dispatched(core.handle(busy, 0.0)).placement
    assert {first, second} == {"p/a", "p/b"}
    busy = attempt_end("r0", AttemptOutcome.RETRYABLE, Fault.BUSY, attempt=2, retry_after_s=2.0)
    assert rejected(core.handle(busy, 0.0)).retry_after_s == pytest.approx(2.0)
    assert core.submit(request("r1"), 0.5) == ()
    now = 0.5
    while not (tick := core.tick(now)).actions:
        assert tick.next_wake_s is not None
        now = tick.next_wake_s
    assert now == pytest.approx(2.0)
    assert dispatched(tick.actions).placement == second


def test_the_next_try_goes_to_a_provider_that_does_not_share_the_fate() -> None:
    far = [remote("a", failure_domain="cloud"), remote("b", failure_domain="cloud"), remote("c")]
    core = scheduler(*far)
    classes = frozenset({"eu"})
    assert dispatched(core.submit(request("r", remote_classes=classes), 0.0)).placement == "a"
    failed = attempt_end("r", AttemptOutcome.RETRYABLE, Fault.PLACEMENT)
    assert dispatched(core.handle(failed, 0.0)).placement == "c"
    failed = attempt_end("r", AttemptOutcome.RETRYABLE, Fault.PLACEMENT, attempt=2)
    assert dispatched(core.handle(failed, 0.0)).placement == "b", "better than nothing"


def test_a_request_that_does_not_suit_a_pool_is_not_tried_on_all_of_it() -> None:
    core = scheduler(own("p/a"), own("p/b"), remote("far"))
    classes = frozenset({"eu"})
    dispatched(core.submit(request("r", remote_classes=classes), 0.0))
    unsuited = attempt_end("r", AttemptOutcome.RETRYABLE, Fault.REQUEST)
    assert dispatched(core.handle(unsuited, 0.0)).placement == "far"


def test_retries_end_when_their_budget_is_used_up() -> None:
    core = Scheduler(
        [own("p/a"), own("p/b")],
        SchedulerLimits(
            queue=QueueLimits(requests=100, size_bytes=1 << 20),
            attempts=3,
            retries=RetryLimits(share=0.0, reserve=1.0, reserve_per_s=0.0),
        ),
    )
    for name in ("p/a", "p/b"):
        core.handle(ServingChanged(placement=name, serving=True, reason=""), 0.0)
    for i, outcome in enumerate((Start, Refuse)):
        dispatched(core.submit(request(f"r{i}"), 0.0))
        failed = attempt_end(f"r{i}", AttemptOutcome.RETRYABLE, Fault.PLACEMENT)
        (action,) = core.handle(failed, 0.0)
        assert isinstance(action, outcome)


def test_who_gives_way_in_a_full_queue_goes_to_a_remote_that_can_take_it() -> None:
    core = Scheduler(
        [own("p/a"), remote("far")],
        SchedulerLimits(queue=QueueLimits(requests=1, size_bytes=1 << 20), attempts=3),
    )
    for name in ("p/a", "far"):
        core.handle(ServingChanged(placement=name, serving=True, reason=""), 0.0)
    eu = frozenset({"eu"})
    for i in range(8):
        dispatched(core.submit(request(f"r{i}"), 0.0))
    lowest = request("batch", SloClass.BATCH, remote_classes=eu)
    assert core.submit(lowest, 0.0) == (), "its time to first token is far away: it waits"
    (action,) = core.submit(request("next"), 0.0)
    assert isinstance(action, Start)
    assert (action.request_id, action.placement) == ("batch", "far")
