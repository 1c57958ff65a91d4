"""Drains: what an operator keeps out stays out, whatever its probes say."""

from __future__ import annotations

from scheduler.contract import ServingChanged
from scheduler.limits.drain_filter import DRAINED, DrainFilter


def serving(placement: str, serves: bool = True, reason: str = "probed") -> ServingChanged:
    return ServingChanged(placement=placement, serving=serves, reason=reason)


def test_what_is_not_drained_passes_as_it_is() -> None:
    drains = DrainFilter()
    assert drains.filtered(serving("own/a"), "own/a") == serving("own/a")


def test_a_drained_replica_stays_out_with_all_its_ranks_and_comes_back_as_last_probed() -> None:
    drains = DrainFilter()
    drains.drain("own/a")
    for placement in ("own/a", "own/a/0", "own/a/1"):
        assert drains.filtered(serving(placement), "own/a") == serving(placement, False, DRAINED)
        assert drains.current(placement, "own/a") == serving(placement, False, DRAINED)
    assert drains.filtered(serving("own/b"), "own/b").serving
    refused = serving("own/a", False, "refused")
    assert drains.filtered(refused, "own/a") == refused
    drains.undrain("own/a")
    assert drains.current("own/a/1", "own/a") == serving("own/a/1")
    assert drains.current("own/a", "own/a") == refused


def test_one_that_was_never_probed_is_not_in_service() -> None:
    drains = DrainFilter()
    drains.drain("own/a")
    assert drains.current("own/a", "own/a") == serving("own/a", False, DRAINED)
    assert drains.current("own/b", "own/b") == serving("own/b", False, "not probed yet")
