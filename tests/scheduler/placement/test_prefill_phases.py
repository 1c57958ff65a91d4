"""Which pending prompts are computed together, and when."""

from __future__ import annotations

import pytest

from scheduler.contract import PlacementKind
from scheduler.placement.prefill_phases import NONE_PENDING, prefill_phases
from scheduler.placement_state import Placement, PlacementState
from scheduler.resident import Resident
from scheduler.step_time.kv_transfer import NO_TRANSFER, KvTransferTime
from tests.scheduler.requests_made import request

CHUNK_S, STEP_S = 0.2, 0.02


def state_with(*prefills: tuple[str, float, float]) -> PlacementState:
    """Prefills by name, seconds, and time at which they were sent, beside one that decodes."""
    state = PlacementState(
        Placement(name="a", kind=PlacementKind.SELF_HOSTED, model="moe", max_running=9)
    )
    send(state, "decodes", 0.1, 0.0)
    state.progress("decodes", 1, 0.5)
    for name, prefill_s, at_s in prefills:
        send(state, name, prefill_s, at_s)
    return state


def send(state: PlacementState, name: str, prefill_s: float, at_s: float) -> None:
    resident = Resident(
        request=request(name), started_s=at_s, promised_ttft_s=2.0, kv_reserved_tokens=200,
        prefill_s=prefill_s, hit_tokens=0,
    )  # fmt: skip
    state.add(resident, at_s)


def test_nothing_is_pending() -> None:
    assert prefill_phases(state_with(), CHUNK_S, STEP_S) == NONE_PENDING


def test_a_prompt_joins_when_half_a_step_is_over() -> None:
    phases = prefill_phases(state_with(("a", 0.1, 1.0)), CHUNK_S, STEP_S)
    assert phases.begin_s == pytest.approx(1.01)
    assert phases.end_s == pytest.approx(1.01 + 0.1 + STEP_S)
    assert (phases.computing_s, phases.waiting_s) == (0.1, 0.0)


def test_prompts_sent_during_a_step_share_the_next_one() -> None:
    state = state_with(("a", 0.1, 1.0), ("b", 0.03, 1.05), ("c", 0.04, 1.06))
    phases = prefill_phases(state, CHUNK_S, STEP_S)
    assert phases.computing_s == 0.1
    assert phases.waiting_s == pytest.approx(0.07)
    state.progress("a", 1, 1.2)
    after = prefill_phases(state, CHUNK_S, STEP_S)
    assert after.begin_s == 1.2
    assert after.computing_s == pytest.approx(0.07)
    assert after.waiting_s == 0.0
    assert after.end_s == pytest.approx(1.2 + 0.07 + STEP_S)


def test_a_long_prompt_takes_a_step_for_each_chunk() -> None:
    phases = prefill_phases(state_with(("a", 0.5, 1.0)), CHUNK_S, STEP_S)
    assert phases.end_s == pytest.approx(1.01 + 0.5 + 3 * STEP_S)
    assert phases.first_token_due_s == pytest.approx(1.01 + 0.5 + 4 * STEP_S)


def test_the_first_token_waits_for_the_kv_cache_where_engines_of_their_own_decode() -> None:
    state, transfer = state_with(("a", 0.5, 1.0)), KvTransferTime(0.01, 1e-4)
    here, there = (prefill_phases(state, CHUNK_S, STEP_S, each) for each in (NO_TRANSFER, transfer))
    prompt = state.residents["a"].request.prompt_tokens
    added_s = there.first_token_due_s - here.first_token_due_s
    assert added_s == pytest.approx(0.01 + 1e-4 * prompt)
    assert there._replace(first_token_due_s=0.0) == here._replace(first_token_due_s=0.0)


def test_when_one_is_given_up_the_others_are_computed_from_then_on() -> None:
    state = state_with(("a", 0.1, 1.0), ("b", 0.05, 1.05))
    state.remove("a", 1.08)
    phases = prefill_phases(state, CHUNK_S, STEP_S)
    assert (phases.computing_s, phases.waiting_s) == (0.05, 0.0)
    assert phases.begin_s == pytest.approx(1.08 + STEP_S / 2.0)
