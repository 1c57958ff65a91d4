"""The difference that a reload makes: which states stay, and which models change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.contract import PlacementKind
from scheduler.fleet_change import fleet_change
from scheduler.placement_admission import PlacementAdmission
from scheduler.placement_state import Placement, PlacementState


def self_hosted(name: str = "own/a", *, max_running: int = 64) -> Placement:
    return Placement(name=name, kind=PlacementKind.LOCAL, model="moe", max_running=max_running)


def remote(name: str = "far", *, max_running: int = 64) -> Placement:
    return Placement(name=name, kind=PlacementKind.REMOTE, model="moe", max_running=max_running)


def states(*placements: Placement) -> dict[str, PlacementState]:
    return {facts.name: PlacementState(facts) for facts in placements}


def test_nothing_changes_with_the_same_placements() -> None:
    before = states(self_hosted(), remote())
    change = fleet_change(before, [self_hosted(), remote()])
    assert change.changed == ()
    assert all(change.after[name] is state for name, state in before.items())


def test_a_placement_with_other_facts_stays_and_its_model_changes() -> None:
    before = states(self_hosted(), replace(remote(), model="other"))
    change = fleet_change(before, [self_hosted(max_running=7), replace(remote(), model="other")])
    assert change.changed == ("moe",)
    assert change.after["own/a"] is before["own/a"]
    assert before["own/a"].facts.max_running == 64, "facts are given later"
    change.apply_facts()
    assert before["own/a"].facts.max_running == 7


def test_a_placement_that_moves_to_another_model_changes_both() -> None:
    before = states(self_hosted("own/a"), self_hosted("own/b"), replace(remote(), model="other"))
    after = [
        self_hosted("own/a"),
        replace(self_hosted("own/b"), model="other"),
        replace(remote(), model="other"),
    ]
    change = fleet_change(before, after)
    assert set(change.changed) == {"moe", "other"}
    assert change.after["own/b"] is not before["own/b"]


def test_the_order_of_a_models_placements_is_a_change() -> None:
    before = states(self_hosted("own/a"), self_hosted("own/b"))
    assert fleet_change(before, [self_hosted("own/b"), self_hosted("own/a")]).changed == ("moe",)


def test_limits_that_were_learnt_go_with_the_placement() -> None:
    before = states(remote("stays"), remote("goes"))
    admission = PlacementAdmission(state.facts for state in before.values())
    change = fleet_change(before, [remote("stays", max_running=9), remote("comes")])
    change.apply_to(admission)
    assert admission.report("stays", 0.0).slots == 9
    assert admission.report("comes", 0.0).slots == 64
    with pytest.raises(KeyError):
        admission.report("goes", 0.0)


def test_two_placements_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="own/a"):
        fleet_change({}, [self_hosted(), self_hosted()])
