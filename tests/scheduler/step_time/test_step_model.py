"""The formulas of the step time of one group."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.step_time.step_model import QWEN3_30B_H100

SPECULATIVE = replace(
    QWEN3_30B_H100, overlap=0.9, draft_tokens=3, tokens_per_step=2.5, ranks=4, kv_token_s=5e-8
)


@pytest.mark.parametrize(
    ("experts", "taken", "shares"),
    [
        (8, 2, {1: 25, 4: 68, 8: 90, 16: 99}),
        (128, 8, {1: 6, 4: 23, 8: 40, 16: 64, 32: 87, 64: 98}),
        (256, 8, {1: 3, 4: 12, 8: 22, 16: 40, 32: 64, 64: 87, 128: 98}),
        (384, 8, {8: 16, 16: 29, 32: 49, 64: 74, 128: 93}),
        (128, 1, {32: 22, 64: 39, 128: 63, 256: 87}),
    ],
)
def test_the_share_of_experts_that_a_batch_touches(
    experts: int, taken: int, shares: dict[int, int]
) -> None:
    model = replace(QWEN3_30B_H100, experts=experts, experts_per_token=taken)
    for batch, percent in shares.items():
        assert 100 * model.distinct_experts(batch) / experts == pytest.approx(percent, abs=1)


@pytest.mark.parametrize(
    ("experts", "taken", "b95", "b99"),
    [(8, 2, 10, 16), (32, 4, 22, 34), (160, 8, 58, 90), (384, 8, 142, 219), (128, 1, 382, 587)],
)
def test_the_touch_all_knee(experts: int, taken: int, b95: int, b99: int) -> None:
    model = replace(QWEN3_30B_H100, experts=experts, experts_per_token=taken)
    assert model.touch_all_batch() == pytest.approx(b95, abs=1)
    assert model.touch_all_batch(0.99) == pytest.approx(b99, abs=1)
    drafting = replace(model, draft_tokens=1)
    assert drafting.touch_all_batch() == pytest.approx(model.touch_all_batch() / 2)
    assert replace(model, experts_per_token=experts).touch_all_batch() == 1.0


def test_speculation_touches_more_experts_and_yields_more_tokens() -> None:
    plain = replace(SPECULATIVE, draft_tokens=0, tokens_per_step=1.0)
    assert SPECULATIVE.decode_step_s(8, 0) > plain.decode_step_s(8, 0)
    assert SPECULATIVE.tpot_s(8, 0) == pytest.approx(SPECULATIVE.decode_step_s(8, 0) / 2.5)


def test_the_slowest_rank_sets_the_pace() -> None:
    skewed, even = (4000, 1000, 1000, 2000), (2000, 2000, 2000, 2000)
    slow_s, fast_s = (
        SPECULATIVE.decode_step_s(8, max(ranks) * SPECULATIVE.ranks) for ranks in (skewed, even)
    )
    assert slow_s - fast_s == pytest.approx(2000 * SPECULATIVE.kv_token_s)


@given(
    st.integers(1, 100_000), st.integers(0, 100_000), st.lists(st.integers(1, 50_000), max_size=4)
)
def test_chunks_of_a_prompt_add_up_to_it(new: int, cached: int, cuts: list[int]) -> None:
    model = replace(QWEN3_30B_H100, prefill_s=0.0)
    edges = [cached, *sorted(cached + cut for cut in cuts if cut < new), cached + new]
    chunks = [model.prompt_work_s(b - a, b) for a, b in pairwise(edges)]
    assert sum(chunks) == pytest.approx(model.prompt_work_s(new, cached + new))


def test_a_cached_prefix_saves_its_own_prefill() -> None:
    model = replace(QWEN3_30B_H100, prefill_s=0.0)
    saved_s = model.prompt_work_s(8000, 8000) - model.prompt_work_s(3000, 8000)
    assert saved_s == pytest.approx(model.prompt_work_s(5000, 5000))
    assert model.prefill_time_s(0, 8000) == 0.0


@given(st.integers(1, 40_000), st.integers(0, 300))
def test_a_prompt_pays_neither_the_step_nor_the_experts_of_those_it_shares_it_with(
    prompt: int, batch: int
) -> None:
    model = QWEN3_30B_H100
    chunks = -(-prompt // model.chunk_tokens)
    beside_s = model.prefill_time_s(prompt, prompt, batch)
    decoded = model.touched_experts(batch)
    both = model.touched_experts(batch + prompt / chunks)
    step_s = model.expert_s * (both - decoded) + (0.0 if batch else model.base_s)
    assert beside_s == pytest.approx(chunks * step_s + model.prompt_work_s(prompt, prompt))
    if batch:
        assert beside_s < model.prefill_time_s(prompt, prompt)
        # The more sequences decode, the fewer experts it finds untouched.
        assert beside_s >= model.prefill_time_s(prompt, prompt, batch + 1)


@given(st.integers(0, 300), st.integers(0, 10**6), st.integers(0, 10**5))
def test_one_more_sequence_costs_less_the_fuller_the_batch(batch: int, kv: int, new: int) -> None:
    model = SPECULATIVE
    added_s = model.marginal_step_s(batch, kv, new)
    assert added_s > 0
    if batch == 0:
        assert added_s == model.decode_step_s(1, kv + new)
    else:
        assert model.marginal_step_s(batch + 1, kv, new) <= added_s * (1 + 1e-9)
