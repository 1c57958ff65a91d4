"""Prices of the configuration's pools and remotes, and of the groups that the meter bills."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from gateway.accounting.prices.catalog import Prices
from gateway.accounting.prices.file import load_catalog, starter_catalog
from gateway.config.gateway import GatewayConfig, PoolConfig, RemoteConfig
from gateway.config.money import nano_usd
from gateway.config.prices import PricesConfig
from gateway.config.problems import Problem, nearest, problem
from scheduler.contract import PlacementKind
from scheduler.metering.meter import MeteredGroup
from scheduler.metering.runs import NodeShare
from scheduler.metering.totals import SECOND_NS, RateSegment
from scheduler.placement_state import Placement

FAR_S = 10 * 366 * 86_400
"""Price plans reach ten years ahead, longer than a process runs."""


def load_prices(sources: PricesConfig, base_dir: Path) -> Prices:
    """Reads the catalogs. Raises ConfigError."""
    catalogs = []
    if sources.catalog is not None:
        catalogs.append(load_catalog(base_dir / sources.catalog))
    if sources.starter:
        catalogs.append(starter_catalog())
    return Prices(catalogs)


def unknown_price_rows(config: GatewayConfig, prices: Prices) -> Iterator[Problem]:
    """Yields a problem for each remote whose price row no catalog has."""
    known = prices.remote_keys
    for i, remote in enumerate(config.remotes):
        if remote.price_row is not None and remote.price_row not in known:
            guess = nearest(remote.price_row, known)
            if guess is not None:
                fix = f"did you mean {guess}?"
            elif known:
                fix = "add a row to prices.catalog: `moegate prices check` prints those that it has"
            else:
                fix = "name a catalog that has it in prices.catalog, or remove price_row"
            path = f"remotes[{i}].price_row"
            yield problem(path, remote.price_row, "no price catalog has a row of this name", fix)


def rows_without_batch(config: GatewayConfig, prices: Prices) -> Iterator[Problem]:
    """Yields a problem for each remote that asks for prices of batch work that its rows lack."""
    for i, remote in enumerate(config.remotes):
        if remote.batch_body_json is None or remote.price_row is None:
            continue
        if without := prices.without_batch(remote.price_row):
            message = f"{', '.join(without)} of {remote.price_row} has no batch_usd_per_mtok"
            fix = "add it to the row, or remove batch_body_json"
            yield problem(f"remotes[{i}].batch_body_json", remote.batch_body_json, message, fix)


def priced(
    placements: Iterable[Placement], config: GatewayConfig, prices: Prices, at_s: float
) -> list[Placement]:
    """The placements with the prices that are valid at a moment, Unix seconds."""
    pools = {pool.name: pool for pool in config.pools}
    remotes = {remote.name: remote for remote in config.remotes}
    return [
        _local(placement, pools[placement.pool], prices, at_s)
        if placement.kind is PlacementKind.SELF_HOSTED
        else _remote(placement, remotes[placement.name], prices, at_s)
        for placement in placements
    ]


def _local(placement: Placement, pool: PoolConfig, prices: Prices, at_s: float) -> Placement:
    per_hour = group_nano_usd_per_hour(pool, prices, at_s)
    per_s = None
    if per_hour is not None:
        per_s = int((Decimal(per_hour) / 3600).to_integral_value(ROUND_HALF_UP))
    return replace(
        placement,
        rates=prices.showback_rates(pool.name, at_s),
        adapter_rates=prices.adapter_rates(pool.name, at_s),
        nano_usd_per_s=per_s,
    )


def _remote(placement: Placement, remote: RemoteConfig, prices: Prices, at_s: float) -> Placement:
    key = remote.price_row
    rates = None if key is None else prices.remote_rates(key, at_s)
    if key is not None and rates is not None and remote.batch_body_json is not None:
        rates = replace(rates, batch=prices.remote_rates(key, at_s, batch=True))
    return replace(placement, rates=rates)


def group_nano_usd_per_hour(pool: PoolConfig, prices: Prices, at_s: float) -> int | None:
    """Price of a replica of a pool for an hour. The field of the pool precedes the catalog."""
    if pool.gpu.usd_per_gpu_hour is not None:
        return nano_usd(pool.gpu.usd_per_gpu_hour) * pool.gpu.count
    price = prices.gpu_price(pool.name, pool.gpu.type, at_s)
    return None if price is None else price.nano_usd_per_gpu_hour * pool.gpu.count


def gpu_plan(pool: PoolConfig, prices: Prices, now_s: float) -> tuple[RateSegment, ...]:
    """Price of a replica over time, the past included, for hours that a restart left unobserved."""
    if pool.gpu.usd_per_gpu_hour is not None:
        rate = group_nano_usd_per_hour(pool, prices, now_s)
        return (RateSegment(start_ns=0, nano_usd_per_hour=rate),)
    segments = prices.gpu_segments(pool.name, pool.gpu.type, 0.0, now_s + FAR_S)
    return tuple(
        RateSegment(
            start_ns=int(segment.start_s) * SECOND_NS,
            nano_usd_per_hour=(
                segment.price.nano_usd_per_gpu_hour * pool.gpu.count if segment.price else None
            ),
        )
        for segment in segments
    )


def group_of(placement: Placement) -> str:
    """The group of a self-hosted placement, which the meter bills as one."""
    return placement.group or placement.name


def metered_groups(
    placements: Iterable[Placement], config: GatewayConfig, prices: Prices, now_s: float
) -> list[MeteredGroup]:
    """The metered groups of a configuration, with their price plans."""
    pools = {pool.name: pool for pool in config.pools}
    members: dict[str, list[Placement]] = {}
    for placement in placements:
        if placement.kind is PlacementKind.SELF_HOSTED:
            members.setdefault(group_of(placement), []).append(placement)
    groups = []
    for name, ranks in members.items():
        pool = pools[ranks[0].pool]
        nodes = pool.disaggregated
        groups.append(
            MeteredGroup(
                name=name,
                pool=pool.name,
                model=ranks[0].step_model,
                plan=gpu_plan(pool, prices, now_s),
                max_running=sum(rank.max_running for rank in ranks),
                nodes=(
                    None if nodes is None else NodeShare(prefill=nodes.prefill, decode=nodes.decode)
                ),
            )
        )
    return groups
