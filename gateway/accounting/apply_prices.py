"""Puts the prices of a configuration into force: at its start, and when the dated ones change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gateway.accounting.metering import Metering
from gateway.accounting.prices.source import group_of, metered_groups, priced
from gateway.config.gateway import GatewayConfig
from scheduler.contract import PlacementKind, PricesChanged
from scheduler.metering.rate_snapshot import rate_snapshot

if TYPE_CHECKING:
    from gateway.runtime.assembly import Runtime


def metering_state(config: GatewayConfig, base_dir: Path) -> Path | None:
    """File of the meter's sums; None: they are not kept."""
    state = config.metering.state
    return None if state is None else base_dir / state


def pay(metering: Metering, runtime: Runtime) -> None:
    """Meters the groups of a runtime that was just built, and follows its prices."""
    facts = [state.facts for state in runtime.scheduler.placements]
    places: dict[str, list[str]] = {}
    for placement in facts:
        if placement.kind is PlacementKind.LOCAL:
            places.setdefault(group_of(placement), []).append(placement.name)

    def exists(group: str) -> bool:
        return any(name in runtime.targets for name in places.get(group, ()))

    def reprice() -> float:
        placements = priced(facts, runtime.config, runtime.prices, metering.unix_s)
        runtime.dispatcher.book = rate_snapshot(placements)
        for placement in placements:
            runtime.dispatcher.handle(
                PricesChanged(
                    placement=placement.name,
                    rates=placement.rates,
                    nano_usd_per_s=placement.nano_usd_per_s,
                )
            )
        return runtime.prices.next_change_s(metering.unix_s)

    metering.configure(
        metered_groups(facts, runtime.config, runtime.prices, metering.unix_s),
        exists=exists,
        fitted=lambda group: runtime.scheduler.step_model(places[group][0]),
        next_change_s=runtime.prices.next_change_s(metering.unix_s),
        on_change=reprice,
    )
