"""The fit of prompt tokens: it finds any factor, and an unsure sample does not mislead it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from scheduler.step_time.prefill_fit import PrefillFit, solve
from scheduler.step_time.prefill_samples import PrefillSample
from scheduler.step_time.step_model import QWEN3_30B_H100

PRIOR = QWEN3_30B_H100
NOISE_S = 0.005


def sample(
    tokens: int,
    *,
    at_s: float,
    scale: float = 1.0,
    context: float | None = None,
    noise: float = 0.0,
) -> PrefillSample:
    """A prompt of `tokens` on an engine whose p1 is `scale` and p2 `context` times the prior's."""
    tokens_s = PRIOR.prefill_token_s * tokens
    context_s = PRIOR.prefill_context_s * tokens**2
    took_s = scale * tokens_s + (scale if context is None else context) * context_s
    return PrefillSample(
        at_s=at_s,
        took_s=PRIOR.prefill_s + took_s + noise,
        noise_s=NOISE_S,
        prompts=1,
        tokens_s=tokens_s,
        context_s=context_s,
    )


def work_s(fit: PrefillFit, tokens: int) -> float:
    return fit.seconds(1, PRIOR.prefill_token_s * tokens, PRIOR.prefill_context_s * tokens**2)


@given(st.floats(0.1, 8.0), st.integers(0, 1000))
def test_any_factor_is_found(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fit = PrefillFit(PRIOR)
    for at in range(60):
        tokens = int(rng.choice((500, 2000, 8000, 30_000)))
        fit.observe(
            sample(tokens, at_s=float(at), scale=scale, noise=float(rng.normal(0.0, NOISE_S)))
        )
    truth = PRIOR.scaled(prefill=scale)
    for tokens in (2000, 8000, 30_000):
        true_s = truth.prompt_work_s(tokens, tokens)
        # Hypothesis looks for the unluckiest noise: a few deviations of the mean of some samples.
        assert work_s(fit, tokens) == pytest.approx(true_s, rel=0.15, abs=2 * NOISE_S)


def test_tokens_and_context_are_told_apart() -> None:
    fit = PrefillFit(PRIOR)
    for at in range(100):
        fit.observe(sample((1000, 60_000)[at % 2], at_s=float(at), scale=0.7, context=2.5))
    assert fit.tokens == pytest.approx(0.7, rel=0.1)
    assert fit.context == pytest.approx(2.5, rel=0.1)


def test_a_prompt_that_was_in_the_cache_misleads_little() -> None:
    fit = PrefillFit(PRIOR)
    for at in range(40):
        tokens = 8000
        usual = sample(tokens, at_s=float(at))
        fit.observe(usual if at % 10 else structs.replace(usual, took_s=0.004))
    assert work_s(fit, 8000) == pytest.approx(PRIOR.prompt_work_s(8000, 8000), rel=0.1)


def test_an_engine_that_is_throttled_is_followed() -> None:
    fit = PrefillFit(PRIOR)
    for at in range(100):
        fit.observe(sample(8000, at_s=float(at)))
    for at in range(100, 120):
        fit.observe(sample(8000, at_s=float(at), scale=3.0))
    slow_s = PRIOR.scaled(prefill=3.0).prompt_work_s(8000, 8000)
    assert work_s(fit, 8000) == pytest.approx(slow_s, rel=0.15)


def test_until_samples_come_prefills_are_as_slow_as_all_else() -> None:
    fit = PrefillFit(PRIOR)
    fit.follow(2.0)
    assert (fit.tokens, fit.context) == (2.0, 2.0)
    for at in range(60):
        fit.observe(sample(8000, at_s=float(at)))
    assert work_s(fit, 8000) == pytest.approx(PRIOR.prompt_work_s(8000, 8000), rel=0.05)


def test_a_long_pause_forgets_little() -> None:
    fit = PrefillFit(PRIOR)
    for at in range(60):
        fit.observe(sample(8000, at_s=float(at), scale=2.0))
    before_s = work_s(fit, 8000)
    fit.observe(sample(100, at_s=100_000.0, scale=2.0))
    assert work_s(fit, 8000) == pytest.approx(before_s, rel=0.02)


@given(st.integers(0, 10_000))
def test_plain_numbers_solve_as_numpy_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(5, 3)) * 10.0 ** rng.uniform(-3.0, 3.0, size=3)
    matrix, vector = rows.T @ rows + np.eye(3), rng.normal(size=3)
    found = solve(matrix.tolist(), vector.tolist())
    assert matrix @ found == pytest.approx(vector, abs=1e-6)
    assert found == pytest.approx(np.linalg.solve(matrix, vector), rel=1e-6, abs=1e-9)


def test_what_is_told_at_the_end_of_long_answers_counts_by_its_age() -> None:
    fit = PrefillFit(PRIOR)
    for at in range(60):
        fit.observe(sample(8000, at_s=10.0 * at))
    for at in range(60, 120):
        fit.observe(sample(8000, at_s=10.0 * at, scale=2.0))
    slow = work_s(fit, 8000)
    for at in range(40, 60):
        fit.observe(sample(8000, at_s=10.0 * at))
    assert work_s(fit, 8000) == pytest.approx(slow, rel=0.05)
