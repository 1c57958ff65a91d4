"""Gauges that stand still: probed, disbelieved if only the probe moves the counters."""

from __future__ import annotations

from gateway.fleet.standing_gauges import STANDING_READS, Judged, StandingGauges
from scheduler.contract import EngineReport


def report(running: int, tokens: int | None, waiting: int = 0) -> EngineReport:
    return EngineReport(
        placement="own/a",
        at_s=0.0,
        running=running,
        waiting=waiting,
        kv_usage=0.5,
        prompt_tokens_total=100,
        generation_tokens_total=tokens,
    )


def stood_still(running: int = 106, tokens: int | None = 500) -> tuple[StandingGauges, Judged]:
    """Gauges that were read until they are suspect, if ever, and the last judgement."""
    gauges = StandingGauges()
    for _ in range(STANDING_READS):
        judged = gauges.judge(report(running, tokens), probed=False)
        assert not judged.suspect
    return gauges, gauges.judge(report(running, tokens), probed=False)


def test_gauges_that_stand_still_are_probed_once_in_as_many_reads() -> None:
    gauges, judged = stood_still()
    assert (judged.suspect, judged.believed, judged.report.running) == (True, True, 106)
    again = [gauges.judge(report(106, 500), probed=False).suspect for _ in range(STANDING_READS)]
    assert again == [False] * (STANDING_READS - 1) + [True]


def test_an_idle_engine_and_one_without_counters_are_not_suspect() -> None:
    assert not stood_still(running=0)[1].suspect
    assert not stood_still(tokens=None)[1].suspect


def test_a_probe_that_alone_moves_the_counters_ends_the_belief_until_the_gauges_change() -> None:
    gauges, _ = stood_still()
    judged = gauges.judge(report(106, 501), probed=True)
    assert (judged.believed, judged.report.running, judged.report.waiting) == (False, None, None)
    assert judged.report.kv_usage == 0.5
    for tokens in (501, 540, 600):  # the gateway's own requests run meanwhile
        assert gauges.judge(report(106, tokens), probed=False).report.running is None
    judged = gauges.judge(report(105, 600), probed=False)
    assert (judged.believed, judged.report.running) == (True, 105)


def test_a_probe_for_another_reason_decides_nothing() -> None:
    gauges = StandingGauges()
    gauges.judge(report(106, 500), probed=False)
    assert gauges.judge(report(106, 501), probed=True).believed


def test_counters_that_show_the_probe_late_do_as_well() -> None:
    gauges, _ = stood_still()
    assert gauges.judge(report(106, 500), probed=True).believed
    assert not gauges.judge(report(106, 501), probed=False).believed


def test_gauges_are_believed_if_they_move_or_other_requests_generate() -> None:
    gauges, _ = stood_still()
    assert gauges.judge(report(107, 501), probed=True).believed
    gauges, _ = stood_still()
    assert gauges.judge(report(106, 503), probed=True).believed
    assert gauges.judge(report(106, 504), probed=False).believed, "that is no probe"
