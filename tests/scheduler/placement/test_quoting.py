"""The vectorised quote against the plain one, over random fleets."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings

from scheduler.contract import Objective
from scheduler.placement.quotes import Block
from scheduler.placement.quoting import quote_fleet
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.policy import Policy
from scheduler.resident import Resident
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.placement.fleets_made import NOW, Made, idle_fleet, made, query
from tests.scheduler.placement.reference_quote import plain_quotes
from tests.scheduler.requests_made import request

ALL_REASONS = set(Block) - {
    *(Block.NOT_PERMITTED, Block.CONTEXT, Block.NOT_LOADED, Block.ADAPTER_SLOTS)
}


def test_a_quote_is_the_plain_one_for_every_placement() -> None:
    seen: Counter[Block] = Counter()

    @settings(max_examples=300)
    @given(made())
    def compare(made: Made) -> None:
        quote = quote_fleet(made.fleet, made.query, made.policy, NOW)
        for i, plain in enumerate(plain_quotes(made.fleet, made.query, made.policy, NOW)):
            assert quote.ttft_s[i] == pytest.approx(plain.ttft_s)
            assert quote.tpot_s[i] == pytest.approx(plain.tpot_s)
            assert quote.marginal_nano_usd[i] == pytest.approx(plain.marginal_nano_usd)
            assert quote.score[i] == pytest.approx(plain.score)
            expected = pytest.approx(plain.violations_expected, abs=1e-9)
            assert quote.violations_expected[i] == expected
            assert Block(int(quote.blocked[i])) is plain.blocked
            seen[plain.blocked] += 1

    for _ in range(5):  # a rare reason need not be drawn among the first 300
        compare()
        if seen.keys() >= ALL_REASONS:
            break
    assert seen.keys() >= ALL_REASONS, "fleets that never block compare little"


@given(made())
def test_a_kept_quote_outlives_the_next_one(made: Made) -> None:
    quote = quote_fleet(made.fleet, made.query, made.policy, NOW)
    kept, figures, blocked = quote.kept(), quote.figures.copy(), quote.blocked.copy()
    quote_fleet(made.fleet, made.query, made.policy, NOW + 1.0)
    assert np.array_equal(kept.figures, figures)
    assert np.array_equal(kept.blocked, blocked)
    assert kept.slowest_ttft_s == kept.ttft_s.max()


RUNNING, PROMPT, MODEL = 3, 1000, QWEN3_30B_H100
WORK_S = MODEL.prompt_work_s(PROMPT, PROMPT)


def send(fleet: SelfHostedFleet, name: str, at_s: float) -> None:
    """Sends a prompt to the first placement, its prefill as it is quoted there."""
    quote = quote_fleet(fleet, query(fleet, PROMPT), Policy(), at_s)
    resident = Resident(
        request=request(name, prompt_tokens=PROMPT), started_s=at_s, promised_ttft_s=2.0,
        kv_reserved_tokens=PROMPT, prefill_s=quote.prefill_s.item(0), hit_tokens=0,
    )  # fmt: skip
    fleet.add(0, resident, at_s)


def test_a_prompt_that_joins_a_decoding_engine_adds_its_experts_and_tokens_to_one_step() -> None:
    fleet, _ = idle_fleet(1, Objective.LATENCY)
    for number in range(RUNNING):
        send(fleet, f"r{number}", NOW - 9.0)
        fleet.progress(0, f"r{number}", 1, NOW - 8.0)
    half_s = MODEL.decode_step_s(RUNNING, fleet.kv_tokens.item(0)) / 2.0

    # What is left of the step that runs, and then
    # t0 + a eta D(B + 1 + u) + c (B + 1) + kappa K + P(u).
    found = quote_fleet(fleet, query(fleet, PROMPT), Policy(), NOW).ttft_s.item(0)
    kv_tokens = fleet.kv_tokens.item(0) + PROMPT
    touched_s = MODEL.expert_s * MODEL.touched_experts(RUNNING + 1 + PROMPT)
    rest_s = MODEL.sequence_s * (RUNNING + 1) + MODEL.kv_token_s * kv_tokens
    assert found == pytest.approx(half_s + MODEL.base_s + touched_s + rest_s + WORK_S)

    # A second prompt that is sent before that step shares it: no expert is read for it.
    send(fleet, "first", NOW)
    begins_s, shared_s = fleet.phase_rows[0].item(0), found - half_s
    assert begins_s > NOW
    quote = quote_fleet(fleet, query(fleet, PROMPT), Policy(), NOW)
    next_s = MODEL.sequence_s + MODEL.kv_token_s * PROMPT
    next_s += MODEL.expert_s * (MODEL.touched_experts(RUNNING + 2) - MODEL.touched_experts(4))
    assert quote.prefill_s.item(0) == pytest.approx(WORK_S)
    assert quote.ttft_s.item(0) == pytest.approx(begins_s - NOW + shared_s + WORK_S + next_s)

    # Once the step has begun, it waits for its end and reads the experts of a step of its own.
    later = begins_s + 1e-3
    quote = quote_fleet(fleet, query(fleet, PROMPT), Policy(), later)
    experts_s = MODEL.prompt_experts_s(RUNNING + 2, PROMPT)
    assert quote.prefill_s.item(0) == pytest.approx(WORK_S + experts_s)
    step_s = MODEL.decode_step_s(RUNNING + 2, fleet.kv_tokens.item(0) + PROMPT)
    ends_s = fleet.phase_rows[1].item(0)
    expected = ends_s - later + step_s + experts_s + WORK_S
    assert quote.ttft_s.item(0) == pytest.approx(expected)

    # A third one shares that step.
    send(fleet, "second", later)
    quote = quote_fleet(fleet, query(fleet, PROMPT), Policy(), later)
    assert quote.prefill_s.item(0) == pytest.approx(WORK_S)
