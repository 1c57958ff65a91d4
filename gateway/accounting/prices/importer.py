"""Drafts of price rows from the package genai-prices, and how they differ from a catalog.

A person reads the draft; this module changes no catalog. Undated prices of the package are valid
from the day of the draft, because their real start is unknown; dated ones from their date.
"""

from __future__ import annotations

import datetime
import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import yaml

from gateway.accounting.prices.catalog import Prices, remote_key
from gateway.accounting.prices.row_time import unix_s
from gateway.config.money import usd_text
from gateway.config.price_rows import CatalogFile, ContextTier, RemoteRow, TokenPrices, Window
from scheduler.pricing import RateTier

_FIELDS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cached_input": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "long_cache_write": "cache_write_1h_mtok",
}
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9._/:-]")
_SMALLEST = Decimal("1e-9")
"""Prices of a catalog have nine decimals; some of the package are quotients with more."""


class ImportUnavailable(Exception):
    """The package is not installed, or does not know the provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Drafted rows, and the reasons why other models were skipped."""

    catalog: CatalogFile
    skipped: tuple[str, ...]


def draft(provider: str, models: str, today: datetime.date) -> Draft:
    """Drafts rows of a provider's models whose id matches a pattern. Raises ImportUnavailable."""
    try:
        from genai_prices import data_snapshot
    except ImportError:
        message = "the package genai-prices is not installed: pip install 'moegate[prices]'"
        raise ImportUnavailable(message) from None
    known = {entry.id: entry for entry in data_snapshot.get_snapshot().providers}
    if provider not in known:
        message = (
            f"genai-prices knows no provider {provider!r}; it knows {', '.join(sorted(known))}"
        )
        raise ImportUnavailable(message)
    entry = known[provider]
    urls = getattr(entry, "pricing_urls", None) or ["genai-prices"]
    rows: list[RemoteRow] = []
    skipped: list[str] = []
    for model in entry.models:
        if fnmatch.fnmatchcase(model.id, models):
            try:
                rows += _rows(provider, model, str(urls[0]), today)
            except _Unpriced as reason:
                skipped.append(f"{provider}/{model.id}: {reason}")
    return Draft(catalog=CatalogFile(remote_tokens=tuple(rows)), skipped=tuple(skipped))


class _Unpriced(Exception):
    """A model whose price a catalog cannot express; the text says why."""


def _rows(provider: str, model: Any, source: str, today: datetime.date) -> Iterator[RemoteRow]:
    """Rows of the current price of a model, and of announced ones."""
    prices = model.prices if isinstance(model.prices, list) else [_Always(model.prices)]
    starts = {start for entry in prices if (start := _start(entry)) is not None}
    begin = max((start for start in starts if start <= today), default=None)
    dates = [begin or today, *sorted(start for start in starts if start > today)]
    for date, until in zip(dates, [*dates[1:], None], strict=True):
        base: Any = None
        windows: list[Window] = []
        for entry in prices:
            constraint = entry.constraint
            if hasattr(constraint, "start_time"):
                windows += _windows(len(windows), entry)
            elif constraint is None or constraint.start_date <= date:
                base, windows = entry.prices, []  # the last active one wins
        if base is None:
            raise _Unpriced("no price holds today")
        usd_per_mtok, tiers = _tiers(base)
        yield RemoteRow(
            id=_NOT_IN_IDS.sub("-", f"{provider}/{model.id}:{date.isoformat()}"),
            provider=provider,
            model=model.id,
            usd_per_mtok=usd_per_mtok,
            tiers=tiers,
            windows=tuple(windows),
            batch_usd_per_mtok=_batch(model, date),
            valid_from=date.isoformat(),
            valid_to=None if until is None else until.isoformat(),
            source=source,
            checked_at=today.isoformat(),
        )


@dataclass(frozen=True, slots=True)
class _Always:
    prices: Any
    constraint: Any = None


def _start(entry: Any) -> datetime.date | None:
    date = getattr(entry.constraint, "start_date", None)
    return date if isinstance(date, datetime.date) else None


def _windows(number: int, entry: Any) -> Iterator[Window]:
    """Windows of a daily time span, cut at midnight."""
    start, end = (
        f"{time.hour:02}:{time.minute:02}"
        for time in (entry.constraint.start_time, entry.constraint.end_time)
    )
    end = "24:00" if end == "00:00" else end
    parts = [(start, end)] if start < end else [(start, "24:00"), ("00:00", end)]
    usd_per_mtok, _ = _tiers(entry.prices)
    for offset, (a, b) in enumerate(parts):
        yield Window(
            name=f"window-{number + offset + 1}", start=a, end=b, usd_per_mtok=usd_per_mtok
        )


def _batch(model: Any, date: datetime.date) -> TokenPrices | None:
    for variant in model.price_variants or ():
        start = getattr(variant.constraint, "start_date", None)
        if variant.when == {"processing": "batch"} and (start is None or start <= date):
            return _tiers(variant.prices)[0]
    return None


def _tiers(prices: Any) -> tuple[TokenPrices, tuple[ContextTier, ...]]:
    by_field = {field: getattr(prices, name, None) for field, name in _FIELDS.items()}
    starts = sorted(
        {tier.start for price in by_field.values() for tier in getattr(price, "tiers", ())}
    )
    return _prices(by_field, 0), tuple(
        ContextTier(context_over_tokens=start, usd_per_mtok=_prices(by_field, start))
        for start in starts
    )


def _prices(by_field: dict[str, Any], over_tokens: int) -> TokenPrices:
    amounts: dict[str, str] = {}
    for field, price in by_field.items():
        amount = getattr(price, "base", price)
        for tier in getattr(price, "tiers", ()):
            if tier.start <= over_tokens:
                amount = tier.price
        if amount is not None:
            amounts[field] = format(Decimal(amount).quantize(_SMALLEST).normalize(), "f")
    if "input" not in amounts or "output" not in amounts:
        raise _Unpriced("it has no price per input and output token")
    return TokenPrices(**amounts)


def differences(current: Prices, drafted: CatalogFile, today: datetime.date) -> Iterator[str]:
    """Lines that show which prices are new (+) and which change (~)."""
    at_s = unix_s(today.isoformat())
    proposed = Prices([drafted])
    for key in dict.fromkeys(remote_key(row) for row in drafted.remote_tokens):
        old, new = current.remote_rates(key, at_s), proposed.remote_rates(key, at_s)
        if new is None:
            continue
        if old is None:
            yield f"+ {key}: {_shown(new.tiers[0])}"
        elif old.tiers != new.tiers:
            yield f"~ {key}: {_shown(old.tiers[0])} -> {_shown(new.tiers[0])}"
            if len(old.tiers) != len(new.tiers):
                yield f"    context tiers: {len(old.tiers) - 1} -> {len(new.tiers) - 1}"


def _shown(tier: RateTier) -> str:
    amounts = (tier.uncached_input, tier.cached_input, tier.output)
    return "{} / {} / {}".format(*(usd_text(amount) for amount in amounts))


def as_yaml(catalog: CatalogFile) -> str:
    """A catalog as YAML: prices stay quoted strings, absent fields are left out."""
    plain = {name: rows for name, rows in _plain(catalog).items() if rows}
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.fields(value)
        kept = {f.name: getattr(value, f.name) for f in fields}
        defaults = {f.name: f.default for f in fields}
        return {n: _plain(v) for n, v in kept.items() if v is not None and v != defaults[n]}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
