"""What a configuration means to the scheduler's side: placements, bounds, prices, budgets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.accounting.prices.catalog import Prices
from gateway.accounting.prices.source import load_prices
from gateway.config.gateway import GatewayConfig
from scheduler.core import SchedulerLimits
from scheduler.limits.retry_budget import RetryLimits
from scheduler.placement_state import Placement
from scheduler.queue.model_queue import QueueLimits

HEDGE_RESERVE = 4.0
"""Hedges beyond their share of the requests that a gateway may make when it is new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulingSettings:
    """Made from a checked configuration by `scheduling_settings`. `placements`: without prices."""

    config: GatewayConfig
    placements: tuple[Placement, ...]
    prices: Prices
    limits: SchedulerLimits
    hedges: RetryLimits


def scheduling_settings(
    config: GatewayConfig, base_dir: Path, placements: tuple[Placement, ...]
) -> SchedulingSettings:
    """`base_dir`: what price catalogs are relative to. Raises ConfigError."""
    limits, failures = config.limits, config.failures
    return SchedulingSettings(
        config=config,
        placements=placements,
        prices=load_prices(config.prices, base_dir),
        limits=SchedulerLimits(
            queue=QueueLimits(requests=limits.queue_requests, size_bytes=limits.queue_bytes),
            attempts=limits.attempts,
            retries=RetryLimits(share=failures.retry_share),
        ),
        hedges=RetryLimits(
            share=failures.hedging.share if failures.hedging else 0.0,
            reserve=HEDGE_RESERVE,
            reserve_per_s=0.0,
        ),
    )


def metering_state(config: GatewayConfig, base_dir: Path) -> Path | None:
    """File of the meter's checkpoint; None: it is not kept."""
    state = config.metering.state
    return None if state is None else base_dir / state
