"""Drains: what an operator keeps out stays out, whatever its probes say."""

from __future__ import annotations

from gateway.fleet.drain_filter import DRAINED, DrainFilter
from scheduler.contract import EngineReport, ServingChanged


def serving(placement: str, serves: bool = True, reason: str = "probed") -> ServingChanged:
    return ServingChanged(placement=placement, serving=serves, reason=reason)


def test_what_is_not_drained_passes_as_it_is() -> None:
    gate = DrainFilter(set())
    report = EngineReport(
        placement="own/a",
        at_s=0.0,
        running=0,
        waiting=0,
        kv_usage=0.0,
        prompt_tokens_total=0,
        generation_tokens_total=0,
    )
    assert gate(report) is report
    assert gate(serving("own/a")) == serving("own/a")


def test_a_drained_replica_stays_out_with_all_its_ranks_and_comes_back_as_last_probed() -> None:
    drained = {"own/a"}
    gate = DrainFilter(drained)
    for placement in ("own/a", "own/a/0", "own/a/1"):
        assert gate(serving(placement)) == serving(placement, False, DRAINED)
    assert gate(serving("own/b")).serving  # type: ignore[union-attr]
    assert gate(serving("own/a", False, "refused")) == serving("own/a", False, "refused")
    drained.clear()
    assert gate.last_probed("own/a/1") == serving("own/a/1")
    assert gate.last_probed("own/a") == serving("own/a", False, "refused")


def test_one_that_was_never_probed_is_not_in_service() -> None:
    gate = DrainFilter({"own/a"})
    assert gate.last_probed("own/a") == serving("own/a", False, DRAINED)
    assert gate.last_probed("own/b") == serving("own/b", False, "not probed yet")
