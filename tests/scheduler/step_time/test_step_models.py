"""Many groups at once say what each alone says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.step_time.step_model import QWEN3_30B_H100, StepModel
from scheduler.step_time.step_models import StepModels

SPECULATIVE = replace(
    QWEN3_30B_H100, overlap=0.9, draft_tokens=3, tokens_per_step=2.5, ranks=4, kv_token_s=5e-8
)


@given(st.lists(st.tuples(st.integers(0, 512), st.integers(0, 10**6)), min_size=2, max_size=2))
def test_many_groups_at_once_say_the_same_as_each_alone(loads: list[tuple[int, int]]) -> None:
    models: list[StepModel] = [QWEN3_30B_H100, SPECULATIVE]
    together = StepModels(models)
    batch, kv = np.array(loads, dtype=np.int64).T
    rows = list(zip(models, loads, strict=True))
    assert together.decode_step_s(batch, kv) == pytest.approx(
        [m.decode_step_s(b, k) for m, (b, k) in rows]
    )
    assert together.tpot_s(batch, kv) == pytest.approx([m.tpot_s(b, k) for m, (b, k) in rows])
    prompts, untouched_s = 100 * batch, [m.prompt_experts_s(9, 8192) for m in models]
    assert together.prefill_time_s(prompts, prompts + kv, np.array(untouched_s)) == pytest.approx(
        [m.prefill_time_s(100 * b, 100 * b + k, 9) for m, (b, k) in rows]
    )


def test_a_new_fit_replaces_one_group() -> None:
    together = StepModels([QWEN3_30B_H100, QWEN3_30B_H100])
    together.set(1, SPECULATIVE)
    batch = np.array([8, 8])
    assert together.decode_step_s(batch, np.zeros(2)) == pytest.approx(
        [m.decode_step_s(8, 0) for m in (QWEN3_30B_H100, SPECULATIVE)]
    )


@given(st.integers(0, 200_000), st.integers(1, 4))
def test_a_prompt_that_no_group_has_cached_takes_the_same_time(prompt: int, inputs: int) -> None:
    models = [QWEN3_30B_H100, SPECULATIVE]
    together, untouched_s = StepModels(models), np.array([0.01, 0.002])
    together.set(0, QWEN3_30B_H100.scaled(prefill=1.3))
    context = prompt * (0.5 + 0.5 / inputs)
    alone_s = together.uncached_prefill_time_s(float(prompt), context, untouched_s, np.empty(2))
    prompts = np.full(2, float(prompt))
    assert alone_s == pytest.approx(together.prefill_time_s(prompts, context, untouched_s))
