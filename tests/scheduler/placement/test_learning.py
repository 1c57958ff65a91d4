"""A fleet learns what prompts take from its own dispatches, and uses it from the next report on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.contract import EngineReport, Objective
from scheduler.placement.learning import answer_ended
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.resident import Resident
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.meters_made import report
from tests.scheduler.placement.fleets_made import idle_fleet
from tests.scheduler.requests_made import request

PROMPT = 6000
SLOW = QWEN3_30B_H100.scaled(prefill=2.5)
PRIOR_S = QWEN3_30B_H100.prompt_work_s(PROMPT, PROMPT)


def resident(name: str, now: float) -> Resident:
    return Resident(
        request=request(name, prompt_tokens=PROMPT, max_output_tokens=4096), started_s=now,
        promised_ttft_s=2.0, kv_reserved_tokens=PROMPT + 200, prefill_s=PRIOR_S, hit_tokens=0,
    )  # fmt: skip


def told(fleet: SelfHostedFleet, index: int, now: float, running: int = 0) -> None:
    name = fleet.states[index].facts.name
    one: EngineReport = replace(report(round(now * 1e9), running=running), placement=name)
    fleet.take_report(index, replace(one, at_s=now), now)


def work(fleet: SelfHostedFleet, *, external: int = 0, given_up: bool = False) -> None:
    """Prompts one after the other on an engine whose prefills take 2.5 times the prior's."""
    for at in range(20):
        now, name = float(at), f"r{at}"
        told(fleet, 0, now, external)
        told(fleet, 0, now + 0.01, external)
        fleet.add(0, resident(name, now), now + 0.1)
        end_s = now + 0.1 + SLOW.prefill_time_s(PROMPT, PROMPT)
        if not given_up:
            fleet.progress(0, name, 1, end_s)
        fleet.remove(0, name, end_s)
        answer_ended(fleet, 0, name, None)


def learnt_s(fleet: SelfHostedFleet) -> float:
    return fleet.groups[0].model.prompt_work_s(PROMPT, PROMPT)


def test_prefills_are_learnt_from_dispatch_to_first_token() -> None:
    fleet, _ = idle_fleet(2, Objective.LATENCY)
    work(fleet)
    assert learnt_s(fleet) == pytest.approx(2.5 * PRIOR_S, rel=0.05), "no bound keeps it away"
    assert fleet.models.prefill_token_s[0] > 2.0 * fleet.models.prefill_token_s[1]


def test_a_fit_is_applied_at_the_next_report() -> None:
    fleet, _ = idle_fleet(1, Objective.LATENCY)
    fleet.add(0, resident("a", 1.0), 1.0)
    fleet.progress(0, "a", 1, 1.0 + SLOW.prefill_time_s(PROMPT, PROMPT))
    answer_ended(fleet, 0, "a", None)
    assert learnt_s(fleet) == PRIOR_S
    told(fleet, 0, 2.0)
    assert learnt_s(fleet) > 1.5 * PRIOR_S


def test_prompts_of_other_clients_and_prompts_given_up_tell_nothing() -> None:
    for how in ({"external": 3}, {"given_up": True}):
        fleet, _ = idle_fleet(1, Objective.LATENCY)
        work(fleet, **how)
        assert learnt_s(fleet) == pytest.approx(PRIOR_S, rel=0.01), how
