"""Offline jobs in simulation: what they fill, and what the order of their items is worth."""

from __future__ import annotations

import pytest

from benchmarks.batch.day import play
from benchmarks.batch.order import compare
from benchmarks.day import QWEN_CAPACITY_PER_S, Day
from scheduler.policy import Policy


def test_items_fill_what_is_free_and_leave_interactive_requests_their_pace() -> None:
    day = Day(replicas=2, day_s=80.0, capacity_per_s=QWEN_CAPACITY_PER_S, load=0.3, flat=True)
    without, filled = (play(day, Policy(), batches=batches) for batches in (False, True))
    assert without.batch_tokens == 0
    assert filled.batch_tokens > 0.3 * filled.interactive_tokens
    assert filled.usd_per_mtok < 0.85 * without.usd_per_mtok
    assert filled.met > 0.98


@pytest.mark.parametrize("batch", [8, 32])
def test_the_order_touches_fewer_experts_and_finds_more_prefixes(batch: int) -> None:
    arrival, by_sketch, by_experts = compare(1000, batch, domains=6, systems=8, seed=2)
    assert by_sketch.distinct_experts < 0.93 * arrival.distinct_experts
    assert by_sketch.total_s < 0.97 * arrival.total_s
    assert by_sketch.prefix_hits > arrival.prefix_hits
    assert by_experts.distinct_experts < 0.97 * by_sketch.distinct_experts


def test_experts_tell_domains_apart_whose_texts_are_half_alike() -> None:
    arrival, by_sketch, by_experts = compare(1000, 16, domains=6, systems=8, seed=2, shared=0.5)
    assert by_sketch.distinct_experts > 0.95 * arrival.distinct_experts
    assert by_experts.distinct_experts < 0.85 * by_sketch.distinct_experts
    assert by_experts.total_s < 0.95 * by_sketch.total_s
    assert by_experts.prefix_hits > arrival.prefix_hits
