"""The scheduler's part of the configuration: placements, limits, prices and hedge budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gateway.accounting.prices.catalog import Prices
from gateway.accounting.prices.source import load_prices
from gateway.config.gateway import GatewayConfig
from scheduler.core import SchedulerLimits
from scheduler.limits.retry_budget import RetryLimits
from scheduler.placement_state import Placement
from scheduler.queue.model_queue import QueueLimits

HEDGE_RESERVE = 4.0
"""Initial number of hedges that a new gateway may start beyond the configured share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingSettings:
    """Settings derived from a validated configuration. `placements` have no prices yet."""

    config: GatewayConfig
    placements: tuple[Placement, ...]
    prices: Prices
    limits: SchedulerLimits
    hedges: RetryLimits


def scheduling_settings(
    config: GatewayConfig, base_dir: Path, placements: tuple[Placement, ...]
) -> SchedulingSettings:
    """Derives the settings. `base_dir`: base of relative catalog paths. Raises ConfigError."""
    limits, failures = config.limits, config.failures
    return SchedulingSettings(
        config=config,
        placements=placements,
        prices=load_prices(config.prices, base_dir),
        limits=SchedulerLimits(
            queue=QueueLimits(
                requests=limits.queue_requests,
                size_bytes=limits.queue_bytes,
                tenant_share=tenant_share(config),
            ),
            attempts=limits.attempts,
            retries=RetryLimits(share=failures.retry_share),
        ),
        hedges=RetryLimits(
            share=failures.hedging.share if failures.hedging else 0.0,
            reserve=HEDGE_RESERVE,
            reserve_per_s=0.0,
        ),
    )


def with_tenants(settings: SchedulingSettings, config: GatewayConfig) -> SchedulingSettings:
    """Returns the settings with the tenants and keys of `config`, which is otherwise the same."""
    queue = replace(settings.limits.queue, tenant_share=tenant_share(config))
    return replace(settings, config=config, limits=replace(settings.limits, queue=queue))


def tenant_share(config: GatewayConfig) -> float:
    """The part of a queue that one tenant may fill; a single one may fill it."""
    return config.limits.queue_tenant_share if len(config.tenants) > 1 else 1.0


def metering_state(config: GatewayConfig, base_dir: Path) -> Path | None:
    """Returns the path of the meter's checkpoint file; None: no checkpoint."""
    state = config.metering.state
    return None if state is None else base_dir / state
