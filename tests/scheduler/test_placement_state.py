"""What runs on one placement, and what its engine reports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.contract import EngineReport, PlacementKind
from scheduler.placement_state import (
    MOST_RESERVE,
    PREEMPTION_RESERVE,
    REPORT_STALE_S,
    RESERVE_HALF_LIFE_S,
    SEEN_WEIGHT,
    Placement,
    PlacementState,
)
from scheduler.provenance import Provenance
from scheduler.resident import Resident
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.requests_made import request


def state(**fields: Any) -> PlacementState:
    return PlacementState(
        Placement(name="a", kind=PlacementKind.SELF_HOSTED, model="moe", max_running=8, **fields)
    )


def resident(name: str, *, prefill_s: float = 1.0, **fields: Any) -> Resident:
    return Resident(
        request=request(name, **fields), started_s=0.0, promised_ttft_s=2.0,
        kv_reserved_tokens=150, prefill_s=prefill_s, hit_tokens=50, kv_spread_tokens=3.0,
    )  # fmt: skip


def report(running: int, *, kv_usage: float = 0.0, at_s: float = 0.0) -> EngineReport:
    return EngineReport(
        placement="a", at_s=at_s, running=running, waiting=0, kv_usage=kv_usage,
        prompt_tokens_total=0, generation_tokens_total=0, kv_capacity_tokens=1000,
    )  # fmt: skip


def test_sums_follow_what_runs() -> None:
    one = state()
    one.add(resident("r1", choices=2), 0.0)
    one.add(resident("r2"), 0.0)
    assert (one.sequences, one.kv_tokens, one.kv_reserved_tokens) == (3, 200, 300)
    assert one.kv_variance == pytest.approx(18.0)
    one.progress("r1", 70, 1.0)
    assert (one.kv_tokens, one.kv_reserved_tokens) == (270, 320), "it outgrew what was reserved"
    one.remove("r1", 2.0)
    assert (one.sequences, one.kv_tokens, one.kv_reserved_tokens) == (1, 100, 150)
    one.remove("r2", 3.0)
    assert (one.sequences, one.kv_tokens, one.kv_reserved_tokens, one.kv_variance) == (0, 0, 0, 0)
    assert one.idle_since_s == 3.0


def test_prefills_run_one_after_the_other_and_a_first_token_sets_the_clock() -> None:
    one = state()
    one.add(resident("r1", prefill_s=1.0), 10.0)
    one.add(resident("r2", prefill_s=2.0), 10.5)
    assert one.prefill_end_s == pytest.approx(13.0)
    assert one.progress("r1", 1, 11.5) == 1
    assert one.prefill_end_s == pytest.approx(13.5)
    assert one.progress("r1", 1, 11.6) == 0, "nothing new"
    one.remove("r2", 12.0)
    assert one.prefill_end_s == pytest.approx(11.5)
    assert one.ttft_s == pytest.approx(11.5)


def test_an_overdue_prefill_is_taken_to_need_the_whole_prompt() -> None:
    one = state()
    one.add(resident("r1", prefill_s=0.001, prompt_tokens=50_000), 0.0)
    one.add(resident("r2", prefill_s=0.5), 0.0)
    one.extend_overdue_prefill(QWEN3_30B_H100, 0.2)
    whole_s = QWEN3_30B_H100.prefill_time_s(50_000, 50_000)
    assert one.prefill_end_s == pytest.approx(whole_s + 0.5)
    one.extend_overdue_prefill(QWEN3_30B_H100, 2 * whole_s)
    assert one.prefill_end_s == pytest.approx(3 * whole_s + 0.5)


def test_external_load_is_what_two_reports_show_and_none_when_they_are_stale() -> None:
    one = state()
    one.record_report(report(3, kv_usage=0.5))
    assert one.external(0.0) == 0, "an engine tells of an end a step later"
    one.record_report(report(2, kv_usage=0.5, at_s=1.0))
    assert (one.external(1.0), one.external_kv_tokens) == (2, 500)
    assert one.external(1.0 + REPORT_STALE_S) == 2
    assert one.external(1.1 + REPORT_STALE_S) == 0


def test_configured_figures_go_before_reported_ones() -> None:
    one = state(kv_capacity_tokens=77)
    one.record_report(report(0))
    assert one.kv_capacity_tokens == 77
    told = state()
    assert told.kv_capacity_tokens is None
    told.record_report(report(0))
    assert told.kv_capacity_tokens == 1000


def test_figures_say_where_they_come_from() -> None:
    one = state()
    unknown = (one.kv_capacity_source, one.context_source, one.gauges_source(0.0))
    assert set(unknown) == {Provenance.UNKNOWN}
    one.record_report(replace(report(0), context_tokens=8192))
    assert (one.kv_capacity_source, one.context_source) == (Provenance.TOLD, Provenance.TOLD)
    assert one.gauges_source(0.0) is Provenance.TOLD
    assert one.gauges_source(1.0 + REPORT_STALE_S) is Provenance.UNKNOWN, "that is too old"
    one.record_report(replace(report(0), kv_capacity_derived=True, running=None))
    assert one.kv_capacity_source is Provenance.DERIVED
    assert one.gauges_source(0.0) is Provenance.UNKNOWN
    configured = state(kv_capacity_tokens=77, context_tokens=50)
    configured.record_report(replace(report(0), context_tokens=8192))
    sources = (configured.kv_capacity_source, configured.context_source)
    assert set(sources) == {Provenance.CONFIGURED}
    assert configured.max_running_source is Provenance.CONFIGURED
    assumed = state(max_running_assumed=True)
    assert (assumed.max_running, assumed.max_running_source) == (8, Provenance.ASSUMED)
    assumed.record_report(replace(report(0), max_running=5))
    assert (assumed.max_running, assumed.max_running_source) == (5, Provenance.TOLD)
    configured.record_report(replace(report(0), max_running=5))
    assert configured.max_running == 8
    assert configured.max_running_source is Provenance.CONFIGURED


def test_preemptions_keep_room_free_for_a_while() -> None:
    one = state()
    assert one.reserve_share(0.0) == 0.0
    one.record_preemptions(0, 0.0)
    assert one.reserve_share(0.0) == 0.0
    one.record_preemptions(1, 0.0)
    assert one.reserve_share(RESERVE_HALF_LIFE_S) == pytest.approx(PREEMPTION_RESERVE / 2)
    for _ in range(9):
        one.record_preemptions(10, 1.0)
    assert one.reserve_share(1.0) == MOST_RESERVE


def test_outcomes_and_cached_tokens_move_the_running_means() -> None:
    one = state()
    one.record_outcome(failed=True)
    assert one.error_share == pytest.approx(SEEN_WEIGHT)
    one.record_outcome(failed=False)
    assert one.error_share == pytest.approx(SEEN_WEIGHT * (1 - SEEN_WEIGHT))
    one.record_cached_tokens(resident("r"), None)
    assert one.cache_trust == 1.0
    one.record_cached_tokens(resident("r"), 25)
    assert one.cache_trust == pytest.approx(1.0 - SEEN_WEIGHT / 2)


def test_external_load_without_figures_is_estimated_or_unknown_never_free() -> None:
    one = state(kv_capacity_tokens=1000)
    one.add(resident("r1", choices=2), 0.0)
    own_tokens = one.kv_tokens / one.sequences
    for at_s in (0.0, 1.0):
        one.record_report(replace(report(5, at_s=at_s), kv_usage=None))
    assert one.external(1.0) == 3
    assert one.external_kv_tokens == 3 * own_tokens, "each holds as much as an own one"
    one.record_report(replace(report(5, at_s=2.0), running=None))
    assert (one.external(2.0), one.external_kv_tokens) == (0, 0), "only own requests count"


def test_the_inputs_of_an_own_request_are_no_external_load() -> None:
    one = state()
    one.add(resident("r1", inputs=500, max_output_tokens=0), 0.0)
    assert one.sequences == 1, "a request that generates nothing takes one slot"
    for at_s in (1.0, 2.0):
        one.record_report(report(400, at_s=at_s))
    assert one.external(2.0) == 0
    for at_s in (3.0, 4.0):
        one.record_report(report(507, at_s=at_s))
    assert one.external(4.0) == 7
    one.remove("r1", 5.0)
    assert one.more_inputs == 0
