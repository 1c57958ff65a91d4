"""The difference that a reload makes to the placements: which states stay, and which models change.

A placement that stays keeps its `PlacementState` object, so states are compared by identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scheduler.model.model_names import declared_bases
from scheduler.placement_admission import PlacementAdmission
from scheduler.placement_state import Placement, PlacementState


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetChange:
    """Placements before and after a reload.

    Attributes:
        before, after: states by name, in the order of the configuration. A state of `after` is new
            if `before` has no placement of this name, or if its server is another one.
        facts: the new facts by name; the states hold the old facts until `apply_facts`.
        models: the states of each configured model, those of its adapters included.
        changed: models whose placements, or facts of placements, differ.
    """

    before: Mapping[str, PlacementState]
    after: Mapping[str, PlacementState]
    facts: Mapping[str, Placement]
    models: Mapping[str, list[PlacementState]]
    changed: tuple[str, ...]

    def apply_facts(self) -> None:
        """Gives every state its new facts."""
        for name, state in self.after.items():
            state.facts = self.facts[name]

    def apply_to(self, admission: PlacementAdmission) -> None:
        """Applies the change to the admission state of the placements; before `apply_facts`."""
        for name in self.before.keys() - self.after.keys():
            admission.remove(name)
        for name, state in self.after.items():
            facts, was = self.facts[name], self.before.get(name)
            if was is None or (was.facts.model, was.facts.kind) != (facts.model, facts.kind):
                admission.add(facts)
            elif was is not state:
                admission.restart(facts)
            elif was.facts != facts:
                admission.change(facts)


def fleet_change(
    before: Mapping[str, PlacementState], placements: Iterable[Placement]
) -> FleetChange:
    """The change from the states `before` to `placements`; nothing is written to a state.

    Raises ValueError if two placements have one name.
    """
    placements = tuple(placements)
    bases = declared_bases(placements)
    facts: dict[str, Placement] = {}
    after: dict[str, PlacementState] = {}
    models: dict[str, list[PlacementState]] = {}
    for placement in placements:
        name = placement.name
        if name in facts:
            raise ValueError(f"placement {name!r} is there twice: names must differ")
        state = before.get(name)
        if state is None or not state.facts.is_same_server(placement):
            state = PlacementState(placement)
        facts[name], after[name] = placement, state
        models.setdefault(bases.get(placement.model, placement.model), []).append(state)
    bases_before = declared_bases(state.facts for state in before.values())
    models_before: dict[str, list[PlacementState]] = {}
    for state in before.values():
        model = state.facts.model
        models_before.setdefault(bases_before.get(model, model), []).append(state)
    changed = tuple(
        model
        for model, states in models.items()
        if list(map(id, states)) != list(map(id, models_before.get(model, ())))
        or any(state.facts != facts[state.facts.name] for state in states)
    )
    return FleetChange(before=before, after=after, facts=facts, models=models, changed=changed)
