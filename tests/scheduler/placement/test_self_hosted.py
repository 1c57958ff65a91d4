"""The arrays of a fleet follow the states of its placements, whatever happens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scheduler.contract import EngineReport, Objective
from scheduler.engine_steps import EngineStep, EngineSteps, ExpertStep, ExpertSteps
from scheduler.placement.carry_over import carry_over
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.resident import Resident
from scheduler.step_time.step_fit import StepSource
from scheduler.step_time.step_model import QWEN3_30B_H100
from scheduler.step_time.step_windows import SETTLE_S
from tests.scheduler.meters_made import report
from tests.scheduler.placement.fleets_made import idle_fleet
from tests.scheduler.requests_made import request

FOLLOWING = (
    *("sequences", "batch", "warm", "kv_tokens", "kv_free_tokens", "slot_room", "kv_variance"),
    *("prefill_end_s", "first_token_due_s", "kv_room_tokens", "idle_since_s", "serving"),
)


def resident(name: str, *, prompt_tokens: int = 1000, prefill_s: float = 0.1) -> Resident:
    return Resident(
        request=request(name, prompt_tokens=prompt_tokens, max_output_tokens=4096),
        started_s=0.0, promised_ttft_s=2.0, kv_reserved_tokens=prompt_tokens + 200,
        prefill_s=prefill_s, hit_tokens=0,
    )  # fmt: skip


def arrays(fleet: SelfHostedFleet) -> dict[str, np.ndarray]:
    return {name: getattr(fleet, name).copy() for name in FOLLOWING}


def test_tokens_of_a_lone_placement_move_its_arrays_as_a_sync_would() -> None:
    fleet, _ = idle_fleet(2, Objective.LATENCY)
    fleet.add(0, resident("a"), 1.0)
    assert fleet.progress(0, "a", 1, 1.2), "the first token"
    assert not fleet.progress(0, "a", 500, 5.0)
    assert not fleet.progress(0, "a", 400, 5.1), "older news"
    moved = arrays(fleet)
    assert moved["kv_tokens"].tolist() == [1500.0, 0.0]
    fleet.sync(0, 5.1)
    for name, after in arrays(fleet).items():
        assert after == pytest.approx(moved[name]), name


def test_a_fleet_is_empty_again_when_all_have_left() -> None:
    fleet, _ = idle_fleet(2, Objective.LATENCY)
    empty = arrays(fleet)
    for name in ("a", "b"):
        fleet.add(1, resident(name), 1.0)
    fleet.progress(1, "a", 7, 1.5)
    for name in ("a", "b"):
        fleet.remove(1, name, 2.0)
    empty["idle_since_s"][1] = 2.0
    left = arrays(fleet)
    left["prefill_end_s"][1] = 0.0
    for name in FOLLOWING:
        assert left[name] == pytest.approx(empty[name]), name


def test_ranks_share_batch_stall_and_the_kv_of_the_fullest() -> None:
    fleet, _ = idle_fleet(3, Objective.LATENCY, group="together")
    fleet.add(0, resident("a", prompt_tokens=4000, prefill_s=0.5), 1.0)
    fleet.add(2, resident("b", prompt_tokens=1000, prefill_s=0.2), 1.0)
    assert fleet.batch.tolist() == [2.0, 2.0, 2.0]
    assert fleet.stall_end_s == pytest.approx([1.5] * 3)
    assert fleet.kv_paced_tokens.tolist() == [12_000.0] * 3
    assert fleet.slot_room.tolist() == [15.0, np.inf, 15.0], "slots are the rank's own"


def test_slots_are_those_that_the_engine_tells_where_nobody_configured_them() -> None:
    for assumed, room in ((True, 2.0), (False, 15.0)):
        fleet, _ = idle_fleet(1, Objective.LATENCY)
        state = fleet.states[0]
        state.facts = replace(state.facts, max_running_assumed=assumed)
        fleet.add(0, resident("a"), 0.0)
        told = replace(report(0, 0), placement="p/0", max_running=3)
        fleet.take_report(0, told, 0.0)
        assert fleet.slot_room.tolist() == [room]


def test_an_overdue_prefill_delays_those_behind_it() -> None:
    fleet, _ = idle_fleet(1, Objective.LATENCY)
    fleet.add(0, resident("a", prefill_s=0.1), 0.0)
    fleet.add(0, resident("b", prefill_s=0.1), 0.0)
    due_s = fleet.first_token_due_s[0]
    fleet.extend_overdue_prefills(due_s - 0.001)
    assert fleet.prefill_end_s[0] == pytest.approx(0.2)
    fleet.extend_overdue_prefills(due_s + 1.0)
    assert fleet.prefill_end_s[0] > 1.5
    assert fleet.first_token_due_s[0] > due_s + 1.0


@pytest.mark.parametrize(("objective", "releasable"), [("cost", True), ("latency", False)])
def test_a_group_is_releasable_after_its_delay_where_requests_are_packed(
    objective: str, releasable: bool
) -> None:
    fleet, _ = idle_fleet(1, Objective(objective), release_delay_s=30.0)
    assert fleet.releasable(0, 31.0) is releasable
    assert not fleet.releasable(0, 29.0)
    fleet.add(0, resident("a"), 31.0)
    assert not fleet.releasable(0, 99.0)


def test_external_load_counts_while_reports_tell_of_it() -> None:
    fleet, _ = idle_fleet(1, Objective.LATENCY)
    for at_s in (1.0, 2.0):
        report = EngineReport(
            placement="p/0", at_s=at_s, running=5, waiting=0, kv_usage=0.1,
            prompt_tokens_total=10, generation_tokens_total=10,
        )  # fmt: skip
        fleet.take_report(0, report, at_s)
    assert fleet.sequences[0] == 5
    assert fleet.kv_tokens[0] == 60_000
    fleet.forget_stale(4.0)
    assert fleet.sequences[0] == 5
    fleet.forget_stale(60.0)
    assert fleet.sequences[0] == 0


def told_steps(at_s: float, *, restarted: bool = False) -> EngineSteps:
    """Forty steps of four sequences that take 50 ms each."""
    step = EngineStep(
        rank=0, at_s=at_s, took_s=0.05, sequences=4, decode_tokens=4, output_tokens=4,
        prefills=0, prefill_tokens=0, prompt_tokens=None, kv_usage=0.0,
    )  # fmt: skip
    return EngineSteps(placement="a", at_s=at_s, steps=(step,) * 200, restarted=restarted)


def test_single_steps_are_fitted_and_then_quoted() -> None:
    fleet, _ = idle_fleet(2, Objective.LATENCY)
    fleet.add(0, resident("a"), 1.0)
    before_s = float(fleet.step_s[0])
    fleet.take_steps(0, told_steps(1.0), 1.5)
    group = fleet.groups[0]
    assert group.fit.model.decode_step_s(4, 0) == pytest.approx(0.05, rel=0.03)
    assert group.fit.source is StepSource.FIT
    assert fleet.step_s[0] != before_s
    assert fleet.models.base_s[0] == group.model.base_s
    assert group.has_steps(11.0)
    assert not group.has_steps(12.0)


def test_steps_after_a_restart_wait_until_the_engine_is_warm() -> None:
    fleet, _ = idle_fleet(1, Objective.LATENCY)
    fit = fleet.groups[0].fit
    fleet.take_steps(0, told_steps(5.0, restarted=True), 5.0)
    assert fit.state.windows == 0
    fleet.take_steps(0, told_steps(5.1 + SETTLE_S), 5.1 + SETTLE_S)
    assert fit.state.windows > 0


def told_experts(*, restarted: bool = False) -> EngineSteps:
    """Steps of eight tokens that touch 40 of 128 experts (uniform routing: 52), on two ranks."""
    step = ExpertStep(tokens=8, prefill_tokens=0, distinct=40.0, load=(24.0, 40.0))
    experts = ExpertSteps(experts=128, experts_per_token=8, steps=(step,) * 100)
    return EngineSteps(placement="a", at_s=1.0, steps=(), experts=experts, restarted=restarted)


def test_the_experts_that_were_seen_are_quoted() -> None:
    fleet, _ = idle_fleet(2, Objective.LATENCY)
    before_s = fleet.models.decode_step_s(np.array([8, 8]), np.array([0, 0]))
    fleet.take_steps(0, told_experts(), 1.0)
    group = fleet.groups[0]
    assert group.model.distinct_experts(8) == pytest.approx(40.0, rel=0.01)
    assert group.step_s(8) == pytest.approx(group.model.decode_step_s(8, 0))
    after_s = fleet.models.decode_step_s(np.array([8, 8]), np.array([0, 0]))
    assert after_s[0] < 0.95 * before_s[0]
    assert after_s[1] == before_s[1]
    assert group.expert_loads.imbalance == pytest.approx(1.25)
    assert group.expert_loads.busiest_rank == 1


def test_a_restart_forgets_which_rank_lagged() -> None:
    fleet, _ = idle_fleet(1, Objective.LATENCY)
    fleet.take_steps(0, told_experts(), 1.0)
    law = fleet.groups[0].model.law
    again = replace(told_experts(restarted=True), experts=None)
    fleet.take_steps(0, again, 2.0)
    assert fleet.groups[0].expert_loads.imbalance is None
    assert fleet.groups[0].model.law is law


def test_another_prior_keeps_the_experts_that_were_seen() -> None:
    fleet, policy = idle_fleet(1, Objective.LATENCY)
    fleet.take_steps(0, told_experts(), 1.0)
    slower = QWEN3_30B_H100.scaled(base=2.0)
    [state] = fleet.states
    state.facts = replace(state.facts, step_model=slower)
    after = carry_over(fleet, [state], policy, 2.0)
    assert after.groups[0].fit.prior == slower
    assert after.groups[0].model.distinct_experts(8) == pytest.approx(40.0, rel=0.01)
