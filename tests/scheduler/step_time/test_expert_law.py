"""The law of distinct experts against routers of known skew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from scheduler.engine_steps import ExpertStep
from scheduler.step_time.expert_law import ENOUGH_STEPS, ExpertCounts
from scheduler.step_time.expert_loads import ExpertLoads
from scheduler.step_time.single_steps import windows_of
from scheduler.step_time.step_fit import StepFit, StepSource
from scheduler.step_time.step_model import QWEN3_30B_H100, ExpertLaw
from scheduler.step_time.step_models import StepModels
from tests.scheduler.step_time.test_single_steps import CAPACITY, told, truth_step

ROUTERS = {
    "uniform": (16, 4, np.ones(16)),
    "zipf": (16, 4, 1.0 / np.arange(1, 17)),
    "steep": (16, 4, 1.0 / np.arange(1, 17) ** 2),
    "two sorts": (16, 4, np.repeat([20.0, 1.0], [4, 12])),
    "large": (128, 8, np.arange(1, 129) ** -0.6),
    "half dead": (64, 4, np.repeat([1.0, 1e-9], [32, 32])),
}
"""Experts, experts per token, and popularity."""


def routed(name: str, tokens: int, steps: int, seed: int = 0) -> list[ExpertStep]:
    """Steps whose tokens choose experts without putting them back, as the top k are chosen."""
    experts, per_token, popularity = ROUTERS[name]
    random = np.random.default_rng([seed, tokens])
    noisy = np.log(popularity) + random.gumbel(size=(steps, tokens, experts))
    chosen = np.argpartition(-noisy, per_token - 1, axis=2)[:, :, :per_token]
    return [
        ExpertStep(tokens=tokens, prefill_tokens=0, distinct=float(len(np.unique(step))))
        for step in chosen
    ]


def learnt(name: str, sizes: Sequence[int], steps: int = 300) -> ExpertCounts:
    counts = ExpertCounts(*ROUTERS[name][:2])
    for size in sizes:
        counts.observe(routed(name, size, steps))
    return counts


@cache
def mean_distinct(name: str, tokens: int) -> float:
    return float(np.mean([step.distinct for step in routed(name, tokens, 600, seed=1)]))


@pytest.mark.parametrize("name", ROUTERS)
def test_the_law_follows_a_router_of_any_skew(name: str) -> None:
    counts = learnt(name, (1, 2, 3, 4, 6, 8, 12, 16))
    assert counts.law is not None
    for tokens in (1, 2, 4, 5, 8, 10, 16):
        predicted = counts.experts * counts.law.touched(tokens)
        assert predicted == pytest.approx(mean_distinct(name, tokens), rel=0.03), tokens


@pytest.mark.parametrize("name", ROUTERS)
def test_beyond_the_batches_seen_the_law_beats_the_uniform_one(name: str) -> None:
    counts = learnt(name, (2, 3, 4, 6, 8))
    assert counts.law is not None
    even = counts.experts_per_token / counts.experts
    for tokens in (16, 32):
        truth = mean_distinct(name, tokens)
        miss = abs(counts.experts * counts.law.touched(tokens) / truth - 1.0)
        uniform_miss = abs(counts.experts * (1.0 - (1.0 - even) ** tokens) / truth - 1.0)
        assert miss < 0.02 + uniform_miss / 2.0, tokens


def test_one_batch_size_alone_says_how_skewed_the_router_is() -> None:
    counts = learnt("steep", (8,))
    assert counts.law is not None
    assert counts.experts * counts.law.touched(1) == pytest.approx(4.0, rel=0.01)
    assert counts.experts * counts.law.touched(8) == pytest.approx(
        mean_distinct("steep", 8), rel=0.03
    )


def test_too_few_steps_and_those_of_prompts_give_no_law() -> None:
    counts = ExpertCounts(16, 4)
    assert not counts.observe(routed("zipf", 4, ENOUGH_STEPS - 1))
    assert not counts.observe(routed("zipf", 1, 500))
    prompts = [replace(step, prefill_tokens=3) for step in routed("zipf", 4, 500)]
    assert not counts.observe(prompts)
    impossible = [replace(step, distinct=16.0) for step in routed("zipf", 2, 500)]
    assert not counts.observe(impossible)
    assert counts.law is None
    assert counts.observe(routed("zipf", 4, 1))


def test_a_law_that_fits_stays() -> None:
    counts = learnt("zipf", (2, 4, 8), steps=1500)
    law = counts.law
    assert not any(counts.observe(routed("zipf", size, 20, seed=2)) for size in (2, 4, 8))
    assert counts.law is law


def test_the_law_follows_other_traffic() -> None:
    counts = learnt("uniform", (4, 8))
    for seed in range(8):
        for size in (4, 8):
            counts.observe(routed("steep", size, 500, seed=seed))
    assert counts.law is not None
    assert counts.experts * counts.law.touched(8) == pytest.approx(
        mean_distinct("steep", 8), rel=0.03
    )


UNIFORM = ExpertLaw(((1.0, 8 / 128),))
SKEWED = ExpertLaw(((0.1, 0.4), (0.9, (8 / 128 - 0.04) / 0.9)))


def test_a_uniform_law_is_the_formula() -> None:
    plain, observed = QWEN3_30B_H100, replace(QWEN3_30B_H100, law=UNIFORM)
    for batch in (1, 7, 40):
        assert observed.decode_step_s(batch, 900) == pytest.approx(plain.decode_step_s(batch, 900))
    assert observed.touch_all_batch() == pytest.approx(plain.touch_all_batch(), rel=0.001)


def test_an_observed_law_replaces_the_overlap_too() -> None:
    model = replace(QWEN3_30B_H100, overlap=0.8)
    assert model.touched_experts(40) == pytest.approx(0.8 * model.distinct_experts(40))
    observed = replace(model, law=SKEWED)
    assert observed.touched_experts(40) == observed.distinct_experts(40)
    assert observed.touched_experts(1) == pytest.approx(8.0)
    assert observed.touch_all_batch() > 1.3 * model.touch_all_batch()


def test_many_groups_agree_with_one() -> None:
    models = [QWEN3_30B_H100, replace(QWEN3_30B_H100, law=SKEWED, overlap=0.8)]
    together = StepModels(models)
    kv_tokens = np.array([500, 500])
    for batch in (0, 1, 13):
        steps_s = together.decode_step_s(np.array([batch, batch]), kv_tokens)
        for step_s, model in zip(steps_s, models, strict=True):
            assert step_s == pytest.approx(model.decode_step_s(batch, 500) if batch else 0.0)
    together.set(1, QWEN3_30B_H100)
    together.set(0, models[1])
    [first, second] = together.decode_step_s(np.array([13, 13]), kv_tokens)
    assert first == pytest.approx(models[1].decode_step_s(13, 500))
    assert second == pytest.approx(QWEN3_30B_H100.decode_step_s(13, 500))


def test_a_fit_keeps_its_times_when_the_law_comes() -> None:
    truth = replace(QWEN3_30B_H100, law=SKEWED)
    plain, fit = StepFit(QWEN3_30B_H100), StepFit(QWEN3_30B_H100)

    def seen() -> None:
        random = np.random.default_rng(0)
        for _ in range(20):
            steps = [truth_step(truth, size, random.normal(1.0, 0.005)) for size in (1, 8, 20)]
            windows = windows_of(told(*steps), kv_capacity_tokens=CAPACITY, from_s=0.0)
            fit.observe_steps(windows)
            plain.observe_steps(windows)

    def miss(of: StepFit, batch: int) -> float:
        truth_s = truth.decode_step_s(batch, 0.1 * CAPACITY)
        return abs(of.model.decode_step_s(batch, 0.1 * CAPACITY) / truth_s - 1.0)

    seen()
    before_s = fit.model.decode_step_s(12, 0.1 * CAPACITY)
    fit.use_law(SKEWED)
    assert fit.model.law is SKEWED
    assert fit.model.decode_step_s(12, 0.1 * CAPACITY) == pytest.approx(before_s, rel=0.05)
    seen()
    assert fit.source is StepSource.FIT
    assert max(miss(fit, batch) for batch in (2, 4, 12, 40)) < 0.03
    # Far beyond the batches that were seen the uniform law is wrong.
    assert miss(fit, 64) < miss(plain, 64) / 2.0


def loaded(*load: float) -> ExpertStep:
    return ExpertStep(tokens=8, prefill_tokens=0, distinct=20.0, load=load)


def test_the_rank_that_lags_by_its_load_is_found() -> None:
    loads = ExpertLoads()
    loads.observe([loaded(10.0, 30.0, 20.0, 20.0)])
    assert (loads.imbalance, loads.busiest_rank) == (None, None), "chance"
    loads.observe([loaded(10.0, 30.0, 20.0, 20.0), loaded(20.0, 40.0, 10.0, 10.0)] * 20)
    assert loads.imbalance == pytest.approx(1.75, rel=0.01)
    assert loads.busiest_rank == 1
    loads.observe([loaded(), loaded(9.0)])
    assert loads.busiest_rank == 1
    loads.observe([loaded(500.0, 600.0)])
    assert loads.imbalance == pytest.approx(600 / 550)


def test_the_load_that_ended_is_forgotten() -> None:
    loads = ExpertLoads()
    loads.observe([loaded(100.0, 0.0)] * 100)
    loads.observe([loaded(0.0, 100.0)] * 6000)
    assert loads.busiest_rank == 1
    assert loads.imbalance == pytest.approx(2.0, rel=0.05)
