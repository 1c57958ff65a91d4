"""Builds the fleet view and the fleet figures from the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from scheduler.adapters.adapter_report import AdapterReport
from scheduler.contract import EngineReport, PlacementEvent, ServingChanged
from scheduler.core import Scheduler
from scheduler.engine_steps import EngineSteps
from scheduler.fleet_view import FleetView, PlacementView, fleet_view
from scheduler.limits.breaker import BreakerPhase
from scheduler.metering.throughput import Throughput
from scheduler.placement_admission import AdmissionReport
from scheduler.placement_state import Placement
from scheduler.port import FleetFigures
from scheduler.prefix.token_blocks import CacheEvents
from scheduler.snapshot import PlacementSnapshot, without_free_places

FLEET_REPORTS = EngineReport | EngineSteps | ServingChanged | CacheEvents | AdapterReport
"""Events that the fleet reports."""
Targets = Mapping[str, tuple[str, str]]
"""Address and upstream model, keyed by each placement that has a server."""
_NOWHERE = ("", "")
_CLOSED_TO_ALL = (BreakerPhase.PAUSED, BreakerPhase.OPEN)


def view_of(core: Scheduler, targets: Targets) -> FleetView:
    """Returns the current fleet view."""
    placements = []
    for state in core.placements:
        facts = state.facts
        address, upstream_model = targets.get(facts.name, _NOWHERE)
        placements.append(
            PlacementView(
                name=facts.name,
                kind=facts.kind,
                model=facts.model,
                pool=facts.pool,
                replica=facts.replica,
                group=facts.group or facts.name,
                address=address,
                upstream_model=upstream_model,
                serving=state.serving,
                starts_on_demand=state.facts.start_s is not None,
                reason=state.reason,
                context_tokens=state.context_tokens,
                loaded_adapters=state.adapters.loaded,
                adapters=state.adapters.loaded.union(facts.adapters),
            )
        )
    models = {placement.model for placement in placements}
    sizes = {model: core.token_block_sizes(model) for model in models}
    return fleet_view(tuple(placements), sizes, core.base_model)


def shows_more(core: Scheduler, fleet: FleetView, event: PlacementEvent) -> bool:
    """Whether a report of an engine has changed a value that the fleet view shows."""
    placement = event.placement
    view = fleet.by_name.get(placement)
    if view is None:
        return True
    if isinstance(event, AdapterReport):
        return event.loaded != view.loaded_adapters
    sizes = core.token_block_sizes(view.model)
    return (
        core.context_tokens(placement) != view.context_tokens
        or fleet.token_block_sizes.get(view.model, ()) != sizes
    )


def same_failure_domain(facts: Mapping[str, Placement], name: str) -> frozenset[str]:
    """Names of the placements that fail together with one. `facts`: of all placements, by name."""
    domain = facts[name].failure_domain if name in facts else ""
    if not domain:
        return frozenset()
    return frozenset(p.name for p in facts.values() if p.failure_domain == domain)


def shown(placement: PlacementSnapshot, admission: AdmissionReport) -> PlacementSnapshot:
    """The placement as operators see it: one that gets no requests now is not in service, although
    its server answers the probes."""
    if not placement.serving or admission.phase not in _CLOSED_TO_ALL:
        return placement
    reason = ": ".join(filter(None, (admission.phase.value, admission.reason)))
    return replace(placement, serving=False, reason=reason)


def fleet_figures(
    core: Scheduler, throughput: Throughput, targets: Targets, *, now: float, now_unix_s: float
) -> FleetFigures:
    """Returns the figures of every placement that has a server or a running request. `now`:
    monotonic seconds. `now_unix_s`: Unix seconds."""
    snapshot = without_free_places(core.snapshot(now), targets)
    names = [placement.name for placement in snapshot.placements]
    reports = {name: core.admission_report(name, now) for name in names}
    placements = tuple(shown(each, reports[each.name]) for each in snapshot.placements)
    snapshot = replace(snapshot, placements=placements)
    rates = {
        name: throughput.tokens_per_s(name, now_s=now, now_unix_s=now_unix_s) for name in names
    }
    return FleetFigures(
        snapshot=snapshot,
        output_tokens_per_s={name: rate for name, rate in rates.items() if rate is not None},
        breaker_phases={name: report.phase for name, report in reports.items()},
        overflowed_requests=throughput.overflowed_requests,
    )
