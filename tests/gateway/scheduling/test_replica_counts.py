"""Wanted replicas from settled attempts, prices and the servers of a fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from gateway.scheduling.replica_counts import NotMeasured, ReplicaCounts, UnknownPool
from scheduler.contract import AttemptOutcome, PlacementKind, SloClass, Usage
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.metering.settlement import SettledAttempt
from scheduler.overflow.demand_window import BUCKET_S
from scheduler.overflow.replica_count import ReplicaLimits
from scheduler.placement_state import Placement
from scheduler.port import FleetFigures
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import StepModel

MODEL = StepModel(
    experts=128,
    experts_per_token=8,
    base_s=0.004,
    expert_s=0.00004,
    sequence_s=0.00002,
    kv_token_s=0.0,
    prefill_s=0.002,
    prefill_token_s=0.00002,
    prefill_context_s=0.0,
)
OWN = Placement(
    name="own/a",
    kind=PlacementKind.SELF_HOSTED,
    model="moe",
    pool="own",
    replica="a",
    max_running=64,
    step_model=MODEL,
    nano_usd_per_s=1_000_000,
)
FAR = Placement(
    name="far", kind=PlacementKind.REMOTE, model="moe", max_running=64, remote_class="eu"
)
LIMITS = ReplicaLimits(least=0, most=9, up_window_s=BUCKET_S, down_window_s=2 * BUCKET_S)


class Fleet:
    """A fleet of two servers, seen through the core's own figures."""

    def __init__(self, *placements: Placement) -> None:
        self._core = Scheduler(
            placements,
            SchedulerLimits(queue=QueueLimits(requests=9, size_bytes=1 << 20), attempts=2),
        )
        self.facts: Mapping[str, Placement] = {p.name: p for p in placements}

    async def figures(self) -> FleetFigures:
        return FleetFigures(snapshot=self._core.snapshot(1.0))


class Clock:
    now_s = 100 * BUCKET_S

    def __call__(self) -> float:
        return self.now_s


def attempt(
    at_s: float,
    *,
    placement: str = "own/a",
    cheapest: int | None = None,
    metered: int | None = None,
    tokens: int = 10_000,
) -> SettledAttempt:
    return SettledAttempt(
        request_id="r",
        attempt=1,
        key_id="k",
        tenant="t",
        session_id="",
        model="moe",
        slo_class=SloClass.STANDARD,
        placement=placement,
        pool="own" if placement != "far" else "",
        kind=PlacementKind.REMOTE if placement == "far" else PlacementKind.SELF_HOSTED,
        outcome=AttemptOutcome.OK,
        started_unix_s=at_s - 1.0,
        ended_unix_s=at_s,
        usage=Usage(prompt_tokens=tokens, completion_tokens=tokens),
        metered_nano_usd=metered,
        charged_nano_usd=0,
        basis=None,
        price_row_id="",
        parts=(),
        cheapest_remote_nano_usd=cheapest,
        final=True,
    )


def counts_of(*placements: Placement) -> tuple[ReplicaCounts, Clock]:
    clock = Clock()
    fleet = Fleet(*placements)
    return ReplicaCounts(lambda: fleet, clock), clock


PAIR = (OWN, replace(OWN, name="own/b", replica="b"), FAR)


async def test_the_first_moments_are_no_opinion() -> None:
    counts, _ = counts_of(*PAIR)
    with pytest.raises(NotMeasured):
        await counts.wanted("own", LIMITS)


async def test_a_pool_that_nobody_knows_is_refused_with_those_that_are() -> None:
    counts, _ = counts_of(*PAIR)
    with pytest.raises(UnknownPool, match="'other': the pools are own"):
        await counts.wanted("other", LIMITS)
    with pytest.raises(UnknownPool):
        await counts.waits("other")
    assert not await counts.waits("own")


async def test_dear_overflow_wants_more_and_cheap_overflow_fewer() -> None:
    for nano_usd, wanted in ((10**9, 9), (1, 0)):
        counts, clock = counts_of(*PAIR)
        for _ in range(4):
            clock.now_s += BUCKET_S
            for _ in range(400):
                counts.settled(attempt(clock.now_s, placement="far", metered=nano_usd))
        clock.now_s += BUCKET_S
        found = await counts.wanted("own", LIMITS)
        assert found.replicas == wanted, found


async def test_what_no_remote_may_take_keeps_its_replicas() -> None:
    counts, clock = counts_of(*PAIR)
    for _ in range(4):
        clock.now_s += BUCKET_S
        counts.settled(attempt(clock.now_s, tokens=1000))
    clock.now_s += BUCKET_S
    assert (await counts.wanted("own", LIMITS)).replicas == 1


async def test_the_wanted_count_is_the_present_one() -> None:
    """Servers that have not started yet are not wanted less."""
    counts, clock = counts_of(*PAIR)
    for _ in range(4):
        clock.now_s += BUCKET_S
        for _ in range(400):
            counts.settled(attempt(clock.now_s, placement="far", metered=10**9))
    clock.now_s += BUCKET_S
    assert (await counts.wanted("own", LIMITS)).replicas == 9
    clock.now_s += BUCKET_S
    assert (await counts.wanted("own", LIMITS)).replicas == 9, "one quiet bucket is no window"


async def test_an_unknown_price_keeps_the_servers_that_are_there() -> None:
    counts, clock = counts_of(*(replace(p, nano_usd_per_s=None) for p in PAIR))
    for _ in range(4):
        clock.now_s += BUCKET_S
        counts.settled(attempt(clock.now_s, placement="far", metered=10**12))
    clock.now_s += BUCKET_S
    found = await counts.wanted("own", LIMITS)
    assert found.replicas == 2
    assert "unknown" in found.reason


async def test_attempts_without_tokens_and_of_unknown_servers_count_for_nothing() -> None:
    counts, clock = counts_of(*PAIR)
    clock.now_s += BUCKET_S
    counts.settled(attempt(clock.now_s, placement="gone"))
    clock.now_s += 2 * BUCKET_S
    assert (await counts.wanted("own", LIMITS)).replicas == 0
