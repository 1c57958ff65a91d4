"""The placements of a configuration: every place where a request could run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gateway.config.gateway import GatewayConfig, PoolConfig, RemoteConfig
from gateway.config.resolve.step_model_prior import checked_step_model_prior
from gateway.fleet.adapters import adapter_names
from gateway.fleet.discovery import place_names
from gateway.fleet.placement_names import placement_names
from scheduler.contract import PlacementKind
from scheduler.limits.rate_limit import RateLimits
from scheduler.placement_state import Placement
from scheduler.step_time.step_model import StepModel

ASSUMED_MAX_NUM_SEQS = 256
"""Of a pool that does not say: vLLM's default on most GPUs."""


def placements_of(config: GatewayConfig, base_dir: Path) -> list[Placement]:
    """All of them, without prices: replicas or their pinned ranks, places for replicas that DNS may
    name, and remotes. Raises ConfigError."""
    found: list[Placement] = []
    for pool in config.pools:
        step_model = checked_step_model_prior(pool, base_dir).step_model
        addresses = {f"{pool.name}/{replica.name}": replica.url for replica in pool.replicas}
        for replica in replica_names(pool):
            address = addresses.get(replica, "")
            found.extend(_self_hosted(pool, replica, step_model, address))
    found.extend(_remote(remote) for remote in config.remotes)
    return found


def replica_names(pool: PoolConfig) -> tuple[str, ...]:
    """Names of a pool's replicas: those that it lists, or its places for those in DNS."""
    if pool.discover is not None:
        return place_names(pool.name, pool.discover)
    return tuple(f"{pool.name}/{replica.name}" for replica in pool.replicas)


def pinned_ranks(pool: PoolConfig) -> int:
    """Data-parallel ranks of a replica that are placements of their own; 0: the replica is one."""
    return pool.data_parallel_ranks if pool.pin_ranks else 0


def _self_hosted(
    pool: PoolConfig, replica: str, step_model: StepModel, address: str
) -> list[Placement]:
    """The replica, or its ranks where they are pinned: they step together, as one group.

    `address`: empty for a place of DNS, whose server comes and goes."""
    ranks, capacity = pool.data_parallel_ranks, pool.kv_capacity_tokens
    sequences = pool.max_num_seqs or ASSUMED_MAX_NUM_SEQS
    nodes, prefill_share = pool.disaggregated, None
    if nodes is not None:
        prefill_share = nodes.prefill / (nodes.prefill + nodes.decode)
    label = replica.removeprefix(f"{pool.name}/")
    whole = Placement(
        name=replica,
        kind=PlacementKind.SELF_HOSTED,
        model=pool.model,
        pool=pool.name,
        replica=label,
        incarnation=address,
        max_running=sequences * ranks,
        max_running_assumed=pool.max_num_seqs is None,
        kv_capacity_tokens=capacity,
        context_tokens=pool.context_tokens,
        adapters=tuple(adapter_names(pool)),
        prefill_price_share=prefill_share,
        step_model=step_model,
        objective=pool.objective,
        release_delay_s=pool.release_delay_s,
        start_s=None if pool.discover is None else pool.discover.start_s,
    )
    if not pool.pin_ranks:
        return [whole]
    return [
        replace(
            whole,
            name=name,
            replica=f"{label}/{rank}",
            group=replica,
            dp_rank=rank,
            max_running=sequences,
            kv_capacity_tokens=None if capacity is None else capacity // ranks,
            step_model=replace(step_model, ranks=ranks),
        )
        for rank, name in enumerate(placement_names(replica, ranks))
    ]


def _remote(remote: RemoteConfig) -> Placement:
    limits = remote.limits
    return Placement(
        name=remote.name,
        kind=PlacementKind.REMOTE,
        model=remote.model,
        max_running=remote.max_concurrency,
        remote_class=remote.remote_class,
        context_tokens=remote.context_tokens,
        send_limits=RateLimits(
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
        ),
        failure_domain=remote.fails_with or "",
    )
