"""The fleet view and the fleet's figures, made from a core."""

from __future__ import annotations

from gateway.scheduling.views import fleet_figures, view_of
from scheduler.contract import AttemptOutcome, Fault, PlacementKind
from scheduler.limits.breaker import BreakerPhase
from scheduler.metering.throughput import Throughput
from tests.scheduler.reload_made import end, local, remote, report, scheduler, start

TARGETS = {"a": ("http://a", "upstream")}


def test_a_view_joins_the_core_and_the_addresses() -> None:
    core = scheduler(local("a"), local("b"), remote(model="other"))
    view = view_of(core, TARGETS)
    assert [placement.name for placement in view.placements] == ["a", "b", "far"]
    a, b, far = view.placements
    assert (a.address, a.upstream_model) == ("http://a", "upstream")
    assert (b.address, b.upstream_model) == ("", "")
    assert (a.kind, far.kind) == (PlacementKind.SELF_HOSTED, PlacementKind.REMOTE)
    assert (a.group, far.group) == ("a", "far"), "one that is alone is a group of its own"
    assert view.of_model("moe") == (a, b)
    assert view.of_model("other") == (far,)
    assert set(view.token_block_sizes) == {"moe", "other"}


def test_a_view_does_not_follow_the_core() -> None:
    core = scheduler(local("a"))
    view = view_of(core, TARGETS)
    core.reconfigure((local("a"), local("b")), core._limits, 1.0)
    assert len(view.placements) == 1
    assert len(view_of(core, TARGETS).placements) == 2


def test_figures_leave_out_free_places_without_a_server() -> None:
    core = scheduler(local("a"), local("b"))
    core.handle(report("a", 0.0), 0.0)
    throughput = Throughput()
    figures = fleet_figures(core, throughput, TARGETS, now=0.0, now_unix_s=0.0)
    assert [placement.name for placement in figures.snapshot.placements] == ["a"]
    assert figures.breaker_phases == {"a": BreakerPhase.CLOSED}
    for number in range(2):
        start(core, f"r{number}")
    figures = fleet_figures(core, throughput, TARGETS, now=0.0, now_unix_s=0.0)
    assert [placement.name for placement in figures.snapshot.placements] == ["a", "b"]
    assert figures.overflowed_requests == 0


def test_a_placement_that_takes_no_requests_now_is_not_shown_as_in_service() -> None:
    core = scheduler(local("a"), local("b"))
    start(core, "r")
    (name,) = [state.facts.name for state in core.placements if state.residents]
    end(core, "r", AttemptOutcome.CANCELLED, fault=Fault.BUSY, now=0.0)
    targets = {name: ("http://x", "upstream")}
    paused = fleet_figures(core, Throughput(), targets, now=0.2, now_unix_s=0.0)
    (shown,) = [each for each in paused.snapshot.placements if each.name == name]
    assert (shown.serving, shown.reason) == (False, "paused")
    later = fleet_figures(core, Throughput(), targets, now=10.0, now_unix_s=0.0)
    (shown,) = [each for each in later.snapshot.placements if each.name == name]
    assert shown.serving
