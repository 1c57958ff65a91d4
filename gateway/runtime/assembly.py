"""The parts of a running gateway, built from a checked configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp

from gateway.accounting.attempt_recorder import AttemptRecorder
from gateway.accounting.metering import Metering
from gateway.accounting.prices.catalog import Prices
from gateway.accounting.prices.source import group_of, load_prices, priced
from gateway.config.gateway import GatewayConfig
from gateway.domain.generation import Generation
from gateway.fleet.drain_filter import DrainFilter
from gateway.fleet.fleet import Client, Fleet, fleet_settings, occupied
from gateway.fleet.placements import placements_of
from gateway.pipeline.dispatch import Dispatcher
from gateway.upstream.http.loop_load import LoopLoad
from scheduler.contract import PlacementKind
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.limits.retry_budget import RetryLimits
from scheduler.metering.rate_snapshot import rate_snapshot
from scheduler.metering.settlement import Sink
from scheduler.queue.model_queue import QueueLimits
from scheduler.snapshot import SchedulerSnapshot

UPSTREAM_KEEPALIVE_S = 4.0
"""Idle connections are closed before vLLM's HTTP server does so, after 5 s: a request that is sent
into a closing connection is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What serves requests. Made by `build`, inside a running event loop."""

    config: GatewayConfig
    scheduler: Scheduler
    dispatcher: Dispatcher
    fleet: Fleet
    prices: Prices
    salted: frozenset[str]
    """Models of which each tenant has a prefix cache of its own."""

    @property
    def backends(self) -> Mapping[str, Client]:
        """Client by placement."""
        return self.fleet.clients

    @property
    def targets(self) -> Mapping[str, tuple[str, str]]:
        """Address and model of each placement that has one."""
        return self.fleet.targets

    def snapshot(self, now_s: float) -> SchedulerSnapshot:
        """The scheduler's figures, without the places that no replica has."""
        return occupied(self.scheduler.snapshot(now_s), self.targets)

    async def close(self) -> None:
        """Ends what the clients hold; the session of the HTTP ones is the caller's."""
        await self.fleet.close()

    def unsupported_by(self, generation: Generation) -> dict[str, tuple[str, ...]]:
        """Fields of the request that a placement cannot honour, by placement of its model."""
        return self.fleet.unsupported_by(generation)


def session() -> aiohttp.ClientSession:
    """The session of all upstream calls: what bounds its connections is the scheduler."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=UPSTREAM_KEEPALIVE_S)
    # No cookies: an engine sets none that matter, and looking for them costs every request.
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=True
    )


def build(
    config: GatewayConfig,
    base_dir: Path,
    upstream: aiohttp.ClientSession,
    clock: Callable[[], float],
    load: LoopLoad,
    on_change: Callable[[], Awaitable[None]],
    metering: Metering,
    sinks: tuple[Sink, ...] = (),
    gate: DrainFilter | None = None,
) -> Runtime:
    """Builds everything. `base_dir`: what secret files are relative to; `sinks`: told of every
    attempt. Raises ConfigError."""
    placements = placements_of(config, base_dir)
    settings = fleet_settings(config, base_dir)
    prices = load_prices(config.prices, base_dir)
    placements = priced(placements, config, prices, metering.unix_s)
    limits = config.limits
    scheduler = Scheduler(
        placements,
        SchedulerLimits(
            queue=QueueLimits(requests=limits.queue_requests, size_bytes=limits.queue_bytes),
            attempts=limits.attempts,
            retries=RetryLimits(share=config.failures.retry_share),
        ),
    )
    fleet = Fleet(
        settings,
        session=upstream,
        pace=load,
        clock=clock,
        report=lambda event: dispatcher.handle(event),
        is_idle=partial(_is_idle, scheduler),
        on_change=on_change,
    )
    dispatcher = Dispatcher(
        scheduler,
        fleet.clients,
        clock,
        on_refused=fleet.notify_refused,
        on_silent=fleet.notify_silent,
        on_tick=load.sample,
        accountant=AttemptRecorder(
            book=rate_snapshot(placements),
            metering=metering,
            groups={p.name: group_of(p) for p in placements if p.kind is PlacementKind.LOCAL},
            pools={p.name: p.pool for p in placements},
            sinks=sinks,
        ),
        gate=gate,
        failures=config.failures,
        unable_to_continue=fleet.cannot_continue,
    )
    return Runtime(
        config=config,
        scheduler=scheduler,
        dispatcher=dispatcher,
        fleet=fleet,
        prices=prices,
        salted=frozenset(pool.model for pool in config.pools if not pool.share_prefix_cache),
    )


def _is_idle(scheduler: Scheduler, placement: str) -> bool:
    return not any(s.sequences for s in scheduler.placements if s.facts.name == placement)
