"""The table of `moegate prices show`: the rows of catalogs that hold at a moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gateway.accounting.prices.catalog import Prices, remote_key
from gateway.accounting.prices.row_time import in_window, span
from gateway.config.money import usd_text
from gateway.config.price_rows import CatalogFile, GpuHourRow, RemoteRow, ShowbackRow
from moegate.cli.views.fitted_table import Column, FittedTable, number
from scheduler.pricing import TokenRates

PriceRow = GpuHourRow | RemoteRow | ShowbackRow


def price_table(
    catalogs: Sequence[CatalogFile], at_s: float, *, every_row: bool
) -> tuple[FittedTable, bool]:
    """The table, and whether it holds prices of batch work.

    `at_s`: Unix seconds. `every_row`: rows of the past and of the future are in the table, too,
    with the prices of their first second.
    """
    prices = Prices(catalogs)
    table = FittedTable(
        [
            Column(header="what"),
            *map(number, ("input", "cached", "output")),
            Column(header="input\nover", justify="right", name="input over"),
            Column(header="since", leaves=2, name="since"),
            Column(header="until", leaves=1),
            Column(header="checked", leaves=3),
        ]
    )
    has_batch_prices = False
    for row in _rows(catalogs):
        start_s, end_s = span(row)
        holds = start_s <= at_s < end_s
        if not holds and not every_row:
            continue
        if not isinstance(row, GpuHourRow):
            has_batch_prices |= row.batch_usd_per_mtok is not None
        dates = (row.valid_from, row.valid_to or "", row.checked_at)
        for line in _lines(row, prices, at_s if holds else start_s):
            table.add_row(*line, *dates)
    return table, has_batch_prices


def _rows(catalogs: Iterable[CatalogFile]) -> Iterator[PriceRow]:
    for catalog in catalogs:
        yield from catalog.gpu_hours
        yield from catalog.showback
        yield from catalog.remote_tokens


def _lines(row: PriceRow, prices: Prices, at_s: float) -> list[tuple[str, ...]]:
    match row:
        case GpuHourRow():
            what = f"{row.gpu} of {row.pool}" if row.pool else row.gpu
            return [(what, row.usd_per_gpu_hour, "", "", "")]
        case RemoteRow():
            key = remote_key(row)
            window = next((w for w in row.windows if in_window(w, at_s)), None)
            name = key if window is None else f"{key} @{window.name}"
            rates = prices.remote_rates(key, at_s)
            batch_rates = prices.remote_rates(key, at_s, batch=True)
            return _tier_lines(name, rates) + _tier_lines(f"{key} (batch)", batch_rates)
        case ShowbackRow():
            name = f"pool {row.pool}"
            if row.adapter is not None:
                name = f"{name}, adapter {row.adapter}"
            rates = prices.showback_rates(row.pool, at_s, row.adapter or "")
            batch_rates = None if rates is None else rates.batch
            return _tier_lines(name, rates) + _tier_lines(f"{name} (batch)", batch_rates)


def _tier_lines(name: str, rates: TokenRates | None) -> list[tuple[str, ...]]:
    if rates is None:
        return []
    return [
        (
            name,
            *(usd_text(rate) for rate in (tier.uncached_input, tier.cached_input, tier.output)),
            f"{tier.context_over_tokens:,}" if tier.context_over_tokens else "",
        )
        for tier in rates.tiers
    ]
