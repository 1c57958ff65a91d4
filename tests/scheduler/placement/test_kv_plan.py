"""Planned peaks of KV caches: bounds that hold whatever runs, and when plans are made anew."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.contract import EngineReport, Objective
from scheduler.output_length import PRIOR_ANSWERS, OutputLengths
from scheduler.placement.kv_plan import (
    HORIZONS,
    MOST_PLANS,
    PLAN_AGE_S,
    Attempt,
    expected_kv,
    kv_limit_tokens,
)
from scheduler.placement.quotes import PlacementQuery
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.resident import Resident
from tests.scheduler.placement.fleets_made import NOW, idle_fleet, query
from tests.scheduler.placement.reference_kv_plan import plain_plan, runs_on
from tests.scheduler.requests_made import request

LENGTHS = OutputLengths()
for _tokens in (3, 40, 200, 200, 210, 900, 5000):
    for _ in range(30):
        LENGTHS.learn("mixed", _tokens)


def certain(tokens: int) -> OutputLengths:
    """Lengths by which every answer has more than `tokens` tokens."""
    lengths = OutputLengths()
    lengths.table[0] = np.where(
        2.0 ** (np.arange(lengths.table.shape[1]) / 4.0) <= tokens, 1.0, 0.0
    )
    return lengths


@st.composite
def attempts(draw: st.DrawFn) -> Attempt:
    tokens = draw(st.just(0) | st.integers(1, 6000))
    return (
        draw(st.integers(1, 30_000)),
        tokens / draw(st.sampled_from((1, 1, 3))),
        max(draw(st.sampled_from((0, 1, 64, 500, 4096, 131_072))), math.ceil(tokens / 2)),
        draw(st.sampled_from((1, 1, 1, 2, 5))),
        draw(st.sampled_from((0, LENGTHS.row("mixed")))),
    )


several = st.lists(attempts(), min_size=1, max_size=6)


@given(several)
def test_a_plan_is_the_sum_over_answers_and_choices(running: list[Attempt]) -> None:
    expected, variance = expected_kv(running, LENGTHS)
    plain = np.array(plain_plan(running, LENGTHS)).T
    assert expected == pytest.approx(plain[0], rel=1e-9, abs=1e-6)
    assert variance == pytest.approx(plain[1], rel=1e-6, abs=1.0)


@given(several, st.floats(0.0, 200_000.0))
def test_no_moment_is_expected_to_hold_more_than_the_plan(
    running: list[Attempt], steps: float
) -> None:
    peak = expected_kv(running, LENGTHS)[0].max()
    alive = [(a, runs_on(a, steps, LENGTHS)) for a in running]
    held = sum(
        (1.0 - (1.0 - runs) ** a[3]) * a[0] + a[3] * runs * (a[1] + steps) for a, runs in alive
    )
    assert peak >= held * (1.0 - 1e-9)


@given(several)
def test_a_plan_lies_between_what_is_held_now_and_the_sum_of_the_longest(
    running: list[Attempt],
) -> None:
    expected = expected_kv(running, LENGTHS)[0]
    now = sum(prompt + choices * tokens for prompt, tokens, _, choices, _ in running)
    most = sum(p + choices * max(tokens, longest) for p, tokens, longest, choices, _ in running)
    assert now * (1.0 - 1e-9) <= expected[0]
    assert expected.max() <= most * (1.0 + 1e-9)


@given(several, attempts())
def test_a_further_request_never_lowers_a_plan(running: list[Attempt], further: Attempt) -> None:
    before, after = expected_kv(running, LENGTHS), expected_kv([*running, further], LENGTHS)
    assert (after >= before * (1.0 - 1e-9) - 1e-6).all()


@given(st.integers(1, 60), st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 3))
def test_equal_answers_of_certain_length_that_start_together_are_planned_whole(
    count: int, prompt: int, output: int, choices: int
) -> None:
    together = [(prompt, 0.0, output, choices, 0)] * count
    expected, variance = expected_kv(together, certain(output))
    assert expected.max() == pytest.approx(count * (prompt + choices * output))
    assert variance.max() == 0.0


def test_answers_that_end_in_turn_are_planned_by_what_they_hold_together() -> None:
    output, prompt = 400, 1000
    lengths = certain(output)
    in_turn = [(prompt, float(tokens), output, 1, 0) for tokens in range(0, output, 10)]
    now = sum(attempt[0] + attempt[1] for attempt in in_turn)
    peak = expected_kv(in_turn, lengths)[0].max()
    assert now <= peak <= 1.01 * now
    assert peak < 0.88 * len(in_turn) * (prompt + output)


def test_nothing_running_holds_nothing() -> None:
    assert not expected_kv([], LENGTHS).any()
    assert expected_kv([], LENGTHS).shape == (2, len(HORIZONS))


def test_what_generates_nothing_holds_its_step_for_the_shortest_time() -> None:
    expected, variance = expected_kv([(500, 0.0, 0, 1, 0)], LENGTHS)
    assert expected.tolist() == [500.0] + [0.0] * (len(HORIZONS) - 1)
    assert not variance.any()


def running(name: str, output_tokens: int = 0) -> Resident:
    return Resident(
        request=request(name, prompt_tokens=1000, max_output_tokens=400),
        started_s=0.0, promised_ttft_s=2.0, kv_reserved_tokens=1200,
        prefill_s=0.1, hit_tokens=0, output_tokens=output_tokens,
    )  # fmt: skip


def filled(placements: int, each: int = 10) -> tuple[SelfHostedFleet, PlacementQuery]:
    """Each placement runs some answers, of lengths that are known."""
    fleet, _ = idle_fleet(placements, Objective.LATENCY)
    for _ in range(100):
        fleet.lengths.learn("", 200)
    for index in range(placements):
        for number in range(each):
            fleet.add(index, running(f"r{index}-{number}"), 0.0)
    return fleet, query(fleet)


def fitting(fleet: SelfHostedFleet, asked: PlacementQuery, now: float = NOW) -> list[int]:
    return [int(index) for index in fleet.kv_plans.fit(np.arange(len(fleet)), asked, now)]


def test_a_request_fits_up_to_the_limit() -> None:
    fleet, asked = filled(1)
    request_of = asked.request
    plan = plain_plan(
        [(1000, 0.0, 400, 1, 0)] * 10
        + [(request_of.prompt_tokens, 0.0, request_of.max_output_tokens, 1, 0)],
        fleet.lengths,
    )
    peak = max(mean + fleet.policy.kv_sigmas * math.sqrt(variance) for mean, variance in plan)
    fleet.kv_plans.limit_tokens[0] = peak + 1.0
    assert fitting(fleet, asked) == [0]
    fleet.kv_plans.limit_tokens[0] = peak - 1.0
    assert fitting(fleet, asked) == []


def test_one_decision_makes_few_plans_and_starts_by_no_old_one() -> None:
    fleet, asked = filled(5)
    for first in (1, 3):
        fleet.kv_plans.refresh(first, NOW)
    assert fitting(fleet, asked) == [0, 1, 2, 3]
    assert fleet.kv_plans.made_at_s.tolist() == [NOW, NOW, NOW, NOW, -np.inf]
    assert fitting(fleet, asked) == [0, 1, 2, 3, 4]
    later_s = NOW + 2 * PLAN_AGE_S
    assert len(fitting(fleet, asked, later_s)) == MOST_PLANS


def test_nothing_is_planned_to_end_by_the_prior_alone() -> None:
    fleet, _ = idle_fleet(1, Objective.LATENCY)
    fleet.add(0, running("a"), 0.0)
    asked = query(fleet)
    for _ in range(int(PRIOR_ANSWERS) - 1):
        fleet.lengths.learn("", 200)
    assert fitting(fleet, asked) == []
    fleet.lengths.learn("", 200)
    assert fitting(fleet, asked) == [0]


def test_starts_and_ends_outdate_a_plan() -> None:
    fleet, asked = filled(1)
    assert fitting(fleet, asked) == [0]
    made = fleet.kv_plans.made_at_s
    fleet.add(0, running("more"), NOW)
    assert made[0] == -np.inf
    fleet.kv_plans.refresh(0, NOW)
    fleet.remove(0, "more", NOW)
    assert made[0] == -np.inf


def test_a_placement_that_is_full_now_costs_no_plan() -> None:
    fleet, asked = filled(2)
    fleet.kv_plans.limit_tokens[:] = (10_999.0, 600_000.0)
    assert fitting(fleet, asked) == [1]
    assert fleet.kv_plans.made_at_s.tolist() == [-np.inf, NOW]


def test_external_load_is_planned_to_stay_and_to_vary() -> None:
    fleet, asked = filled(1)
    plans = fleet.kv_plans
    plans.limit_tokens[0] = 20_000.0
    assert fitting(fleet, asked) == [0]
    for at_s in (NOW, NOW + 1.0):  # it counts from the second report on
        told = EngineReport(
            placement="p/0", at_s=at_s, running=14, waiting=0, kv_usage=0.03,
            prompt_tokens_total=0, generation_tokens_total=0,
        )  # fmt: skip
        fleet.take_report(0, told, at_s)
    plans.limit_tokens[0] = 20_000.0
    assert fleet.states[0].external_kv_tokens == 8000
    assert fitting(fleet, asked, NOW + 2.0) == []
    plans.limit_tokens[0] = 20_000.0 + 8000.0 + 4000.0  # one sequence in four has 2,000
    assert fitting(fleet, asked, NOW + 2.0) == [0]


def test_preemptions_lower_the_limit_for_a_while() -> None:
    fleet, _ = idle_fleet(1, Objective.LATENCY)
    [state] = fleet.states
    assert kv_limit_tokens(state, 0.01, NOW) == pytest.approx(0.99 * 600_000)
    state.record_preemptions(4, NOW)
    kept = state.reserve_share(NOW)
    assert kept > 0.01
    assert kv_limit_tokens(state, 0.01, NOW) == pytest.approx((1.0 - kept) * 600_000)
    assert kv_limit_tokens(state, 0.01, NOW + 600.0) == pytest.approx(0.99 * 600_000)


def test_plans_that_are_restored_are_as_old_as_they_were() -> None:
    fleet, asked = filled(2)
    fleet.kv_plans.refresh(0, NOW)
    kept = fleet.kv_plans.kept()
    assert fitting(fleet, asked, NOW + 1.0) == [0, 1]
    fleet.kv_plans.restore(kept)
    assert fleet.kv_plans.made_at_s.tolist() == [NOW, -np.inf]
