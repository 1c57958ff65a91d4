"""What a request avoids after an attempt failed."""

from __future__ import annotations

from typing import Any

from scheduler.contract import Fault, PlacementKind
from scheduler.placement_state import Placement
from scheduler.tracked_request import TrackedRequest
from tests.scheduler.requests_made import request


def facts(name: str, **fields: Any) -> Placement:
    return Placement(
        name=name, kind=PlacementKind.SELF_HOSTED, model="moe", max_running=1, **fields
    )  # fmt: skip


def test_a_placement_that_failed_is_not_tried_again() -> None:
    tracked = TrackedRequest(request("r"))
    assert not tracked.failed
    tracked.record_failure(facts("a", pool="p"), Fault.PLACEMENT)
    assert tracked.failed
    assert not tracked.may_try(facts("a", pool="p"))
    assert tracked.may_try(facts("b", pool="p"))


def test_a_request_that_does_not_suit_a_pool_is_tried_on_none_of_its_placements() -> None:
    tracked = TrackedRequest(request("r"))
    tracked.record_failure(facts("a", pool="p"), Fault.REQUEST)
    assert not tracked.may_try(facts("b", pool="p"))
    assert tracked.may_try(facts("c", pool="q"))
    alone = TrackedRequest(request("r"))
    alone.record_failure(facts("far"), Fault.REQUEST)
    assert alone.may_try(facts("farther")), "placements without a pool have nothing in common"
