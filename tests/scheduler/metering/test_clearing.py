"""Runs are settled by what they had of the engine's steps, and the sums stay whole."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.engine_steps import EngineTimes
from scheduler.metering.cost import GroupMeter
from scheduler.metering.runs import Run, Share
from scheduler.metering.totals import SECOND_NS, accounts_nano_usd, bill_nano_usd
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.meters_made import PLAN, RATE

A_SECOND = RATE / 3600
NO_KV = replace(QWEN3_30B_H100, kv_token_s=0.0)


def had(whole_s: float, prefill_s: float, decode_s: float) -> EngineTimes:
    return EngineTimes(whole_s=whole_s, prefill_had_s=prefill_s, decode_had_s=decode_s)


def group_of(count: int, tokens: int = 100) -> tuple[GroupMeter, list[Run]]:
    """A group on which so many runs decode from the same moment on."""
    group = GroupMeter(NO_KV, PLAN, 0, max_running=count)
    group.set_serving(True, 0)
    runs = [group.start(0, prompt_tokens=tokens) for _ in range(count)]
    for run in runs:
        group.progress(run, 1, 1_000_000)
    return group, runs


def cost(share: Share) -> float:
    """Seconds of the group's price."""
    return (share.uncached_input + share.cached_input + share.output) / A_SECOND


def test_a_run_that_has_ended_unseen_pays_for_its_steps_only() -> None:
    """The first one ended in the engine after half of the time; nobody here saw it."""
    group, (short, long) = group_of(2)
    first = group.end(short, SECOND_NS, output_tokens=9, engine=had(0.5, 0.01, 0.24))
    second = group.end(long, SECOND_NS, output_tokens=9, engine=had(1.0, 0.01, 0.74))
    assert (first.by_steps, second.by_steps) == (True, True)
    assert cost(first) == pytest.approx(0.25, abs=5e-6)
    assert cost(second) == pytest.approx(0.75, abs=5e-6)
    assert first.uncached_input / A_SECOND == pytest.approx(0.01, abs=5e-6)
    assert accounts_nano_usd(group.totals)["idle"] / A_SECOND == pytest.approx(0.0, abs=5e-6)


def test_who_was_charged_too_little_is_paid_by_those_in_flight() -> None:
    group, (first, second) = group_of(2)
    settled = group.end(first, SECOND_NS, output_tokens=9, engine=had(1.0, 0.1, 0.6))
    assert cost(settled) == pytest.approx(0.7, abs=5e-6)
    accounts = accounts_nano_usd(group.totals)
    assert accounts["requests"] / A_SECOND == pytest.approx(1.0, abs=5e-6)
    assert accounts["idle"] == pytest.approx(0, abs=2)
    last = group.end(second, SECOND_NS, output_tokens=9, engine=had(1.0, 0.1, 0.2))
    assert cost(last) == pytest.approx(0.3, abs=5e-6)


def test_time_in_which_the_engine_did_not_step_is_idle() -> None:
    group, runs = group_of(4)
    for run in runs:
        group.end(run, SECOND_NS, output_tokens=9, engine=had(0.9, 0.01, 0.19))
    accounts = accounts_nano_usd(group.totals)
    assert accounts["idle"] / A_SECOND == pytest.approx(0.2, abs=1e-5)
    assert accounts["requests"] / A_SECOND == pytest.approx(0.8, abs=1e-5)


def test_nobody_gets_more_than_there_is() -> None:
    group, (first, second) = group_of(2)
    one = group.end(first, SECOND_NS, output_tokens=9, engine=had(1.0, 0.0, 0.9))
    two = group.end(second, SECOND_NS, output_tokens=9, engine=had(1.0, 0.0, 0.9))
    assert (cost(one), cost(two)) == pytest.approx((0.9, 0.1), abs=5e-6)
    assert accounts_nano_usd(group.totals)["idle"] >= 0


def test_several_choices_pay_for_what_they_had_together() -> None:
    group = GroupMeter(NO_KV, PLAN, 0, max_running=4)
    group.set_serving(True, 0)
    three, one = (group.start(0, prompt_tokens=100, choices=choices) for choices in (3, 1))
    for run in (three, one):
        group.progress(run, run.choices, 1_000_000)
    share = group.end(three, SECOND_NS, output_tokens=20, engine=had(0.9, 0.02, 0.58))
    assert share.by_steps
    assert cost(share) == pytest.approx(0.6, abs=5e-6)
    assert cost(group.end(one, SECOND_NS, engine=had(1.0, 0.0, 0.4))) == pytest.approx(
        0.4, abs=5e-6
    )


def test_a_sequence_that_holds_more_has_more_of_each_step() -> None:
    """The engine divides evenly; the charge so far knows whose KV cache is read."""
    model = replace(QWEN3_30B_H100, kv_token_s=1e-6)
    group = GroupMeter(model, PLAN, 0, max_running=2)
    runs = [group.start(0, prompt_tokens=tokens) for tokens in (100, 20_000)]
    for run in runs:
        group.progress(run, 1, 1_000_000)
    small, large = (
        cost(group.end(run, SECOND_NS, output_tokens=9, engine=had(1.0, 0.01, 0.49)))
        for run in runs
    )
    step_s = model.decode_step_s(2, 20_100)
    assert large - small == pytest.approx(0.98 * 19_900e-6 / step_s, rel=0.05)
    assert large + small == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize(
    "told",
    [
        None,
        EngineTimes(whole_s=0.9),
        had(0.9, 0.0, 0.0),
        had(0.9, 0.5, 0.5),  # more than its own time
        had(1.1, 0.1, 0.1),  # of another attempt
    ],
)
def test_what_cannot_be_is_left_to_the_meter(told: EngineTimes | None) -> None:
    group, (first, second) = group_of(2)
    share = group.end(first, SECOND_NS, output_tokens=9, engine=told)
    assert not share.by_steps
    assert cost(share) == pytest.approx(0.5, abs=0.01)
    group.end(second, SECOND_NS)


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=12),
    st.integers(0, 30),
    st.randoms(use_true_random=False),
)
def test_in_any_order_each_run_costs_what_it_had(
    spans: list[tuple[int, int]], late: int, random: object
) -> None:
    """Runs enter and leave an engine of steps of 10 ms. Ends are seen up to `late` steps later,
    tokens never before the last one: the charge so far knows little."""
    group = GroupMeter(NO_KV, PLAN, 0, max_running=len(spans))
    group.set_serving(True, 0)
    last = max(begin + steps for begin, steps in spans)
    truth = [
        sum(0.01 / sum(b <= step < b + n for b, n in spans) for step in range(begin, begin + steps))
        for begin, steps in spans
    ]
    at_ns = 10_000_000
    events = sorted(
        [(begin * at_ns, 0, number) for number, (begin, _) in enumerate(spans)]
        + [
            ((begin + steps + random.randint(0, late)) * at_ns, 1, number)  # type: ignore[attr-defined]
            for number, (begin, steps) in enumerate(spans)
        ]
    )
    runs: dict[int, Run] = {}
    found: dict[int, float] = {}
    for now_ns, ends, number in events:
        if not ends:
            runs[number] = group.start(now_ns, prompt_tokens=10)
            group.progress(runs[number], 1, now_ns)
            continue
        whole_s = spans[number][1] * 0.01
        told = had(whole_s, 0.0, truth[number])
        found[number] = cost(group.end(runs.pop(number), now_ns, output_tokens=2, engine=told))
        sums = group.totals
        assert min(sums.prefill, sums.decode, sums.waste, sums.idle) >= 0
        assert sum(accounts_nano_usd(sums).values()) == bill_nano_usd(PLAN, 0, now_ns)
    assert last * at_ns <= group.observed_ns
    for number, seconds in enumerate(truth):
        assert found[number] == pytest.approx(seconds, abs=5e-6)
