"""The rule of each objective by itself."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.contract import Objective
from scheduler.placement.checks import checks_for
from scheduler.placement.objectives import OBJECTIVE_RULES, PACKED, SPREAD
from scheduler.placement.quotes import QuoteBuffers
from scheduler.policy import Policy
from tests.scheduler.placement.fleets_made import idle_fleet

POLICY = Policy()


def test_every_objective_has_a_rule() -> None:
    assert OBJECTIVE_RULES.keys() == set(Objective)


def buffers() -> QuoteBuffers:
    made = QuoteBuffers(2, np.zeros(2, dtype=np.int8))
    made.stall_added_s[:], made.step_added_s[:] = (0.2, 0.0), (0.001, 0.004)
    made.next_step_s[:], made.ttft_s[:] = (0.02, 0.01), (0.3, 0.1)
    made.quote.steps, made.quote.nano_usd_per_s = 100.0, np.array((1000.0, 1000.0))
    return made


def test_packing_minimises_cost_and_spreading_the_time_of_all() -> None:
    fleet, _ = idle_fleet(2, Objective.LATENCY)
    fleet.batch[:] = (30.0, 10.0)
    made = buffers()
    PACKED.write_score(fleet, made)
    assert made.score == pytest.approx(made.quote.marginal_nano_usd)
    assert made.score == pytest.approx((300.0, 400.0))
    SPREAD.write_score(fleet, made)
    assert made.score == pytest.approx((30 * 0.001 + 0.02 + 0.3, 10 * 0.004 + 0.01 + 0.1))


def test_packing_prefers_the_fullest_then_the_cheapest_then_the_last_to_fall_idle() -> None:
    fleet, _ = idle_fleet(4, Objective.COST)
    score, ties = np.array((1.0, 1.1, 1.2, 1.0)), np.arange(4)
    fleet.batch[:] = (5.0, 9.0, 9.0, 0.0)
    assert PACKED.prefer(fleet, score, ties).tolist() == [1]
    fleet.batch[:] = 0.0
    fleet.idle_since_s[:] = (1.0, 7.0, 3.0, 7.0)
    assert PACKED.prefer(fleet, score, ties).tolist() == [3]
    assert SPREAD.prefer(fleet, score, ties).tolist() == [0, 1, 2, 3]


def test_packing_tolerates_fewer_violations_while_a_group_stands_idle() -> None:
    fleet, _ = idle_fleet(2, Objective.COST)
    fleet.warm[:] = (True, False)
    assert PACKED.violations_tolerated(fleet, POLICY) == POLICY.spare_violations
    assert SPREAD.violations_tolerated(fleet, POLICY) == POLICY.max_violations
    fleet.warm[:] = True
    assert PACKED.violations_tolerated(fleet, POLICY) == POLICY.max_violations
    fleet.warm[:], fleet.serving[:] = (True, False), (True, False)
    assert PACKED.violations_tolerated(fleet, POLICY) == POLICY.max_violations, "it is not serving"


def test_only_packing_holds_idle_groups_and_without_late_binding_nothing_is_checked() -> None:
    packed, spread = (checks_for(rule, late_binding=True) for rule in (PACKED, SPREAD))
    assert packed[1:] == spread
    assert len(packed) == len(spread) + 1
    assert checks_for(PACKED, late_binding=False) == ()
