"""Which states stay in a reload, and which models it changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.contract import PlacementKind
from scheduler.model.fleet_change import fleet_change
from scheduler.placement_state import Placement, PlacementState

A = Placement(name="a", kind=PlacementKind.SELF_HOSTED, model="moe", max_running=1)
B = replace(A, name="b")
OTHER = replace(A, name="c", model="other")
BEFORE = {facts.name: PlacementState(facts) for facts in (A, B, OTHER)}


@pytest.mark.parametrize(
    "facts",
    [
        {"max_running": 2},
        {"pool": "p"},
        {"nano_usd_per_s": 1},
        {"context_tokens": 9},
        {"group": "a"},  # what a placement alone in its group is called anyway
        {"remote_class": "eu"},
    ],
)
def test_changed_facts_keep_the_state(facts: dict[str, Any]) -> None:
    change = fleet_change(BEFORE, (replace(A, **facts), B, OTHER))
    assert change.after["a"] is BEFORE["a"]
    assert change.changed == ("moe",)
    assert BEFORE["a"].facts == A, "facts are applied by apply_facts alone"


@pytest.mark.parametrize(
    "facts",
    [
        {"incarnation": "1"},
        {"kind": PlacementKind.REMOTE},
        {"group": "g"},
        {"dp_rank": 1},
    ],
)
def test_another_server_has_another_state(facts: dict[str, Any]) -> None:
    change = fleet_change(BEFORE, (replace(A, **facts), B, OTHER))
    assert change.after["a"] is not BEFORE["a"]
    assert change.after["b"] is BEFORE["b"]
    assert change.changed == ("moe",)


def test_a_placement_that_changes_its_model_changes_both() -> None:
    change = fleet_change(BEFORE, (replace(A, model="other"), B, OTHER))
    assert change.after["a"] is not BEFORE["a"]
    assert change.changed == ("other", "moe")
    assert change.models == {
        "other": [change.after["a"], BEFORE["c"]],
        "moe": [BEFORE["b"]],
    }


def test_the_same_placements_change_nothing() -> None:
    assert fleet_change(BEFORE, (A, B, OTHER)).changed == ()
    assert fleet_change(BEFORE, (OTHER, A, B)).changed == ()


def test_a_removed_placement_changes_its_model() -> None:
    change = fleet_change(BEFORE, (B,))
    assert change.changed == ("moe",)
    assert change.models.keys() == {"moe"}
