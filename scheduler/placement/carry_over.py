"""A reload puts a new fleet in the place of a model's old one: what was learnt is carried over.

Groups are carried by name and states by identity. A group keeps its fit while its prior is the
same, its counters while its members are, and the streams and prefills of the members that stay.
What runs on a placement that left is no part of any fleet: `PlacementState` alone counts it until
it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scheduler.placement.decision_model import priced
from scheduler.placement.groups import CarriedOver, Group, prior_of
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.placement_state import PlacementState
from scheduler.policy import Policy
from scheduler.step_time.step_fit import StepFit
from scheduler.step_time.step_windows import WindowMeter


def carry_over(
    old: SelfHostedFleet, states: Sequence[PlacementState], policy: Policy, now: float
) -> SelfHostedFleet:
    """The fleet of `states` with all that `old` knows of them; `old` must not be used after."""
    members: dict[str, list[PlacementState]] = {}
    for state in states:
        members.setdefault(state.facts.group_name, []).append(state)
    groups: dict[str, Group] = {}
    unchanged: set[str] = set()
    for name, group in {group.name: group for group in old.groups}.items():
        before = [old.states[member] for member in group.members]
        after = members.get(name, [])
        if not after or prior_of(after[0].facts) != group.fit.prior:
            old.pooled[group.fit.prior].update(name, None)
        if not after:
            continue
        same_members = set(map(id, before)) == set(map(id, after))
        groups[name] = _carried(group, before, after, policy, same_members=same_members)
        if same_members and groups[name].fit is group.fit:
            unchanged.add(name)
    fleet = SelfHostedFleet(
        states, policy, CarriedOver(groups, old.lengths, old.pooled, old.errors), now
    )
    for index, state in enumerate(states):
        if state.facts.group_name in unchanged:
            was = old.index[state.facts.name]
            fleet.interference_lines[index] = old.interference_lines[was]
            fleet.curve_at_s[index] = old.curve_at_s[was]
    if not states:
        fleet.full_token_s = old.full_token_s  # what still runs is charged by it
    return fleet


def _carried(
    group: Group,
    before: Sequence[PlacementState],
    after: Sequence[PlacementState],
    policy: Policy,
    *,
    same_members: bool,
) -> Group:
    stay = set(map(id, after))
    for state in before:
        if id(state) not in stay:
            group.periods.pop(state.facts.name, None)
            for request_id in state.residents:
                group.streams.remove(request_id)
    # Counters of another set of engines do not continue those before.
    meter = group.meter if same_members else WindowMeter()
    prior = prior_of(after[0].facts)
    if prior == group.fit.prior:
        return replace(group, members=[], meter=meter)
    fit = StepFit(prior)
    if group.experts is not None and group.experts.law is not None:
        fit.use_law(group.experts.law)
    changed = replace(group, members=[], meter=meter, fit=fit, steps_s=[], experts_s=[])
    changed.set_model(priced(fit.model, policy))
    return changed
