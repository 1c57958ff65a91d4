"""Windows from single steps, and what the fit makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from scheduler.engine_steps import EngineStep, EngineSteps
from scheduler.step_time.single_steps import MOST_WINDOWS, windows_of
from scheduler.step_time.step_fit import StepFit, StepSource
from scheduler.step_time.step_model import QWEN3_30B_H100, StepModel

CAPACITY = 100_000


def step(sequences: int, took_s: float = 0.01, *, at_s: float = 1.0, rank: int = 0) -> EngineStep:
    return EngineStep(
        rank=rank,
        at_s=at_s,
        took_s=took_s,
        sequences=sequences,
        decode_tokens=sequences,
        output_tokens=sequences,
        prefills=0,
        prefill_tokens=0,
        prompt_tokens=None,
        kv_usage=0.1,
    )


def told(*steps: EngineStep, whole: bool = True) -> EngineSteps:
    return EngineSteps(placement="a", at_s=2.0, steps=steps, whole=whole)


def truth_step(model: StepModel, sequences: int, noise: float, prefill: int = 0) -> EngineStep:
    took_s = model.decode_step_s(sequences, 0.1 * CAPACITY)
    took_s += model.prefill_time_s(prefill, prefill, sequences)
    one = step(sequences, took_s * noise)
    return replace(one, prefills=int(prefill > 0), prefill_tokens=prefill, prompt_tokens=prefill)


def test_like_steps_are_put_together() -> None:
    windows = windows_of(
        told(*[step(4, 0.01), step(8, 0.02)] * 25), kv_capacity_tokens=CAPACITY, from_s=0.0
    )
    assert sorted((w.batch, w.single_steps, round(w.step_s, 9)) for w in windows) == [
        *((4.0, 5, 0.01), (4.0, 20, 0.01), (8.0, 5, 0.02), (8.0, 20, 0.02))
    ]
    assert all(w.kv_tokens == pytest.approx(0.1 * CAPACITY) for w in windows)


def test_a_stall_counts_as_twice_the_usual_time() -> None:
    [window] = windows_of(
        told(*[step(4, 0.01)] * 9, step(4, 5.0)), kv_capacity_tokens=0, from_s=0.0
    )
    assert window.step_s == pytest.approx((9 * 0.01 + 0.02) / 10)


def test_steps_of_a_start_of_preemptions_and_without_work_are_left_out() -> None:
    steps = (step(2, at_s=0.5), replace(step(3), preemptions=1), step(0), step(4, took_s=0.0))
    assert windows_of(told(*steps), kv_capacity_tokens=0, from_s=1.0) == []


def test_a_prefill_of_no_tokens_is_no_work() -> None:
    empty = replace(step(0), prefills=1)
    assert windows_of(told(empty), kv_capacity_tokens=CAPACITY, from_s=0.0) == []


def test_the_windows_of_one_event_are_bounded() -> None:
    steps = [step(1 + i % 200) for i in range(16_384)]
    windows = windows_of(told(*steps), kv_capacity_tokens=0, from_s=0.0)
    assert len(windows) == MOST_WINDOWS


def test_ranks_that_step_together_are_one_batch() -> None:
    steps = [
        one
        for at in range(10)
        for one in (
            step(3, at_s=1.0 + 0.01 * at, rank=0),
            step(2, at_s=1.001 + 0.01 * at, rank=1),
        )
    ]
    windows = windows_of(told(*steps), kv_capacity_tokens=CAPACITY, from_s=0.0)
    assert sum(w.single_steps for w in windows) == 10
    assert max(w.batch for w in windows) == 5.0
    # Where each API server tells only a part, the batch is unknown.
    assert windows_of(told(*steps, whole=False), kv_capacity_tokens=CAPACITY, from_s=0.0) == []


def test_drafts_and_their_gain_are_read() -> None:
    one = replace(step(4), decode_tokens=12, output_tokens=10)
    [window] = windows_of(told(one), kv_capacity_tokens=0, from_s=0.0)
    assert (window.draft_tokens, window.tokens_per_step) == (2.0, 2.5)
    [window] = windows_of(told(replace(one, output_tokens=None)), kv_capacity_tokens=0, from_s=0.0)
    assert window.tokens_per_step is None


def test_two_hundred_steps_of_a_slower_engine_are_enough() -> None:
    truth = QWEN3_30B_H100.scaled(base=2.0, experts=1.6, sequences=1.5, kv=1.4, prefill=0.7)
    rng = np.random.default_rng(1)
    fit = StepFit(QWEN3_30B_H100)
    for _ in range(2):
        steps = [
            truth_step(truth, int(batch), float(rng.lognormal(0.0, 0.1)), 2000 * int(at % 10 == 0))
            for at, batch in enumerate(np.repeat([1, 2, 4, 8, 16], 20))
        ]
        fit.observe_steps(windows_of(told(*steps), kv_capacity_tokens=CAPACITY, from_s=0.0))
    assert fit.source is StepSource.FIT
    for batch in (1, 2, 4, 8, 16):
        wanted_s = truth.decode_step_s(batch, 0.1 * CAPACITY)
        assert fit.model.decode_step_s(batch, 0.1 * CAPACITY) == pytest.approx(wanted_s, rel=0.03)
    whole_s = truth.prefill_time_s(2000, 2000)
    assert fit.model.prefill_time_s(2000, 2000) == pytest.approx(whole_s, rel=0.1)


def test_a_step_that_only_prefills_teaches_the_prefill() -> None:
    truth = QWEN3_30B_H100.scaled(prefill=2.0)
    steps = [truth_step(truth, 0, 1.0, 2000)] * 40 + [truth_step(truth, 4, 1.0)] * 160
    fit = StepFit(QWEN3_30B_H100)
    fit.observe_steps(windows_of(told(*steps), kv_capacity_tokens=CAPACITY, from_s=0.0))
    assert fit.model.prefill_time_s(2000, 2000) == pytest.approx(
        truth.prefill_time_s(2000, 2000), rel=0.05
    )
    assert fit.model.decode_step_s(4, 0.1 * CAPACITY) == pytest.approx(
        truth.decode_step_s(4, 0.1 * CAPACITY), rel=0.05
    )


CPU_MS = {1: 1.65, 2: 1.72, 4: 1.82, 8: 1.98, 16: 2.35}
"""Steps of vLLM's CPU build with a tiny model on an idle machine, unlike those of the prior."""


def cpu_steps(rng: np.random.Generator, scatter: float, pace: float) -> list[EngineStep]:
    """Ten steps of each batch after one that computes its prompts. `scatter`: of single steps;
    `pace`: of all steps of a batch together."""
    steps: list[EngineStep] = []
    for batch, step_ms in CPU_MS.items():
        common = float(rng.lognormal(-(pace**2) / 2, pace))
        prompts = replace(
            step(0, (1.7e-3 + 2.7e-4 * batch) * common),
            prefills=batch, prefill_tokens=32 * batch, prompt_tokens=32 * batch,
        )  # fmt: skip
        own = rng.lognormal(-(scatter**2) / 2, scatter, 10)
        steps += [prompts, *(step(batch, step_ms / 1e3 * common * float(one)) for one in own)]
    return steps


def fitted_ms(fit: StepFit, batch: int) -> float:
    base, experts, sequences, kv, *_ = fit.state.factors
    model = fit.prior.scaled(base=base, experts=experts, sequences=sequences, kv=kv)
    return 1e3 * model.decode_step_s(batch, 0.1 * CAPACITY)


TINY = replace(QWEN3_30B_H100, experts=16, experts_per_token=4)


def fit_of(turns: int, seed: int = 1, *, scatter: float = 0.0, pace: float = 0.0) -> StepFit:
    fit, rng = StepFit(TINY), np.random.default_rng(seed)
    for _ in range(turns):
        event = told(*cpu_steps(rng, scatter, pace))
        fit.observe_steps(windows_of(event, kv_capacity_tokens=CAPACITY, from_s=0.0))
    return fit


def test_precise_steps_soon_outweigh_the_prior() -> None:
    """Two hundred steps, and prompts whose times have another shape than the formula."""
    fit = fit_of(4)
    for batch, step_ms in CPU_MS.items():
        assert fitted_ms(fit, batch) == pytest.approx(step_ms, rel=0.02)


def test_the_fit_of_scattered_steps_is_neither_too_fast_nor_too_slow() -> None:
    """On a busy machine whole turns are slow or fast. Weighed by its own time each, batches of 1
    would be 12 % too fast."""
    for batch, step_ms in CPU_MS.items():
        found = [fitted_ms(fit_of(12, seed, scatter=0.3, pace=0.2), batch) for seed in range(12)]
        assert np.mean(found) == pytest.approx(step_ms, rel=0.07)


def test_the_last_windows_of_an_event_are_no_change_of_the_engine() -> None:
    """A few odd steps at the end of an event leave the fit of the other batches alone."""
    fit = fit_of(4)
    before_ms = fitted_ms(fit, 1)
    odd = [step(16, 4e-3)] * 30 + [step(8, 4e-3)] * 30
    event = told(*[step(1, 1.65e-3)] * 60, *odd)
    fit.observe_steps(windows_of(event, kv_capacity_tokens=CAPACITY, from_s=0.0))
    assert fitted_ms(fit, 1) == pytest.approx(before_ms, rel=0.05)


def test_a_change_of_the_engine_is_followed_within_a_few_events() -> None:
    fit = fit_of(8)
    for _ in range(4):
        steps = [step(batch, 2 * step_ms / 1e3) for batch, step_ms in CPU_MS.items()] * 20
        fit.observe_steps(windows_of(told(*steps), kv_capacity_tokens=CAPACITY, from_s=0.0))
    for batch, step_ms in CPU_MS.items():
        assert fitted_ms(fit, batch) == pytest.approx(2 * step_ms, rel=0.12)
