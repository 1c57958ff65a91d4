"""A request that waits does not hide others: idle servers are found, whoever stands in front."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.contract import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    EngineReport,
    Fault,
    PlacementKind,
    Progress,
    ServingChanged,
    SloClass,
    Start,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.limits.rate_limit import RateLimits
from scheduler.model.model_scheduler import MOST_RESTRICTED, TRY_AGAIN_S
from scheduler.placement_state import Placement
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.requests_made import request

REMOTE_ONLY: dict[str, Any] = {
    "remote_classes": frozenset({"c"}),
    "unsupported_by": frozenset({"a", "b"}),
}


def own(name: str, slots: int = 256, kv: int = 10_000_000) -> Placement:
    return Placement(
        name=name, kind=PlacementKind.SELF_HOSTED, model="moe", max_running=slots, pool="own",
        step_model=QWEN3_30B_H100, kv_capacity_tokens=kv,
    )  # fmt: skip


def far(slots: int = 1, limits: RateLimits | None = None) -> Placement:
    return Placement(
        name="far", kind=PlacementKind.REMOTE, model="moe", max_running=slots, remote_class="c",
        send_limits=limits or RateLimits(),
    )  # fmt: skip


class Driver:
    """A scheduler with what it has started, driven as the gateway does: ticks at wake-ups."""

    def __init__(self, *placements: Placement, attempts: int = 3) -> None:
        limits = SchedulerLimits(
            queue=QueueLimits(requests=1000, size_bytes=10**9), attempts=attempts
        )
        self.core = Scheduler(placements, limits)
        self.started: dict[str, tuple[float, Start]] = {}
        self.now = 0.0
        for placement in placements:
            self.handle(ServingChanged(placement=placement.name, serving=True, reason=""))

    def perform(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            if isinstance(action, Start):
                self.started[action.request_id] = self.now, action

    def handle(self, event: Any) -> None:
        self.perform(self.core.handle(event, self.now))

    def submit(self, name: str, slo_class: SloClass = SloClass.INTERACTIVE, **fields: Any) -> None:
        fields = {"max_queue_s": 300.0, "ttft_s": 60.0, "max_output_tokens": 2000, **fields}
        made = request(name, slo_class, arrival_s=self.now, **fields)
        self.perform(self.core.submit(made, self.now))

    def end(self, name: str, outcome: AttemptOutcome = AttemptOutcome.OK, **fields: Any) -> None:
        attempt = self.started[name][1].attempt
        self.handle(AttemptEnded(request_id=name, attempt=attempt, outcome=outcome, **fields))

    def progress(self, name: str, tokens: int) -> None:
        self.handle(Progress(request_id=name, attempt=1, output_tokens=tokens))

    def tick(self) -> float | None:
        tick = self.core.tick(self.now)
        self.perform(tick.actions)
        return tick.next_wake_s

    def run_until(self, end_s: float) -> None:
        """Passes time as the wake-ups ask for it, and not otherwise."""
        while (wake_s := self.tick()) is not None and wake_s <= end_s:
            self.now = wake_s
        self.now = end_s

    def fill_remote(self) -> None:
        self.submit("hog", **REMOTE_ONLY)
        assert self.started["hog"][1].placement == "far"


def start_of_long_prompt(*, behind_a_full_remote: bool) -> float:
    """Twenty streams with a tight time per token, then a long prompt; the streams end after 5 s."""
    driver = Driver(own("a"), far())
    names = [f"s{i}" for i in range(20)]
    tokens = dict.fromkeys(names, 1)
    for name in names:
        driver.submit(name, prompt_tokens=200, ttft_s=30.0, tpot_s=0.0135)
        driver.now += 0.05
        driver.progress(name, 1)
    driver.fill_remote()
    began_s = driver.now
    driver.submit("A", prompt_tokens=30_000)
    driver.now += 0.001
    if behind_a_full_remote:
        driver.submit("B", ttft_s=200.0, **REMOTE_ONLY)
    while driver.now < began_s + 5.0:
        driver.now += 0.05
        for name in names:
            tokens[name] += 5
            driver.progress(name, tokens[name])
        driver.tick()
    for name in names:
        driver.end(name, output_tokens=tokens[name])
    for _ in range(900):
        driver.now += 0.05
        driver.tick()
    return driver.started["A"][0] - began_s


def test_one_that_waits_for_a_full_remote_does_not_hide_one_that_waits_for_an_idle_server() -> None:
    alone_s = start_of_long_prompt(behind_a_full_remote=False)
    assert alone_s < 5.2
    assert abs(start_of_long_prompt(behind_a_full_remote=True) - alone_s) < 0.1


def busy(driver: Driver, name: str = "talks", **fields: Any) -> None:
    """A stream that a long prefill would harm."""
    driver.submit(name, prompt_tokens=100, tpot_s=0.012, **fields)
    driver.now += 0.1
    driver.progress(name, 1)


def test_one_failed_attempt_with_one_replica_and_a_full_remote_stalls_nobody() -> None:
    driver = Driver(own("a"), far())
    driver.fill_remote()
    busy(driver)
    driver.submit("fails", remote_classes=frozenset({"c"}))
    driver.submit("long", prompt_tokens=40_000)
    assert "long" not in driver.started
    driver.end("fails", AttemptOutcome.RETRYABLE)  # its replica is tried, the remote is full
    assert driver.core.queued_requests == 2
    driver.end("talks")
    assert driver.started["long"][0] == driver.now


def test_many_that_wait_for_a_full_remote_use_up_no_tries() -> None:
    driver = Driver(own("a", slots=1), far())
    driver.fill_remote()
    driver.submit("runs")
    for i in range(10 * MOST_RESTRICTED):
        driver.submit(f"far{i}", **REMOTE_ONLY)
    driver.submit("next", prompt_tokens=500)
    driver.end("runs")
    assert driver.started["next"][0] == driver.now
    driver.end("hog")
    assert driver.started["far0"][1].placement == "far"


def test_an_arrival_is_tried_at_once_though_a_higher_class_waits_for_a_remote() -> None:
    driver = Driver(own("a"), far())
    driver.fill_remote()
    driver.submit("far", **REMOTE_ONLY)
    driver.submit("lower", SloClass.BATCH)
    assert driver.started["lower"][0] == driver.now


def test_one_that_waited_for_a_remote_is_started_on_a_server_that_may_take_it_again() -> None:
    driver = Driver(own("a"), own("b", slots=1), far())
    driver.handle(ServingChanged(placement="b", serving=False, reason=""))
    driver.fill_remote()
    only_b: dict[str, Any] = {
        "remote_classes": frozenset({"c"}),
        "unsupported_by": frozenset({"a"}),
        "ttft_s": 200.0,
    }
    for name in ("first", "second"):
        driver.submit(name, **only_b)
    driver.handle(ServingChanged(placement="b", serving=True, reason=""))
    assert driver.started["first"][1].placement == "b"
    driver.end("first")
    assert driver.started["second"][1].placement == "b"


def test_one_that_waits_for_a_full_remote_holds_no_lower_class_back() -> None:
    driver = Driver(own("a"), far())
    driver.fill_remote()
    driver.submit("high", **REMOTE_ONLY)
    driver.submit("low", SloClass.STANDARD)
    driver.tick()
    assert driver.started["low"][0] == driver.now
    assert "high" not in driver.started


def test_one_that_one_busy_placement_alone_may_take_hides_no_idle_one() -> None:
    driver = Driver(own("a"), own("b"))
    busy(driver, unsupported_by=frozenset({"b"}))
    driver.submit("blocks-b", prompt_tokens=40_000, unsupported_by=frozenset({"a"}))
    assert driver.started["blocks-b"][1].placement == "b"
    driver.submit("only-a", prompt_tokens=20_000, unsupported_by=frozenset({"b"}))
    driver.submit("either", prompt_tokens=45_000, tpot_s=0.009)
    assert {"only-a", "either"}.isdisjoint(driver.started)
    driver.end("blocks-b")
    driver.tick()
    assert driver.started["either"][1].placement == "b"
    assert "only-a" not in driver.started


def test_one_that_waits_for_a_paused_placement_hides_no_idle_one() -> None:
    driver = Driver(own("a"), own("b", slots=1))
    driver.submit("runs", unsupported_by=frozenset({"a"}))
    driver.submit("full", unsupported_by=frozenset({"b"}))
    driver.end("full", AttemptOutcome.FAILED, fault=Fault.BUSY, retry_after_s=20.0)
    for i in range(9):
        driver.submit(f"paused{i}", unsupported_by=frozenset({"b"}))
    driver.submit("next", prompt_tokens=500, unsupported_by=frozenset())
    assert driver.core.queued_requests == 10
    driver.end("runs")
    driver.tick()
    assert driver.started["next"][1].placement == "b"
    driver.run_until(30.0)
    assert driver.started["paused0"][0] == 20.0, "the tick asked to be woken when the pause ends"


def test_time_alone_serves_who_waits_for_the_rate_of_a_remote() -> None:
    driver = Driver(far(slots=9, limits=RateLimits(requests_per_minute=2)))
    for name in ("r0", "r1", "r2"):
        driver.submit(name, remote_classes=frozenset({"c"}))
    driver.run_until(70.0)
    assert 59.9 < driver.started["r2"][0] < 60.1


def test_time_alone_serves_who_waits_for_external_load_that_nobody_tells_of_any_more() -> None:
    driver = Driver(own("a", slots=4))
    for at_s in (0.0, 1.0):
        driver.now = at_s
        driver.handle(
            EngineReport(
                placement="a", at_s=at_s, running=4, waiting=0, kv_usage=0.0,
                prompt_tokens_total=0, generation_tokens_total=0,
            )
        )  # fmt: skip
    driver.submit("waits", prompt_tokens=500)
    assert "waits" not in driver.started
    driver.run_until(30.0)
    assert 6.0 < driver.started["waits"][0] < 6.1


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["own", "b-only", "far", "any", "end", "fail", "busy", "progress", "pass"]),
        st.integers(0, 40),
        st.sampled_from(SloClass),
    ),
    max_size=45,
)


KV_TOKENS = st.sampled_from([200_000, 45_000, 20_000])


def teach_lengths(driver: Driver) -> None:
    """Enough answers, so that KV caches are planned by their peaks."""
    [scheduler] = driver.core._model_schedulers.values()
    for tokens in (50, 100, 400) * 10:
        scheduler.model_state.fleet.lengths.learn("", tokens)


def play(driver: Driver, step: tuple[str, int, SloClass], number: int) -> None:
    what, value, slo_class = step
    running = sorted(alive(driver))
    fields: dict[str, Any] = {
        "prompt_tokens": 1 + value * 1000,
        "tpot_s": 0.01 + value / 1000,
        "ttft_s": 1.0 + value,
    }
    match what:
        case "own":
            driver.submit(f"r{number}", slo_class, **fields)
        case "b-only":
            driver.submit(f"r{number}", slo_class, unsupported_by=frozenset("a"), **fields)
        case "far":
            driver.submit(f"r{number}", slo_class, **fields, **REMOTE_ONLY)
        case "any":
            driver.submit(f"r{number}", slo_class, remote_classes=frozenset({"c"}), **fields)
        case "pass":
            driver.now += value / 20
        case _ if running:
            name = running[value % len(running)]
            attempt = driver.started[name][1].attempt
            if what == "progress":
                driver.handle(
                    Progress(request_id=name, attempt=attempt, output_tokens=1 + value * 9)
                )
            else:
                outcome = AttemptOutcome.OK if what == "end" else AttemptOutcome.RETRYABLE
                driver.end(name, outcome, fault=Fault.BUSY if what == "busy" else Fault.NONE)


def alive(driver: Driver) -> set[str]:
    return {name for state in driver.core.placements for name in state.residents}


@settings(max_examples=150, deadline=None)
@given(STEPS, KV_TOKENS)
def test_nobody_waits_at_a_tick_whom_a_placement_could_take(steps: list[Any], kv: int) -> None:
    """After a tick, no request that still waits is one that a try of its own would start now.

    So from the time when a placement could take it, it waits until the next tick at most; and
    while time alone can change the answer, a tick asks for the next one within TRY_AGAIN_S. What
    is left out by rule: a request of a lower class while one above competes with it, late requests
    while servers are saturated and busy, and what lies beyond the bound of tries (not reached
    here: at most `looks` requests wait).
    """
    driver = Driver(own("a", slots=3, kv=kv), own("b", slots=3, kv=kv), far())
    teach_lengths(driver)
    for number, step in enumerate(steps):
        if step[0] in ("own", "b-only", "far", "any") and driver.core.queued_requests >= 6:
            continue
        play(driver, step, number)
        wake_s = driver.tick()
        [scheduler] = driver.core._model_schedulers.values()
        state = scheduler.model_state
        top = min(
            (q.request.slo.slo_class for q in state.queue if not q.late),
            default=None,
            key=list(SloClass).index,
        )
        again = False
        for queued in list(state.queue):
            tracked = driver.core._tracked[queued.request.request_id]
            query = state.query(tracked, driver.now, late=queued.late)
            if not query.possible:
                continue
            result = state.preview_place(query, driver.now)
            if queued.request.slo.slo_class is top and not queued.late:
                assert result.chosen is None, f"{queued.request.request_id} could start"
                again = again or (result.time_may_help and query.possible_now)
        if again:
            assert wake_s is not None
            assert wake_s <= driver.now + TRY_AGAIN_S


SKIPPED = {
    "_expected",
    "_widths",
    "_lines",
    "_redraw",
    "buffers",
    "steps_s",
    "_figures",
    "decisions",
    "models",
}
"""Memory that only saves work: what it holds follows from the rest."""


def frozen(value: Any, seen: dict[int, int]) -> Any:
    """The whole state of an object as one comparable value."""
    if value is None or isinstance(value, str | int | float | bool | bytes | np.generic):
        return value
    if id(value) in seen:
        return "seen", seen[id(value)]
    seen[id(value)] = len(seen)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return [(frozen(k, seen), frozen(v, seen)) for k, v in value.items()]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, list | tuple) or type(value).__name__ in ("deque", "OrderedDict"):
        return [frozen(each, seen) for each in value]
    names = [n for c in type(value).__mro__ for n in getattr(c, "__slots__", ())]
    names += list(getattr(value, "__dict__", ()))
    return [
        (n, frozen(getattr(value, n), seen))
        for n in names
        if n not in SKIPPED and hasattr(value, n)
    ]


@settings(max_examples=60, deadline=None)
@given(STEPS, st.integers(0, 40), KV_TOKENS)
def test_a_quote_changes_nothing(steps: list[Any], value: int, kv: int) -> None:
    """Not the state, and not one of the decisions that follow."""
    own_ones = own("a", slots=3, kv=kv), own("b", slots=3, kv=kv)
    placements = *own_ones, far(limits=RateLimits(requests_per_minute=9))
    quoted, plain = Driver(*placements), Driver(*placements)
    teach_lengths(quoted)
    teach_lengths(plain)
    for number, step in enumerate(steps):
        asked = request(
            "asked", step[2], arrival_s=quoted.now, prompt_tokens=1 + value * 1000,
            remote_classes=frozenset({"c"}), key_id=f"key{number}",
        )  # fmt: skip
        before = frozen(quoted.core, {})
        quoted.core.quote(asked, quoted.now)
        assert frozen(quoted.core, {}) == before
        for driver in (quoted, plain):
            play(driver, step, number)
            driver.tick()
        assert quoted.started == plain.started
