"""The choice of a placement: among those that are free, by the objective, on fresh curves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from scheduler.contract import Objective
from scheduler.placement.placement import MOST_REFRESHES, choose
from scheduler.placement.quotes import Block
from scheduler.placement.quoting import quote_fleet
from scheduler.placement.self_hosted import CURVE_AGE_S
from scheduler.resident import Resident
from tests.scheduler.placement.fleets_made import NOW, Made, idle_fleet, made, query
from tests.scheduler.requests_made import request


@settings(max_examples=200)
@given(made())
def test_the_choice_is_free_and_near_the_least_score(made: Made) -> None:
    fleet = made.fleet
    index, quote = choose(fleet, made.query, made.policy, NOW, 3)
    free = quote.blocked == Block.FREE
    if index is None:
        assert not free.any()
    else:
        assert free[index]
        near = free & (quote.score <= quote.score[free].min() * fleet.objective.tie_ratio)
        ranks = [i for i in np.flatnonzero(near) if fleet.groups[i] is fleet.groups[index]]
        soon_s = quote.ttft_s[ranks] + fleet.half_step_s[ranks]
        assert quote.ttft_s[index] <= soon_s.max()


@settings(max_examples=200)
@given(made())
def test_a_choice_decides_on_fresh_curves_and_refreshes_few(made: Made) -> None:
    fleet = made.fleet
    fleet.curve_at_s[:] = 0.0
    index, quote = choose(fleet, made.query, made.policy, NOW, 0)
    fresh = fleet.curve_at_s >= NOW - CURVE_AGE_S
    refreshed = {id(fleet.groups[i]) for i in np.flatnonzero(fresh)}
    assert len(refreshed) <= MOST_REFRESHES
    if index is not None:
        assert fresh[index]
    whole = quote.kept()
    again = quote_fleet(fleet, made.query, made.policy, NOW)
    assert np.array_equal(again.blocked, whole.blocked), "a recheck is the whole check"
    assert again.violations_expected == pytest.approx(whole.violations_expected, abs=1e-12)


def test_equal_placements_take_turns_only_where_requests_are_spread() -> None:
    turns = {
        objective: [
            choose(fleet, query(fleet), policy, NOW, rotation)[0] for rotation in range(1, 5)
        ]
        for objective in Objective
        for fleet, policy in (idle_fleet(3, objective),)
    }
    assert turns[Objective.LATENCY] == [1, 2, 0, 1]
    assert turns[Objective.COST] == [0, 0, 0, 0]


def test_of_the_ranks_of_a_group_the_least_loaded_one_is_taken() -> None:
    fleet, policy = idle_fleet(3, Objective.LATENCY, group="together")
    fleet.kv_tokens[:] = (500.0, 100.0, 300.0)
    fleet.kv_paced_tokens[:] = 50_000.0
    fleet.ranks[:] = 3.0
    assert [choose(fleet, query(fleet), policy, NOW, turn)[0] for turn in range(3)] == [1, 1, 1]


def test_prompts_sent_during_one_step_go_to_the_ranks_in_turn() -> None:
    """The first one on a rank is charged the experts and half a step; the next would share both."""
    fleet, policy = idle_fleet(2, Objective.LATENCY, group="together")
    sent = 0

    def send(index: int, now: float) -> str:
        nonlocal sent
        sent += 1
        quote = quote_fleet(fleet, query(fleet, prompt_tokens=10), policy, now)
        resident = Resident(
            request=request(f"r{sent}", arrival_s=now, prompt_tokens=10, max_output_tokens=400),
            started_s=now, promised_ttft_s=2.0, kv_reserved_tokens=210,
            prefill_s=quote.prefill_s.item(index), hit_tokens=0,
        )  # fmt: skip
        fleet.add(index, resident, now)
        return resident.request.request_id

    for index in (0, 1) * 8:
        fleet.progress(index, send(index, NOW - 1.0), 2, NOW - 0.5)
    first = choose(fleet, query(fleet, prompt_tokens=10), policy, NOW, 0)[0]
    assert first == 0
    send(first, NOW)
    during_s = NOW + fleet.half_step_s.item(0) * 0.8
    assert choose(fleet, query(fleet, prompt_tokens=10), policy, during_s, 0)[0] == 1


def test_no_placement_no_choice() -> None:
    fleet, policy = idle_fleet(0, Objective.LATENCY)
    assert choose(fleet, query(fleet), policy, NOW, 0)[0] is None
