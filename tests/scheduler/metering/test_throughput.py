"""Tokens per second: by counters of engines, by ended requests of remotes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from scheduler.contract import AttemptOutcome, EngineReport, PlacementKind, SloClass, Usage
from scheduler.metering.settlement import SettledAttempt
from scheduler.metering.throughput import STALE_S, WINDOW_S, Throughput


def engine(at_s: float, tokens: int) -> list[EngineReport]:
    report = EngineReport(
        placement="own/a",
        at_s=at_s,
        running=0,
        waiting=0,
        kv_usage=0.0,
        prompt_tokens_total=0,
        generation_tokens_total=tokens,
    )
    return [report]


def rate(throughput: Throughput, now_s: float, name: str = "own/a") -> float | None:
    return throughput.tokens_per_s(name, now_s=now_s, now_unix_s=now_s)


def test_an_engine_is_measured_by_its_counter_however_often_one_looks() -> None:
    throughput = Throughput()
    assert rate(throughput, 0.0) is None
    for second in range(8):
        for _ in range(3):
            throughput.record_reports(engine(second, 100 * second))
    assert rate(throughput, 7.0) == pytest.approx(100.0)
    assert rate(throughput, 7.1 + STALE_S) is None


def test_an_engine_that_started_anew_is_not_negative() -> None:
    throughput = Throughput()
    throughput.record_reports(engine(0.0, 1000))
    throughput.record_reports(engine(1.0, 5))
    assert rate(throughput, 1.0) is None
    throughput.record_reports(engine(2.0, 25))
    assert rate(throughput, 2.0) == pytest.approx(20.0)


ENDED = SettledAttempt(
    request_id="k/r",
    attempt=1,
    key_id="k",
    tenant="t",
    session_id="",
    model="m",
    slo_class=SloClass.INTERACTIVE,
    placement="far",
    pool="",
    kind=PlacementKind.REMOTE,
    outcome=AttemptOutcome.OK,
    started_unix_s=99.0,
    ended_unix_s=100.0,
    usage=Usage(prompt_tokens=5, completion_tokens=50),
    metered_nano_usd=None,
    charged_nano_usd=None,
    basis=None,
    price_row_id="",
    parts=(),
    cheapest_remote_nano_usd=None,
    final=True,
)


def test_a_remote_is_measured_by_what_ended_lately() -> None:
    throughput = Throughput()
    assert rate(throughput, 100.0, "far") is None
    throughput.settled(ENDED)
    throughput.settled(structs.replace(ENDED, ended_unix_s=105.0))
    throughput.settled(structs.replace(ENDED, kind=PlacementKind.SELF_HOSTED, placement="own/a"))
    assert throughput.overflowed_requests == 2
    assert rate(throughput, 105.0, "far") == pytest.approx(100 / WINDOW_S)
    assert rate(throughput, 100.0 + WINDOW_S, "far") == pytest.approx(50 / WINDOW_S)
    assert rate(throughput, 200.0, "far") == 0.0


def test_an_engine_without_the_counter_has_no_rate() -> None:
    throughput = Throughput()
    for second in range(3):
        told = replace(engine(second, 0)[0], generation_tokens_total=None)
        throughput.record_reports([told])
    assert rate(throughput, 2.0) is None
