"""Names that requests may give: models, and their LoRA adapters.

An adapter is another name of its base model, with weights of its own: it runs on the same engines,
so it shares the model's queue, capacity, step model and meter. A remote that serves an adapter by
its name stands in the same model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from scheduler.contract import PlacementKind, Request
from scheduler.placement_state import Placement, PlacementState


def declared_bases(placements: Iterable[Placement]) -> dict[str, str]:
    """Base model of each adapter that a placement declares."""
    return {adapter: facts.model for facts in placements for adapter in facts.adapters}


def all_bases(states: Iterable[PlacementState]) -> Mapping[str, str]:
    """Base model of each adapter that is declared, or that a server tells. A name that is declared,
    or that a model has, means the same whatever a server tells; of two servers with different
    models that tell one name, the first counts."""
    states = tuple(states)
    declared = declared_bases(state.facts for state in states)
    models = {declared.get(state.facts.model, state.facts.model) for state in states}
    bases: dict[str, str] = {}
    for state in states:
        for adapter in state.adapters.loaded:
            if adapter not in models:
                bases.setdefault(adapter, state.facts.model)
    return {**bases, **declared}


def serves(state: PlacementState, request: Request) -> bool:
    """Whether the placement has the weights that the request names."""
    model = request.model
    if model == state.facts.model:
        return True
    return state.facts.kind is PlacementKind.SELF_HOSTED and model in state.adapters.loaded
