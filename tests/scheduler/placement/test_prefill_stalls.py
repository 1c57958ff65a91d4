"""The stretch of answers by prefills: a mean over tokens, and what a typical answer meets of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from scheduler.contract import EngineReport, Objective
from scheduler.placement.prefill_stalls import (
    CALM_S,
    FORGET_S,
    KEPT_S,
    PrefillStalls,
    typical_stretch,
)
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.resident import Resident
from tests.scheduler.meters_made import report
from tests.scheduler.placement.fleets_made import idle_fleet
from tests.scheduler.requests_made import request


def stalls(decode_s: float, gaps_s: float, now: float = 0.0) -> PrefillStalls:
    one = PrefillStalls()
    one.observe(decode_s, gaps_s, now)
    return one


def test_the_stretch_is_a_mean_over_tokens_not_over_windows() -> None:
    one = stalls(1e6, 1e6)
    one.observe(1.0, 1e5, 0.0)  # hardly a token came, and long stalls before each
    assert one.stretch(PrefillStalls()) == pytest.approx(1.1, rel=0.01)


def test_a_group_that_saw_little_expects_what_the_groups_like_it_saw() -> None:
    pool = stalls(1e5, 1.5e5)
    assert PrefillStalls().stretch(pool) == pytest.approx(1.5, rel=1e-3)
    assert stalls(10.0, 10.0).stretch(pool) == pytest.approx(1.5, rel=0.02)
    assert stalls(1e6, 1e6).stretch(pool) == pytest.approx(1.0, rel=0.02)
    assert PrefillStalls().stretch(PrefillStalls()) == 1.0


def test_tokens_are_forgotten_with_time_and_by_newer_ones() -> None:
    for passed_s, newer_s in ((FORGET_S, 1.0), (0.0, KEPT_S), (FORGET_S, KEPT_S)):
        one = stalls(newer_s, 3.0 * newer_s)
        one.observe(newer_s, newer_s, passed_s)
        kept = math.exp(-passed_s / FORGET_S - newer_s / KEPT_S)
        seen = (3.0 * kept + 1.0) / (kept + 1.0)
        alike = (newer_s * (3.0 * kept + 1.0) + CALM_S) / (newer_s * (kept + 1.0) + CALM_S)
        assert min(seen, alike) <= one.stretch(one) <= max(seen, alike)


def test_the_size_of_a_stall_is_that_in_which_a_moment_of_stalls_lies() -> None:
    one = PrefillStalls()
    assert one.stall_s == 0.0
    for _ in range(2000):
        one.prompt_sent(0.1)
        one.prompt_sent(1.0)
    assert one.stall_s == pytest.approx(1.01 / 1.1, rel=0.02)


@pytest.mark.parametrize("expected", [0.5, 1.0, 3.0, 30.0])
def test_a_typical_answer_is_told_about_the_median(expected: float) -> None:
    rng = np.random.default_rng(1)
    answer_s, stall_s = 2.0, 0.3
    numbers = rng.poisson(2.0 * expected, 20_000)  # of stalls whose sizes are exponential
    seen = 1.0 + rng.gamma(np.maximum(numbers, 1e-9), stall_s / 2.0) / answer_s
    told = typical_stretch(float(seen.mean()), answer_s, stall_s)
    assert 0.45 < float((seen <= told).mean()) < 0.65


def test_without_stalls_or_an_answer_the_mean_is_told() -> None:
    assert typical_stretch(1.4, 2.0, 0.0) == 1.4
    assert typical_stretch(1.4, 0.0, 0.1) == 1.4
    assert typical_stretch(1.0, 2.0, 0.1) == 1.0
    assert typical_stretch(1.001, 2.0, 5.0) == pytest.approx(1.0, abs=1e-6)


def told(fleet: SelfHostedFleet, now: float) -> None:
    for index, state in enumerate(fleet.states):
        one: EngineReport = report(round(now * 1e9), running=0)
        fleet.take_report(index, replace(one, placement=state.facts.name, at_s=now), now)


def test_a_fleet_learns_the_stretch_from_its_own_answers() -> None:
    fleet, _ = idle_fleet(2, Objective.LATENCY)
    told(fleet, 0.0)
    for number in range(16):
        name = f"r{number}"
        resident = Resident(
            request=request(name, prompt_tokens=100, max_output_tokens=9_999_999),
            started_s=0.0, promised_ttft_s=2.0, kv_reserved_tokens=200, prefill_s=0.2, hit_tokens=0,
        )  # fmt: skip
        fleet.add(0, resident, 0.0)
        fleet.progress(0, name, 1, 0.1)
    tokens = 1.0
    for second in range(1, 9):
        tokens += 0.5 / fleet.step_s.item(0)  # half of the time is prefills'
        for number in range(16):
            fleet.progress(0, f"r{number}", round(tokens), 0.1 + second)
        told(fleet, 0.1 + second)
    assert 1.8 < fleet.stretch.item(0) < 2.1
    assert fleet.stretch.item(1) == pytest.approx(fleet.stretch.item(0), rel=0.1), "they are alike"
