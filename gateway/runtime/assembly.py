"""The parts of a running gateway, built from a checked configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import aiohttp

from gateway.accounting.attempt_recorder import AttemptRecorder
from gateway.accounting.metering import Metering
from gateway.accounting.prices.catalog import Prices
from gateway.accounting.prices.source import group_of, load_prices, priced
from gateway.config.discovery import DiscoveryConfig
from gateway.config.engine_priors import checked_prior
from gateway.config.gateway import GatewayConfig, PoolConfig
from gateway.config.remote import Feature
from gateway.config.secrets import resolve
from gateway.domain.generation import Generation
from gateway.fleet.discovery import Discovery, place_names
from gateway.fleet.dns_lookup import Lookup
from gateway.fleet.drain_filter import DrainFilter
from gateway.fleet.kv_events import KvEventsListener, Publisher, publisher
from gateway.fleet.probes import Probed, Prober
from gateway.fleet.rank_names import rank_names
from gateway.fleet.remotes import AnyBackend, Unsupported, remote_parts
from gateway.fleet.self_hosted import FoundReplicas, OwnReplicas, occupied
from gateway.pipeline.dispatch import Dispatcher
from gateway.upstream.http.loop_load import LoopLoad
from gateway.upstream.moegate.client import MoegateGrpcBackend
from gateway.upstream.openai.body import Dialect
from gateway.upstream.openai.http import OpenAIHttpBackend
from scheduler.contract import PlacementKind
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.limits.retry_budget import RetryLimits
from scheduler.metering.rate_snapshot import rate_snapshot
from scheduler.metering.settlement import Sink
from scheduler.placement_state import Placement
from scheduler.queue.model_queue import QueueLimits
from scheduler.snapshot import SchedulerSnapshot
from scheduler.step_time.step_model import StepModel

UPSTREAM_KEEPALIVE_S = 4.0
"""Idle connections are closed before vLLM's HTTP server does so, after 5 s: a request that is sent
into a closing connection is lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What serves requests. Made by `build`, inside a running event loop."""

    config: GatewayConfig
    scheduler: Scheduler
    dispatcher: Dispatcher
    prober: Prober
    listener: KvEventsListener
    prices: Prices
    backends: dict[str, AnyBackend]
    unsupported: dict[str, dict[str, Unsupported]]
    """Of each remote, by model; own engines can everything."""
    targets: dict[str, tuple[str, str]]
    """Address and model of each placement that has one."""
    discoveries: tuple[Discovery, ...]
    """What finds the replicas of pools that do not list them."""
    salted: frozenset[str]
    """Models of which each tenant has a prefix cache of its own."""

    def snapshot(self, now_s: float) -> SchedulerSnapshot:
        """The scheduler's figures, without the places that no replica has."""
        return occupied(self.scheduler.snapshot(now_s), self.targets)

    async def close(self) -> None:
        """Ends what the remotes hold; the session of the HTTP ones is the caller's."""
        for backend in self.backends.values():
            if isinstance(backend, MoegateGrpcBackend):
                await backend.close()

    def unsupported_by(self, generation: Generation) -> dict[str, tuple[str, ...]]:
        """Fields of the request that a placement cannot honour, by placement of its model."""
        found: dict[str, tuple[str, ...]] = {}
        for name, lacks in self.unsupported.get(generation.model, {}).items():
            if fields := lacks(generation):
                found[name] = fields
        return found


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
    placements: list[Placement] = []
    backends: dict[str, AnyBackend] = {}
    unsupported: dict[str, dict[str, Unsupported]] = {}
    unable: set[str] = set()
    """Remotes that cannot go on with another server's answer."""
    targets: dict[str, tuple[str, str]] = {}
    replicas: list[Probed] = []
    publishers: list[Publisher | None] = []
    found: list[tuple[PoolConfig, DiscoveryConfig, OwnReplicas]] = []
    for pool in config.pools:
        upstream_model = pool.upstream_model or pool.model
        own = OwnReplicas(
            upstream_model=upstream_model,
            backend=partial(
                OpenAIHttpBackend,
                session=upstream,
                upstream_model=upstream_model,
                dialect=Dialect.VLLM,
                api_key=resolve(pool.api_key, base_dir),
                timeouts=pool.timeouts,
                pace=load,
            ),
            pinned_ranks=pool.data_parallel_ranks if pool.pin_ranks else 0,
            backends=backends,
            targets=targets,
        )
        listed = {f"{pool.name}/{replica.name}": replica.url for replica in pool.replicas}
        replicas.extend(own.connect(name, url) for name, url in listed.items())
        publishers.extend(
            publisher(pool, f"{pool.name}/{replica.name}", replica.url, replica.kv_events_port)
            for replica in pool.replicas
        )
        names = tuple(listed)
        if pool.discover is not None:
            names = place_names(pool.name, pool.discover)
            found.append((pool, pool.discover, own))
        step_model = checked_prior(pool, base_dir).step_model
        for name in names:
            placements.extend(_local_placements(pool, name, step_model))
    for remote in config.remotes:
        parts = remote_parts(remote, base_dir, upstream, load)
        placements.append(parts.placement)
        backends[remote.name] = parts.backend
        unsupported.setdefault(remote.model, {})[remote.name] = parts.unsupported
        if Feature.CONTINUATION not in parts.features:
            unable.add(remote.name)
        targets[remote.name] = (remote.url, remote.upstream_model or remote.model)
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
    dispatcher = Dispatcher(
        scheduler,
        backends,
        clock,
        on_refused=lambda placement: prober.note_refused(placement),
        on_silent=lambda placement: prober.note_silent(placement),
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
        unable_to_continue=unable,
    )
    prober = Prober(
        replicas=tuple(replicas),
        remotes=tuple(remote.name for remote in config.remotes),
        interval_s=config.server.probe_interval_s,
        clock=clock,
        report=dispatcher.handle,
        on_change=on_change,
    )
    listener = KvEventsListener([p for p in publishers if p is not None], dispatcher.handle)
    discoveries = tuple(
        Discovery(
            settings,
            pool.name,
            Lookup(settings),
            FoundReplicas(
                own=own,
                prober=prober,
                listener=listener,
                publisher=partial(publisher, pool),
                placement_is_idle=partial(_is_idle, scheduler),
            ),
        )
        for pool, settings, own in found
    )
    return Runtime(
        config=config,
        scheduler=scheduler,
        dispatcher=dispatcher,
        prober=prober,
        listener=listener,
        prices=prices,
        backends=backends,
        unsupported=unsupported,
        targets=targets,
        discoveries=discoveries,
        salted=frozenset(pool.model for pool in config.pools if not pool.share_prefix_cache),
    )


def _is_idle(scheduler: Scheduler, placement: str) -> bool:
    return not any(s.sequences for s in scheduler.placements if s.facts.name == placement)


def _local_placements(pool: PoolConfig, name: str, step_model: StepModel) -> list[Placement]:
    """The replica, or its ranks where they are pinned: they step together, as one group."""
    ranks, capacity = pool.data_parallel_ranks, pool.kv_capacity_tokens
    whole = Placement(
        name=name,
        kind=PlacementKind.LOCAL,
        model=pool.model,
        pool=pool.name,
        max_running=pool.max_num_seqs * ranks,
        kv_capacity_tokens=capacity,
        context_tokens=pool.context_tokens,
        step_model=step_model,
        objective=pool.objective,
        release_delay_s=pool.release_delay_s,
    )
    if not pool.pin_ranks:
        return [whole]
    return [
        replace(
            whole,
            name=rank_name,
            group=name,
            dp_rank=rank,
            max_running=pool.max_num_seqs,
            kv_capacity_tokens=None if capacity is None else capacity // ranks,
            step_model=replace(step_model, ranks=ranks),
        )
        for rank, rank_name in enumerate(rank_names(name, ranks))
    ]
