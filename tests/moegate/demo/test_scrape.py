"""The demo's view of an engine: rates from its counters, and what remains when it is gone."""

from __future__ import annotations

import pytest

from moegate.demo.scrape import RATE_WINDOW_S, ScrapedEngine
from scheduler.contract import EngineReport


def report(at_s: float, tokens: int) -> EngineReport:
    return EngineReport(
        placement="own/a",
        at_s=at_s,
        running=3,
        waiting=2,
        kv_usage=0.5,
        prompt_tokens_total=0,
        generation_tokens_total=tokens,
    )


def test_the_rate_is_that_of_the_last_seconds() -> None:
    engine = ScrapedEngine("own/a", "http://x")
    assert engine.tokens_per_s == 0.0
    for second in range(8):
        engine.record(report(float(second), 100 * second if second < 4 else 400))
    assert engine.tokens_per_s == pytest.approx(0.0)
    assert engine.best_tokens_per_s == pytest.approx(100.0)
    assert RATE_WINDOW_S == 3.0, "what the figures above rest on"


def test_a_short_time_makes_no_best_rate() -> None:
    engine = ScrapedEngine("own/a", "http://x")
    engine.record(report(0.0, 0))
    engine.record(report(0.5, 1000))
    assert engine.tokens_per_s == pytest.approx(2000.0)
    assert engine.best_tokens_per_s == 0.0


def test_an_engine_that_does_not_answer_runs_nothing_and_keeps_its_count() -> None:
    engine = ScrapedEngine("own/a", "http://x")
    engine.record(report(0.0, 7))
    assert (engine.running, engine.waiting, engine.generated_tokens) == (3, 2, 7)
    engine.reachable = False
    assert (engine.running, engine.waiting, engine.generated_tokens) == (0, 0, 7)
    assert engine.tokens_per_s == 0.0
