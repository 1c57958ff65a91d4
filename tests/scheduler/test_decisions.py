"""What is told of a decision in short is what its whole record holds."""

from __future__ import annotations

from collections import Counter

from scheduler.contract import PlacementKind, ServingChanged, Start
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.decisions import MOST_RECORDS, Candidate, Figures
from scheduler.placement_state import Placement
from scheduler.pricing import RateTier, TokenRates
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.requests_made import request


def placement(name: str, kind: PlacementKind, usd_per_mtok: int, slots: int) -> Placement:
    nano_usd = 1_000_000_000 * usd_per_mtok
    tier = RateTier(
        uncached_input=nano_usd, cached_input=nano_usd, cache_write=nano_usd, output=nano_usd
    )
    local = kind is PlacementKind.SELF_HOSTED
    return Placement(
        name=name,
        pool=name.partition("/")[0],
        kind=kind,
        model="moe",
        max_running=slots,
        step_model=QWEN3_30B_H100 if local else None,
        nano_usd_per_s=1_000_000 if local else None,
        remote_class="" if local else "eu",
        rates=TokenRates(row_id=name, tiers=(tier,)),
    )


def figures(candidate: Candidate) -> Figures:
    return Figures(
        candidate.placement,
        candidate.ttft_s,
        candidate.tpot_s,
        candidate.marginal_nano_usd,
        candidate.reason,
    )


def test_the_best_two_are_those_of_all_candidates() -> None:
    places = (
        *(placement(f"own/{name}", PlacementKind.SELF_HOSTED, 1, 3) for name in "abc"),
        placement("dear", PlacementKind.REMOTE, 9, 30),
        placement("cheap", PlacementKind.REMOTE, 2, 2),
    )
    limits = SchedulerLimits(queue=QueueLimits(requests=2, size_bytes=9999), attempts=1)
    core = Scheduler(places, limits)
    for place in places:
        core.handle(ServingChanged(placement=place.name, serving=True, reason="up"), 0.0)
    seen: Counter[str] = Counter()
    for number in range(20):
        made = request(
            f"r{number}", prompt_tokens=50 * number, remote_classes=frozenset({"eu"}), ttft_s=0.5
        )
        for action in core.submit(made, 0.0):
            if not isinstance(action, Start):
                continue
            decision = core.decisions.get(action.request_id)
            assert decision is not None
            every = decision.candidates()
            chosen, other = decision.best_two()
            assert chosen == figures(next(c for c in every if c.chosen))
            assert other == figures(next(c for c in every if not c.chosen))
            assert chosen is not None
            assert chosen.placement == action.placement
            seen[chosen.placement.partition("/")[0]] += 1
    assert seen.keys() == {"own", "dear", "cheap"}, seen


def test_a_tenant_that_floods_the_ring_drops_no_record_of_another() -> None:
    place = placement("far", PlacementKind.REMOTE, 1, 5000)
    limits = SchedulerLimits(queue=QueueLimits(requests=2, size_bytes=9999), attempts=1)
    core = Scheduler((place,), limits)
    core.handle(ServingChanged(placement="far", serving=True, reason="up"), 0.0)
    core.submit(request("quiet/1", tenant="quiet", remote_classes=frozenset({"eu"})), 0.0)
    for number in range(2 * MOST_RECORDS):
        made = request(f"loud/{number}", tenant="loud", remote_classes=frozenset({"eu"}))
        core.submit(made, 0.0)
    assert len(core.decisions) == MOST_RECORDS
    assert core.decisions.get("quiet/1") is not None
    assert core.decisions.get("loud/0") is None
    assert core.decisions.get(f"loud/{2 * MOST_RECORDS - 1}") is not None
