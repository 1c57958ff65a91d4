"""Batch work leaves the pace of higher classes free, as long as there are any."""

from __future__ import annotations

import math

import pytest

from scheduler.contract import Request, SloClass
from scheduler.model.urgent_pace import KEPT_S, UrgentPace
from scheduler.policy import Policy
from tests.scheduler.requests_made import request

POLICY = Policy(batch_pace_share=0.5)
BATCH = request("b", SloClass.BATCH)


def asked(slo_class: SloClass, tpot_s: float, max_output_tokens: int = 100) -> Request:
    return request("r", slo_class, tpot_s=tpot_s, max_output_tokens=max_output_tokens)


def test_without_higher_classes_its_own_promise_bounds_it() -> None:
    pace = UrgentPace()
    assert pace.most_step_s(BATCH, POLICY, 0.0) == math.inf
    pace.record(asked(SloClass.BATCH, 0.01), 0.0)
    assert pace.most_step_s(BATCH, POLICY, 0.0) == math.inf


def test_the_tightest_promise_counts_for_a_while() -> None:
    pace = UrgentPace()
    pace.record(asked(SloClass.INTERACTIVE, 0.05), 0.0)
    pace.record(asked(SloClass.STANDARD, 0.1), 1.0)
    assert pace.most_step_s(BATCH, POLICY, 1.0) == pytest.approx(0.025)
    assert pace.most_step_s(BATCH, POLICY, KEPT_S - 0.1) == pytest.approx(0.025)
    pace.record(asked(SloClass.STANDARD, 0.1), KEPT_S)  # the other one is too old
    assert pace.most_step_s(BATCH, POLICY, KEPT_S) == pytest.approx(0.05)
    assert pace.most_step_s(BATCH, POLICY, 2 * KEPT_S) == math.inf


def test_higher_classes_are_not_bounded_and_vectors_promise_no_pace() -> None:
    pace = UrgentPace()
    urgent = asked(SloClass.INTERACTIVE, 0.05)
    pace.record(asked(SloClass.INTERACTIVE, 0.01, max_output_tokens=0), 0.0)
    assert pace.most_step_s(BATCH, POLICY, 0.0) == math.inf
    pace.record(urgent, 0.0)
    assert pace.most_step_s(urgent, POLICY, 0.0) == math.inf
