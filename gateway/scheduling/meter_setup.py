"""Tells the meter and the attempt recorder of the placements and prices in force."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from gateway.accounting.prices.source import group_of, metered_groups
from gateway.scheduling.attempt_recorder import AttemptRecorder
from gateway.scheduling.metering import Metering
from gateway.scheduling.settings import SchedulingSettings
from gateway.scheduling.views import Targets
from scheduler.contract import PlacementKind, PricesChanged
from scheduler.core import Scheduler
from scheduler.placement_state import Placement


def set_up_meter(
    placements: Sequence[Placement],
    settings: SchedulingSettings,
    *,
    metering: Metering,
    recorder: AttemptRecorder,
    core: Scheduler,
    targets: Targets,
    on_change: Callable[[], float],
) -> None:
    """Sets the metered groups. `placements`: with the prices that the core was given. `on_change`:
    applies the prices at the next change of one, and returns the time of the one after it."""
    local = [p for p in placements if p.kind is PlacementKind.SELF_HOSTED]
    groups: dict[str, list[str]] = {}
    for placement in local:
        groups.setdefault(group_of(placement), []).append(placement.name)
    recorder.configure(
        groups={p.name: group_of(p) for p in local}, pools={p.name: p.pool for p in placements}
    )
    metering.configure(
        metered_groups(placements, settings.config, settings.prices, metering.unix_s),
        exists=lambda group: any(name in targets for name in groups.get(group, ())),
        fitted=lambda group: core.step_model(groups[group][0]),
        next_change_s=settings.prices.next_change_s(metering.unix_s),
        on_change=on_change,
    )


def price_changes(placements: Iterable[Placement]) -> Iterator[PricesChanged]:
    """Yields the event that tells the core the prices of each placement."""
    for placement in placements:
        yield PricesChanged(
            placement=placement.name,
            rates=placement.rates,
            adapter_rates=placement.adapter_rates,
            nano_usd_per_s=placement.nano_usd_per_s,
        )
