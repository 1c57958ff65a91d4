"""Prefills of a disaggregated replica as windows of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.contract import EngineReport
from scheduler.engine_steps import EngineCounts
from scheduler.step_time.own_load import OwnCounts
from scheduler.step_time.step_fit import StepFit
from scheduler.step_time.step_model import QWEN3_30B_H100
from scheduler.step_time.step_windows import WindowMeter, prefill_window


def report(at_s: float, prompts: int, tokens: int, cached: int, took_s: float) -> EngineReport:
    counts = EngineCounts(
        gaps=100 * prompts, gaps_s=prompts * 2.0, first_tokens=prompts, steps=50 * prompts,
        cached_prompt_tokens=0,
    )  # fmt: skip
    return EngineReport(
        placement="a", at_s=at_s, running=2, waiting=0, kv_usage=0.5, kv_capacity_tokens=1000,
        prompt_tokens_total=tokens, generation_tokens_total=101 * prompts, counts=counts,
        prefills=EngineCounts(
            first_tokens=prompts, cached_prompt_tokens=cached, prefill_s=took_s
        ),
    )  # fmt: skip


FIRST = report(0.0, 1, 1000, 100, 0.1)


def test_a_window_has_the_mean_prefill_and_no_decode() -> None:
    window = prefill_window(FIRST, report(2.0, 5, 9000, 1100, 0.9))
    assert window is not None
    assert window.step_s == pytest.approx(0.2)
    assert (window.batch, window.prompts, window.single_steps) == (0.0, 4, 4)
    assert (window.prompt_tokens, window.uncached_tokens) == (8000, 7000)


def test_prefills_that_share_steps_take_no_longer_than_the_time_that_passed() -> None:
    window = prefill_window(FIRST, report(2.0, 5, 9000, 1100, 30.0))
    assert window is not None
    assert window.step_s == pytest.approx(2.0 / 4)


@pytest.mark.parametrize(
    "later",
    [
        report(2.0, 1, 1000, 100, 0.1),
        report(2.0, 5, 9000, 9100, 0.9),
        report(2.0, 5, 500, 100, 0.9),
        report(60.0, 5, 9000, 1100, 0.9),
        replace(report(2.0, 5, 9000, 1100, 0.9), prefills=None),
        replace(report(2.0, 5, 9000, 1100, 0.9), prefills=EngineCounts(first_tokens=5)),
    ],
)
def test_what_is_unknown_or_nothing_gives_no_window(later: EngineReport) -> None:
    assert prefill_window(FIRST, later) is None


def test_the_window_of_the_steps_has_no_prefill() -> None:
    meter = WindowMeter()
    assert meter.take(FIRST, OwnCounts()) is None
    window = meter.take(report(2.0, 5, 9000, 1100, 0.9), OwnCounts())
    assert window is not None
    assert (window.prompts, window.prompt_tokens, window.uncached_tokens) == (0, 0, 0)
    assert window.step_s == pytest.approx(0.02)


def test_slow_prefills_move_the_prefill_and_not_the_steps() -> None:
    fit = StepFit(QWEN3_30B_H100)
    prior = QWEN3_30B_H100
    meter, last = WindowMeter(), None
    step_s = prior.decode_step_s(8, 0)
    took_s, tokens = 0.0, 0
    for second in range(40):
        steps = round(1.0 / step_s)
        counts = EngineCounts(
            gaps=second * steps * 8, gaps_s=second * steps * 8 * step_s, steps=second * steps,
            first_tokens=second, cached_prompt_tokens=0,
        )  # fmt: skip
        now = EngineReport(
            placement="a", at_s=float(second), running=8, waiting=0, kv_usage=0.0,
            kv_capacity_tokens=1000, prompt_tokens_total=tokens,
            generation_tokens_total=second * steps * 8, counts=counts,
            prefills=EngineCounts(
                first_tokens=second, cached_prompt_tokens=0, prefill_s=took_s
            ),
        )  # fmt: skip
        if (window := meter.take(now, OwnCounts())) is not None:
            fit.observe(window)
        if last is not None and (window := prefill_window(last, now)) is not None:
            fit.observe_steps((window,))
        last = now
        tokens += 4000
        took_s += 1.6 * prior.prefill_time_s(4000, 4000)
    assert fit.model.prefill_time_s(4000, 4000) == pytest.approx(
        1.6 * prior.prefill_time_s(4000, 4000), rel=0.08
    )
    assert fit.model.decode_step_s(8, 0) == pytest.approx(step_s, rel=0.05)
