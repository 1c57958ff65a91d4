"""Price rows for readers: who uses each one, and what should be checked. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.accounting.prices.catalog import Prices, remote_key
from gateway.accounting.prices.row_time import DAY_S, in_window, span, unix_s
from gateway.config.gateway import GatewayConfig
from gateway.config.price_rows import GpuHourRow, RemoteRow, ShowbackRow
from scheduler.pricing import RateTier

PriceRow = GpuHourRow | ShowbackRow | RemoteRow
ENDS_SOON_DAYS = 30
OLD_DAYS = 90
"""Prices of remotes change several times a year."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRow:
    """A row at a moment.

    Attributes:
        holds: whether it is valid then.
        tiers: token prices: of the window that is open then, or else of the row; none of a GPU.
        window: that window; "": none.
        used_by: pools and remotes of the configuration that it prices then.
        warnings: for a reader, each one sentence.
    """

    row: PriceRow
    holds: bool
    tiers: tuple[RateTier, ...]
    window: str
    used_by: tuple[str, ...]
    warnings: tuple[str, ...]


def listed_rows(
    prices: Prices, config: GatewayConfig, at_s: float, *, every_row: bool
) -> list[ListedRow]:
    """Returns the rows that hold at a moment, Unix seconds; with `every_row` all others, too."""
    rows = list(prices.rows())
    found = []
    for row in rows:
        start_s, end_s = span(row)
        holds = start_s <= at_s < end_s
        if not holds and not every_row:
            continue
        window = ""
        if holds and isinstance(row, RemoteRow):
            window = next((each.name for each in row.windows if in_window(each, at_s)), "")
        followed = any(
            span(other)[0] == end_s for other in rows if _subject(other) == _subject(row)
        )
        found.append(
            ListedRow(
                row=row,
                holds=holds,
                tiers=_tiers(prices, row, at_s if holds else start_s),
                window=window,
                used_by=tuple(_users(prices, config, row, at_s)) if holds else (),
                warnings=tuple(_warnings(row, at_s, followed=followed)) if holds else (),
            )
        )
    return found


def unknown_prices(prices: Prices, config: GatewayConfig, at_s: float) -> Iterator[str]:
    """Yields a sentence for each pool and remote whose price is unknown at a moment."""
    for pool in config.pools:
        stated = pool.gpu.usd_per_gpu_hour is not None
        if not stated and prices.gpu_price(pool.name, pool.gpu.type, at_s) is None:
            yield f"pool {pool.name}: no row gives the price of its {pool.gpu.type} at this time"
        if prices.showback_rates(pool.name, at_s) is None:
            yield f"pool {pool.name}: no showback row holds at this time, so charges are unknown"
    for remote in config.remotes:
        if remote.price_row is None:
            yield f"remote {remote.name}: it names no price_row, so its cost is unknown"
        elif prices.remote_rates(remote.price_row, at_s) is None:
            yield f"remote {remote.name}: no row of {remote.price_row} holds at this time"


def _tiers(prices: Prices, row: PriceRow, at_s: float) -> tuple[RateTier, ...]:
    match row:
        case RemoteRow():
            rates = prices.remote_rates(remote_key(row), at_s)
        case ShowbackRow():
            rates = prices.showback_rates(row.pool, at_s, row.adapter or "")
        case GpuHourRow():
            rates = None
    return () if rates is None else rates.tiers


def _subject(row: PriceRow) -> tuple[str, ...]:
    match row:
        case RemoteRow():
            return "remote", remote_key(row)
        case ShowbackRow():
            return "showback", row.pool, row.adapter or ""
        case GpuHourRow():
            return "gpu", row.pool or "", row.gpu


def _users(prices: Prices, config: GatewayConfig, row: PriceRow, at_s: float) -> Iterable[str]:
    match row:
        case RemoteRow():
            key = remote_key(row)
            return [remote.name for remote in config.remotes if remote.price_row == key]
        case ShowbackRow():
            return [pool.name for pool in config.pools if pool.name == row.pool]
        case GpuHourRow():
            return [
                pool.name
                for pool in config.pools
                if pool.gpu.usd_per_gpu_hour is None
                and (price := prices.gpu_price(pool.name, pool.gpu.type, at_s)) is not None
                and price.row_id == row.id
            ]


def _warnings(row: PriceRow, at_s: float, *, followed: bool) -> Iterator[str]:
    end_s = span(row)[1]
    if not followed and end_s - at_s < ENDS_SOON_DAYS * DAY_S:
        days = math.ceil((end_s - at_s) / DAY_S)
        yield f"it ends in {days} days and no row follows: then the price is unknown"
    age_days = int((at_s - unix_s(row.checked_at)) // DAY_S)
    if age_days > OLD_DAYS:
        yield f"it was compared with its source {age_days} days ago"
    if row.confirmed:
        yield "a value that looks like a mistake is confirmed"
