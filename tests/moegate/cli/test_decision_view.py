"""The text of `moegate explain`: the next best place, and hyphens for unknown figures."""

from __future__ import annotations

import pytest
from rich.console import Console

from moegate.cli.views.decision import sentences, view
from moegate.v1 import generation_pb2, inference_pb2


def explained(**other: object) -> inference_pb2.ExplainResponse:
    found = inference_pb2.ExplainResponse(
        request_id="r1", model="moe", attempt=2, placement="own/a", tier="local", reason="cheapest"
    )
    found.candidates.add(placement="own/a", chosen=True, feasible=True, marginal_nano_usd=2_000)
    if other:
        found.candidates.add(**{"placement": "own/b", **other})
    return found


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            {"feasible": False, "reason": "drained"},
            "The next best place, own/b, was not open: drained.",
        ),
        (
            {"feasible": True, "marginal_nano_usd": 5_000},
            "The next best place, own/b, costs $0.000003 more.",
        ),
        (
            {"feasible": True, "marginal_nano_usd": 1_000},
            "The next best place, own/b, costs $0.000001 less.",
        ),
    ],
)
def test_the_next_best_place_is_told(other: dict[str, object], sentence: str) -> None:
    assert sentences(explained(**other))[-1] == sentence


@pytest.mark.parametrize("other", [{}, {"feasible": True}])
def test_nothing_is_said_of_a_place_with_unknown_cost(other: dict[str, object]) -> None:
    assert not any("next best" in line for line in sentences(explained(**other)))


def test_a_request_without_a_placement_went_nowhere() -> None:
    found = inference_pb2.ExplainResponse(request_id="r1", tier="wait", reason="full")
    assert "went nowhere yet" in sentences(found)[0]


def test_unknown_figures_are_hyphens() -> None:
    found = explained(feasible=True, kind=generation_pb2.PLACEMENT_KIND_REMOTE)
    console = Console(width=160)
    with console.capture() as capture:
        console.print(view(found))
    [chosen, other] = [
        line.split() for line in capture.get().splitlines() if line.lstrip("> ").startswith("own/")
    ]
    assert chosen[:3] == [">", "own/a", "yes"]
    assert chosen[3:] == ["-", "-", "0", "-", "0.000002", "-"]
    assert other == ["own/b", "yes", "-", "-", "0", "-", "-", "-"]


def test_the_money_is_there_in_80_columns() -> None:
    found = explained(feasible=False, reason="its KV cache is full for the next 30 seconds")
    console = Console(width=80)
    with console.capture() as capture:
        console.print(view(found))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("marginal $" in line and "charge $" in line for line in lines)
