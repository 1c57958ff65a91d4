"""Saturation of a model's own servers: its mark with hysteresis, and what operators are shown."""

from __future__ import annotations

from itertools import pairwise

import pytest

from scheduler.overflow.saturation import DWELL_S, OFF, ON, Saturation, WorkRate, shown_share


def test_the_mark_needs_more_than_a_burst_and_changes_once_a_dwell_at_most() -> None:
    mark = Saturation()
    mark.observe(0.0, 0.0)
    mark.observe(5.0, 0.1)
    assert not mark.marked, "a tenth of a second is a burst"
    changes, now, was = [], 0.1, False
    for step in range(6000):
        now += 0.1
        wait_share = 2.0 if (step // 100) % 2 == 0 else 0.0  # 10 s each
        mark.observe(wait_share, now)
        if mark.marked is not was:
            changes.append(now)
            was = mark.marked
    assert len(changes) >= 2
    assert min(b - a for a, b in pairwise(changes)) >= DWELL_S - 1e-6


def test_a_marked_model_lets_less_wait_and_leaves_the_mark_late() -> None:
    mark = Saturation()
    for second in range(30):
        mark.observe(1.5, float(second))
    assert mark.marked
    assert mark.wait_share == OFF
    for second in range(30, 200):
        mark.observe((OFF + ON) / 2, float(second))
    assert mark.marked, "between the two figures nothing changes"
    for second in range(200, 260):
        mark.observe(0.1, float(second))
    assert not mark.marked
    assert mark.wait_share == ON


def test_the_rate_is_measured_while_requests_wait() -> None:
    rate = WorkRate()
    assert rate.per_s(4) == pytest.approx(4.0), "a group counts for 1 before anything was measured"
    for second in range(1, 200):
        rate.advance(float(second), waiting=True)
        rate.add_work(2.5)
    assert rate.per_s(4) == pytest.approx(2.5, rel=0.1)
    rate.advance(1000.0, waiting=False)
    assert rate.per_s(4) == pytest.approx(2.5, rel=0.1), "idle time says nothing"


def test_what_is_shown_weighs_those_that_wait_by_their_work() -> None:
    assert shown_share(0.3, []) == 0.3
    assert shown_share(0.3, [(5.0, 0.0), (5.0, 0.1)]) == pytest.approx(0.3)
    assert shown_share(0.3, [(5.0, 0.1), (5.0, 0.7)]) == pytest.approx(0.5)
    assert shown_share(0.4, [(9.0, 0.2), (1.0, 5.4)]) == pytest.approx(0.9)
    assert shown_share(0.4, [(1.0, 0.0), (9.0, 2.4)]) == pytest.approx(2.2)
    assert shown_share(1.8, [(1.0, 0.1), (9.0, 1.2)]) == pytest.approx(1.8), "an arrival meets that"
    assert shown_share(0.4, [(0.0, 9.0)]) == 0.4, "nothing to be done is no wait"
