"""The online fit against engines whose truth is known: judged as T(B) over the batches visited."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.contract import EngineReport
from scheduler.engine_steps import EngineCounts
from scheduler.step_time.own_load import OwnCounts
from scheduler.step_time.step_fit import FEWEST_WINDOWS, POOR_ERROR, StepFit, StepSource
from scheduler.step_time.step_model import QWEN3_30B_H100, StepModel
from scheduler.step_time.step_windows import SETTLE_S, Window, WindowMeter, WindowSource, joined
from simulation.catalog.gpus import GPUS
from simulation.catalog.models import model_facts
from simulation.catalog.prior import Parallelism, prior
from tests.simulation.steps_seen import SeenEngine, misses

STEPS = 2000
DEEPSEEK_H200 = prior(model_facts("DeepSeek-V3"), GPUS["H200"], Parallelism(tensor=8))
TRUTHS = {"Qwen3": QWEN3_30B_H100, "DeepSeek": DEEPSEEK_H200}


def scaled(model: StepModel, factors: list[float]) -> StepModel:
    """`factors`: for t0, a, c, kappa and the prefill."""
    base, experts, sequences, kv, prefill = factors
    return model.scaled(base=base, experts=experts, sequences=sequences, kv=kv, prefill=prefill)


def priors_twice_wrong(truth: StepModel) -> list[StepModel]:
    rng = np.random.default_rng(5)
    mixed = [[2.0 ** rng.choice((-1.0, 1.0)) for _ in range(5)] for _ in range(2)]
    return [scaled(truth, factors) for factors in ([2.0] * 5, [0.5] * 5, *mixed)]


@pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS.keys())
@pytest.mark.parametrize(
    "seen",
    [
        {},
        {"foreign_share": 0.3},
        {"counters": False},
        {"counters": False, "foreign_share": 0.3},
        {"counters": False, "coalesce_s": 0.2},
        {"prefill_every": 30},
        {"prefill_every": 30, "counters": False, "coalesce_s": 0.2, "foreign_share": 0.3},
    ],
    ids=str,
)
def test_from_a_prior_twice_wrong_to_within_five_percent(
    truth: StepModel, seen: dict[str, float]
) -> None:
    """2,000 steps with noise of 10 % each; foreign load, coalesced timings, prefills between."""
    within = []
    for seed, wrong in enumerate(priors_twice_wrong(truth)):
        fit = StepFit(wrong)
        engine = SeenEngine(truth=truth, seed=seed, **seen)  # type: ignore[arg-type]
        visited = engine.run(fit, STEPS)
        before = misses(wrong, truth, visited)
        after = misses(fit.model, truth, visited)
        assert fit.source is StepSource.FIT
        assert before.mean() > 0.1
        assert after.mean() < 0.05
        # Its own error is honest: it holds the misses, and the noise that a window keeps.
        assert fit.error is not None
        assert after.mean() < fit.error + 0.02 < 0.15
        within.append(np.mean(after < 0.05))
    assert np.mean(within) > 0.9


def test_it_follows_a_change_of_the_engine() -> None:
    slower = scaled(QWEN3_30B_H100, [1.0, 1.8, 1.3, 1.0, 1.0])
    fit, meter = StepFit(QWEN3_30B_H100), WindowMeter()
    before = SeenEngine(truth=QWEN3_30B_H100, seed=1)
    before.run(fit, 8000, meter=meter)  # minutes in which the old truth was learnt
    after = SeenEngine(truth=slower, seed=2)
    visited = after.run(fit, STEPS, start_s=before.end_s, meter=WindowMeter())
    assert fit.source is StepSource.FIT
    assert misses(fit.model, slower, visited).mean() < 0.05


def test_slow_drift_is_followed_without_a_jump() -> None:
    def drifting(step: int) -> StepModel:
        return scaled(QWEN3_30B_H100, [1.0 + 0.4 * step / 20_000] * 5)

    fit = StepFit(QWEN3_30B_H100)
    engine = SeenEngine(truth=QWEN3_30B_H100, seed=3)
    visited = engine.run(fit, 20_000, change=drifting)
    assert misses(fit.model, drifting(20_000), visited[-2000:]).mean() < 0.06


def test_speculation_is_learnt() -> None:
    truth = replace(QWEN3_30B_H100, tokens_per_step=2.0)
    fit = StepFit(QWEN3_30B_H100)
    engine = SeenEngine(truth=truth, seed=4, tokens_per_step=2)
    visited = engine.run(fit, STEPS)
    learnt = fit.model
    assert learnt.tokens_per_step == pytest.approx(2.0, rel=0.01)
    assert misses(learnt, truth, visited).mean() < 0.05


def test_until_enough_was_seen_the_prior_stands() -> None:
    fit = StepFit(QWEN3_30B_H100)
    assert (fit.source, fit.error, fit.model) == (StepSource.PRIOR, None, QWEN3_30B_H100)
    sources = []
    for second in range(FEWEST_WINDOWS):
        assert "windows seen" in fit.state.reason
        sources.append(fit.source)
        fit.observe(window(second, step_s=2 * QWEN3_30B_H100.decode_step_s(8, 0)))
    sources.append(fit.source)
    assert sources == [*[StepSource.PRIOR] * FEWEST_WINDOWS, StepSource.FIT]


def test_a_poor_fit_falls_back_to_the_prior_and_says_so() -> None:
    rng = np.random.default_rng(0)
    fit = StepFit(QWEN3_30B_H100)
    for second in range(100):  # times that have nothing to do with the batch
        fit.observe(window(second, step_s=float(rng.choice((0.002, 0.2)))))
    poor = fit.state
    assert poor.source is StepSource.PRIOR
    assert fit.model == QWEN3_30B_H100
    assert "misses by" in poor.reason
    assert poor.error is not None
    assert poor.error > POOR_ERROR
    true_s = QWEN3_30B_H100.decode_step_s(8, 0)
    for second in range(100, 160):
        fit.observe(window(second, step_s=1.5 * true_s))
    assert fit.state.source is StepSource.FIT
    assert fit.model.decode_step_s(8, 0) == pytest.approx(1.5 * true_s, rel=0.05)


def test_a_single_outlier_changes_little() -> None:
    fit = StepFit(QWEN3_30B_H100)
    true_s = QWEN3_30B_H100.decode_step_s(8, 0)
    for second in range(30):
        fit.observe(window(second, step_s=true_s))
    fit.observe(window(30, step_s=10 * true_s))
    assert fit.model.decode_step_s(8, 0) == pytest.approx(true_s, rel=0.02)


def test_disturbed_windows_are_counted_and_not_fitted() -> None:
    fit = StepFit(QWEN3_30B_H100)
    fit.observe(replace(window(0, step_s=9.0), disturbance="rebalance of experts"))
    state = fit.state
    assert (state.windows, state.excluded, state.disturbance) == (0, 1, "rebalance of experts")


@given(
    st.lists(
        st.tuples(
            st.floats(1e-4, 10.0),
            st.floats(1.0, 600.0),
            st.floats(0.0, 1e6),
            st.integers(0, 50),
            st.integers(10, 10_000),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_whatever_was_seen_a_step_takes_time_and_more_of_it_with_load(
    seen: list[tuple[float, float, float, int, int]],
) -> None:
    fit = StepFit(DEEPSEEK_H200)
    for second, (step_s, batch, kv, prompts, gaps) in enumerate(seen):
        fit.observe(
            Window(
                start_s=float(second),
                end_s=second + 1.0,
                source=WindowSource.ENGINE,
                step_s=step_s,
                gaps=gaps,
                batch=batch,
                kv_tokens=kv,
                prompts=prompts,
                prompt_tokens=1000 * prompts,
                uncached_tokens=500 * prompts,
            )
        )
    model = fit.model
    times = [model.decode_step_s(batch, 1000.0 * batch) for batch in (1, 2, 8, 64, 512)]
    assert np.isfinite(times).all()
    assert times == sorted(times)
    assert model.prefill_time_s(1000, 1000) >= 0


def window(second: int, *, step_s: float) -> Window:
    return Window(
        start_s=float(second),
        end_s=second + 1.0,
        source=WindowSource.ENGINE,
        step_s=step_s,
        gaps=400,
        batch=8.0,
    )


def report(at_s: float, gaps: int, gaps_s: float, **counts: int) -> EngineReport:
    return EngineReport(
        placement="p",
        at_s=at_s,
        running=8,
        waiting=0,
        kv_usage=0.1,
        prompt_tokens_total=0,
        generation_tokens_total=gaps,
        kv_capacity_tokens=100_000,
        kv_usage_fullest=0.2,
        counts=EngineCounts(
            gaps=gaps, gaps_s=gaps_s, **{"first_tokens": 0, "cached_prompt_tokens": 0} | counts
        ),
    )


def test_a_window_of_an_engine() -> None:
    meter = WindowMeter()
    assert meter.take(report(0.0, 0, 0.0), OwnCounts()) is None
    assert meter.take(report(0.5, 200, 4.0), OwnCounts()) is None  # too short yet
    seen = meter.take(
        report(1.0, 400, 8.0, steps=50, first_tokens=0, drafts=0), OwnCounts(output_tokens=300)
    )
    assert seen is not None
    assert (seen.step_s, seen.batch, seen.gaps) == (0.02, 8.0, 400)
    assert seen.external_batch == pytest.approx(2.0)
    assert seen.kv_tokens == 0.2 * 100_000  # the fullest rank sets the pace
    assert seen.disturbance == ""


def test_idle_time_does_not_look_like_a_small_batch() -> None:
    meter = WindowMeter()
    meter.take(report(0.0, 0, 0.0, steps=0), OwnCounts())
    # Eight sequences for a quarter of the time: 12 steps of 20 ms.
    seen = meter.take(report(1.0, 96, 1.92, steps=12), OwnCounts())
    assert seen is not None
    assert seen.batch == 8.0
    # Without a count of steps that cannot be told: no window.
    assert meter.take(report(2.0, 192, 3.84, steps=12), OwnCounts()) is None


def test_disturbances_are_told_by_name() -> None:
    meter = WindowMeter()
    meter.take(report(0.0, 1000, 20.0), OwnCounts())
    assert meter.take(report(1.0, 100, 2.0), OwnCounts()) is None  # counters fell: a new engine
    reasons = []
    for second in range(2, int(SETTLE_S) + 4):
        seen = meter.take(
            report(second, 400 * second, 8.0 * second, steps=50 * second), OwnCounts()
        )
        assert seen is not None
        reasons.append(seen.disturbance)
    assert reasons[:-2] == ["engine started"] * (len(reasons) - 2)
    assert reasons[-2:] == ["", ""]
    meter.disturb(15.5, "rebalance of experts")
    at = SETTLE_S + 5
    seen = meter.take(report(at, 8000, 160.0, steps=1000), OwnCounts())
    assert seen is not None
    assert seen.disturbance == "rebalance of experts"
    seen = meter.take(report(at + 3, 9000, 180.0, steps=1100, preemptions=1), OwnCounts())
    assert seen is not None
    assert seen.disturbance == "rebalance of experts"
    seen = meter.take(report(at + 4, 10_000, 200.0, steps=1200, preemptions=2), OwnCounts())
    assert seen is not None
    assert seen.disturbance == "preemptions"
    seen = meter.take(report(at + 30, 20_000, 400.0, steps=2200, preemptions=2), OwnCounts())
    assert seen is not None
    assert seen.disturbance == "no reports for a while"


def test_a_counter_that_is_not_told_is_not_zero() -> None:
    meter, own = WindowMeter(), OwnCounts(sequences=8, gaps=400, gaps_s=8.0, uncached_tokens=70)
    meter.take(report(0.0, 0, 0.0, steps=0), OwnCounts(sequences=8))
    told = report(1.0, 400, 8.0, steps=50)
    assert told.counts is not None
    silent = replace(told, counts=replace(told.counts, cached_prompt_tokens=None))
    seen = meter.take(silent, own)
    assert seen is not None
    assert (seen.source, seen.uncached_tokens) == (WindowSource.GATEWAY, 70)


def test_kv_tokens_that_the_engine_does_not_tell_are_those_of_the_scheduler() -> None:
    meter = WindowMeter()
    meter.take(report(0.0, 0, 0.0, steps=0), OwnCounts(kv_tokens=1000.0))
    silent = replace(report(1.0, 400, 8.0, steps=50), kv_capacity_tokens=None)
    seen = meter.take(silent, OwnCounts(kv_tokens=3000.0))
    assert seen is not None
    assert seen.kv_tokens == 2000.0
    later = replace(report(2.0, 800, 16.0, steps=100), kv_capacity_tokens=None)
    assert meter.take(later, OwnCounts()) is None, "nobody knows"


def test_ranks_of_which_one_does_not_tell_are_unknown_together() -> None:
    both = joined([report(1.0, 5, 0.1), replace(report(1.0, 5, 0.1), kv_capacity_tokens=None)])
    assert (both.running, both.kv_capacity_tokens) == (16, None)
