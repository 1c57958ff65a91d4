"""Look-up of the price that is valid at a moment.

Where no row is valid the price is unknown, which is None. GPU prices are also given as a list of
segments, so that a bill across a price change is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import TypeVar

from gateway.accounting.prices.row_time import in_window, next_edge, span
from gateway.config.money import nano_usd
from gateway.config.price_rows import (
    CatalogFile,
    ContextTier,
    GpuHourRow,
    RemoteRow,
    ShowbackRow,
    TokenPrices,
    Validity,
)
from scheduler.pricing import RateTier, TokenRates

_Row = TypeVar("_Row", bound=Validity)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPrice:
    """Price of one GPU for an hour. `row_id`: the catalog row that gives it."""

    row_id: str
    nano_usd_per_gpu_hour: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSegment:
    """A GPU price from `start_s` until before `end_s`, Unix seconds. `price` None: unknown."""

    start_s: float
    end_s: float
    price: GpuPrice | None


class Prices:
    """Price look-ups over one or more catalogs. A look-up scans the few rows of its subject."""

    def __init__(self, catalogs: Iterable[CatalogFile] = ()) -> None:
        """`catalogs`: where two have rows of one subject, only those of the first count."""
        self._gpu_hours: dict[tuple[str, str], list[GpuHourRow]] = {}
        self._remotes: dict[str, list[RemoteRow]] = {}
        self._showback: dict[tuple[str, str], list[ShowbackRow]] = {}
        for catalog in catalogs:
            gpu_hours: dict[tuple[str, str], list[GpuHourRow]] = {}
            remotes: dict[str, list[RemoteRow]] = {}
            showback: dict[tuple[str, str], list[ShowbackRow]] = {}
            for gpu_row in catalog.gpu_hours:
                gpu_hours.setdefault((gpu_row.pool or "", gpu_row.gpu), []).append(gpu_row)
            for remote_row in catalog.remote_tokens:
                remotes.setdefault(remote_key(remote_row), []).append(remote_row)
            for own_row in catalog.showback:
                key = own_row.pool, own_row.adapter or ""
                showback.setdefault(key, []).append(own_row)
            self._gpu_hours = {**gpu_hours, **self._gpu_hours}
            self._remotes = {**remotes, **self._remotes}
            self._showback = {**showback, **self._showback}

    def rows(self) -> Iterator[GpuHourRow | ShowbackRow | RemoteRow]:
        """Yields every row that counts, whenever it is valid; those of a subject by their time."""
        for gpu_rows in self._gpu_hours.values():
            yield from sorted(gpu_rows, key=span)
        for own_rows in self._showback.values():
            yield from sorted(own_rows, key=span)
        for remote_rows in self._remotes.values():
            yield from sorted(remote_rows, key=span)

    @property
    def remote_keys(self) -> frozenset[str]:
        """PROVIDER/MODEL of all rows for remotes, whenever they are valid."""
        return frozenset(self._remotes)

    def without_batch(self, key: str) -> list[str]:
        """Ids of the rows of PROVIDER/MODEL that have no prices of batch work."""
        rows = self._remotes.get(key, ())
        return [row.id for row in rows if row.batch_usd_per_mtok is None]

    def remote_rates(self, key: str, at_s: float, *, batch: bool = False) -> TokenRates | None:
        """Token rates of PROVIDER/MODEL at a moment; None where unknown. `batch`: those of the
        provider for batch work."""
        row = _active(self._remotes.get(key, ()), at_s)
        if row is None:
            return None
        if batch:
            prices = row.batch_usd_per_mtok
            return None if prices is None else _rates(f"{row.id}@batch", prices, ())
        for window in row.windows:
            if in_window(window, at_s):
                return _rates(f"{row.id}@{window.name}", window.usd_per_mtok, ())
        return _rates(row.id, row.usd_per_mtok, row.tiers)

    def showback_rates(self, pool: str, at_s: float, adapter: str = "") -> TokenRates | None:
        """Token rates that tenants pay for the model of a self-hosted pool, or by the rows of one
        of its adapters; None where unknown."""
        row = _active(self._showback.get((pool, adapter), ()), at_s)
        if row is None:
            return None
        batch = row.batch_usd_per_mtok
        return replace(
            _rates(row.id, row.usd_per_mtok, row.tiers),
            batch=None if batch is None else _rates(f"{row.id}@batch", batch, ()),
        )

    def adapter_rates(self, pool: str, at_s: float) -> tuple[tuple[str, TokenRates], ...]:
        """Token rates of the adapters of a self-hosted pool that have a row of their own now."""
        adapters = sorted(adapter for name, adapter in self._showback if name == pool and adapter)
        found = ((adapter, self.showback_rates(pool, at_s, adapter)) for adapter in adapters)
        return tuple((adapter, rates) for adapter, rates in found if rates is not None)

    def gpu_price(self, pool: str, gpu: str, at_s: float) -> GpuPrice | None:
        """Price of a GPU of a pool; None where unknown. A row of the pool precedes one of all
        pools."""
        for key in ((pool, gpu), ("", gpu)):
            row = _active(self._gpu_hours.get(key, ()), at_s)
            if row is not None:
                per_hour = nano_usd(row.usd_per_gpu_hour)
                return GpuPrice(row_id=row.id, nano_usd_per_gpu_hour=per_hour)
        return None

    def gpu_segments(
        self, pool: str, gpu: str, start_s: float, end_s: float
    ) -> tuple[PriceSegment, ...]:
        """The price of a GPU over a time span, cut where a row begins or ends."""
        rows = [*self._gpu_hours.get((pool, gpu), ()), *self._gpu_hours.get(("", gpu), ())]
        edges = {edge for row in rows for edge in span(row) if start_s < edge < end_s}
        cuts = [start_s, *sorted(edges), end_s]
        return tuple(
            PriceSegment(start_s=a, end_s=b, price=self.gpu_price(pool, gpu, a))
            for a, b in pairwise(cuts)
            if b > a
        )

    def next_change_s(self, at_s: float) -> float:
        """The first instant after `at_s` at which a price may change; infinite where none does."""
        rows: list[Validity] = [
            *chain.from_iterable(self._gpu_hours.values()),
            *chain.from_iterable(self._remotes.values()),
            *chain.from_iterable(self._showback.values()),
        ]
        edges = [edge for row in rows for edge in span(row) if edge > at_s]
        for row in rows:
            start_s, end_s = span(row)
            if isinstance(row, RemoteRow) and start_s <= at_s < end_s:
                edges += [next_edge(window, at_s) for window in row.windows]
        return min(edges, default=math.inf)


def remote_key(row: RemoteRow) -> str:
    """PROVIDER/MODEL, by which a configuration names the rows that price a remote."""
    return f"{row.provider}/{row.model}"


def _active(rows: Iterable[_Row], at_s: float) -> _Row | None:
    for row in rows:
        start_s, end_s = span(row)
        if start_s <= at_s < end_s:
            return row
    return None


def _rates(row_id: str, prices: TokenPrices, tiers: tuple[ContextTier, ...]) -> TokenRates:
    return TokenRates(
        row_id=row_id,
        tiers=(
            _tier(0, prices),
            *(_tier(tier.context_over_tokens, tier.usd_per_mtok) for tier in tiers),
        ),
    )


def _tier(context_over_tokens: int, prices: TokenPrices) -> RateTier:
    base = nano_usd(prices.input)
    write = base if prices.cache_write is None else nano_usd(prices.cache_write)
    long_write = prices.long_cache_write
    return RateTier(
        context_over_tokens=context_over_tokens,
        uncached_input=base,
        cached_input=base if prices.cached_input is None else nano_usd(prices.cached_input),
        cache_write=write,
        long_cache_write=None if long_write is None else nano_usd(long_write),
        output=nano_usd(prices.output),
    )
