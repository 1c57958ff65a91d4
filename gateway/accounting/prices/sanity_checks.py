"""Sanity checks of a price catalog whose shape is valid.

A wrong price falsifies every charge, silently. So a value that can only be a mistake is refused,
and an improbable one needs `confirmed: true` in its row.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise

from gateway.accounting.prices.catalog import remote_key
from gateway.accounting.prices.row_time import DAY_MINUTES, minutes, span, unix_s
from gateway.config.price_rows import (
    CatalogFile,
    GpuHourRow,
    RemoteRow,
    ShowbackRow,
    TokenPrices,
    Validity,
    Window,
)
from gateway.config.problems import Problem, problem

LEAST_USD_PER_MTOK = Decimal("0.0001")
MOST_USD_PER_MTOK = Decimal(1000)
"""A price outside is probably per token, per thousand tokens, or in cents: the prices of 2026 span
0.0028 to some hundreds."""
LEAST_USD_PER_GPU_HOUR = Decimal("0.05")
MOST_USD_PER_GPU_HOUR = Decimal(40)
"""A price outside is probably that of a whole node, a day or a month."""
MOST_LEAP = 10
"""A price that changes by more than this factor probably has a misplaced decimal point."""
BATCH_NAME = "batch"
"""Behind the id of a row, the name of its prices for batch work in accounts."""
_FIELDS = ("input", "output", "cached_input", "cache_write", "long_cache_write")
_CONFIRM = "check it with the source; if it is meant, add confirmed: true to the row"

TokenRow = RemoteRow | ShowbackRow


def sanity_problems(catalog: CatalogFile) -> Iterator[Problem]:
    """Yields every problem of single rows and of rows that conflict."""
    rows: list[tuple[str, Validity]] = [
        *((f"gpu_hours[{i}]", row) for i, row in enumerate(catalog.gpu_hours)),
        *((f"remote_tokens[{i}]", row) for i, row in enumerate(catalog.remote_tokens)),
        *((f"showback[{i}]", row) for i, row in enumerate(catalog.showback)),
    ]
    dated: list[tuple[str, Validity]] = []
    ids: dict[str, str] = {}
    for path, row in rows:
        if row.id in ids:
            yield problem(f"{path}.id", row.id, f"{ids[row.id]} has it", "choose another id")
        ids.setdefault(row.id, path)
        problems = list(_dates(path, row))
        yield from problems
        if not problems:
            dated.append((path, row))
        match row:
            case GpuHourRow():
                yield from _gpu_hour(path, row)
            case RemoteRow() | ShowbackRow():
                yield from _token_row(path, row)
    yield from _sequences(dated)


def _dates(path: str, row: Validity) -> Iterator[Problem]:
    instants = {"valid_from": row.valid_from, "checked_at": row.checked_at}
    if row.valid_to is not None:
        instants["valid_to"] = row.valid_to
    bad = False
    for field, text in instants.items():
        try:
            unix_s(text)
        except ValueError:
            bad = True
            message = "there is no such day or time"
            yield problem(f"{path}.{field}", text, message, "write a date such as 2026-11-23")
    if not bad and row.valid_to is not None and unix_s(row.valid_to) <= unix_s(row.valid_from):
        message = f"not after valid_from, {row.valid_from}: the row never holds"
        yield problem(f"{path}.valid_to", row.valid_to, message, "give a later end, or none")


def _gpu_hour(path: str, row: GpuHourRow) -> Iterator[Problem]:
    price = Decimal(row.usd_per_gpu_hour)
    if not row.confirmed and not LEAST_USD_PER_GPU_HOUR <= price <= MOST_USD_PER_GPU_HOUR:
        span_text = f"{LEAST_USD_PER_GPU_HOUR} to {MOST_USD_PER_GPU_HOUR}"
        message = f"outside {span_text} USD for an hour of ONE GPU"
        yield problem(f"{path}.usd_per_gpu_hour", row.usd_per_gpu_hour, message, _CONFIRM)


def _token_row(path: str, row: TokenRow) -> Iterator[Problem]:
    yield from _prices(f"{path}.usd_per_mtok", row.usd_per_mtok, row)
    starts = [0, *(tier.context_over_tokens for tier in row.tiers)]
    for i, tier in enumerate(row.tiers):
        yield from _prices(f"{path}.tiers[{i}].usd_per_mtok", tier.usd_per_mtok, row)
        if starts[i + 1] <= starts[i]:
            message = f"not above the tier before it, {starts[i]}"
            where = f"{path}.tiers[{i}].context_over_tokens"
            yield problem(where, tier.context_over_tokens, message, "sort the tiers, rising")
    if isinstance(row, RemoteRow):
        for i, window in enumerate(row.windows):
            yield from _prices(f"{path}.windows[{i}].usd_per_mtok", window.usd_per_mtok, row)
        yield from _windows(f"{path}.windows", row.windows)
    if row.batch_usd_per_mtok is not None:
        yield from _prices(f"{path}.batch_usd_per_mtok", row.batch_usd_per_mtok, row)


def _prices(path: str, prices: TokenPrices, row: TokenRow) -> Iterator[Problem]:
    amounts = {name: text for name in _FIELDS if (text := getattr(prices, name)) is not None}
    for name, text in amounts.items():
        price = Decimal(text)
        if row.confirmed:
            continue
        if price == 0 and name in ("input", "output"):
            fix = "leave the row out if the price is unknown; if it is free, add confirmed: true"
            yield problem(f"{path}.{name}", text, "a price of zero", fix)
        elif price and not LEAST_USD_PER_MTOK <= price <= MOST_USD_PER_MTOK:
            message = f"outside {LEAST_USD_PER_MTOK} to {MOST_USD_PER_MTOK} USD per MILLION tokens"
            yield problem(f"{path}.{name}", text, message, _CONFIRM)
    if prices.cached_input is not None and Decimal(prices.cached_input) > Decimal(prices.input):
        message = f"more than input, {prices.input}: a cache that costs extra"
        yield problem(f"{path}.cached_input", prices.cached_input, message, "swap the two?")


def _windows(path: str, windows: tuple[Window, ...]) -> Iterator[Problem]:
    taken: dict[tuple[str, int], int] = {}
    named: dict[str, int] = {}
    for i, window in enumerate(windows):
        if window.name == BATCH_NAME:
            message = "accounts name the prices for batch work like that"
            yield problem(f"{path}[{i}].name", window.name, message, "choose another name")
        elif windows[first := named.setdefault(window.name, i)].usd_per_mtok != window.usd_per_mtok:
            message = f"windows[{first}] has it and other prices: accounts could not tell the two"
            yield problem(f"{path}[{i}].name", window.name, message, "choose another name")
        start, end = minutes(window.start), minutes(window.end)
        if end <= start:
            message = f"not after start, {window.start}"
            fix = "cut a window that crosses midnight into two, the first one until 24:00"
            yield problem(f"{path}[{i}].end", window.end, message, fix)
            continue
        slots = {(day, minute) for day in window.days for minute in range(start, end)}
        if rival := next((taken[slot] for slot in sorted(slots) if slot in taken), None):
            message = f"overlaps with windows[{rival - 1}]"
            yield problem(f"{path}[{i}].start", window.start, message, "cut one of the two")
        taken.update(dict.fromkeys(slots, i + 1))
        if len(slots) == 7 * DAY_MINUTES:
            message = "the window is always open: the row's own prices never hold"
            yield problem(f"{path}[{i}]", window.name, message, "make them the row's prices")


def _key(path: str, row: Validity) -> tuple[str, ...]:
    """The subject of a row: rows of one subject must not overlap in time."""
    match row:
        case GpuHourRow():
            return ("gpu", row.gpu, row.pool or "")
        case RemoteRow():
            # a/b of c and a of b/c are one name, and so one subject.
            return ("remote", remote_key(row))
        case ShowbackRow():
            return ("showback", row.pool, row.adapter or "")
    raise TypeError(f"{path}: no key for {type(row).__name__}")


def _sequences(dated: list[tuple[str, Validity]]) -> Iterator[Problem]:
    series: dict[tuple[str, ...], list[tuple[str, Validity]]] = {}
    for path, row in dated:
        series.setdefault(_key(path, row), []).append((path, row))
    for rows in series.values():
        rows.sort(key=lambda item: span(item[1])[0])
        for (first_path, first), (path, row) in pairwise(rows):
            if span(first)[1] > span(row)[0]:
                message = f"{first_path} ({first.id}) holds at that time, too"
                fix = f"end the other one with valid_to: {row.valid_from}"
                yield problem(f"{path}.valid_from", row.valid_from, message, fix)
            if not row.confirmed:
                yield from _leaps(first, path, row)


def _leaps(first: Validity, path: str, row: Validity) -> Iterator[Problem]:
    for field, (old, new) in _compared(first, row).items():
        low, high = sorted((Decimal(old), Decimal(new)))
        if low and high / low > MOST_LEAP:
            message = f"more than {MOST_LEAP} times away from the row before it, {old}"
            yield problem(f"{path}.{field}", new, message, _CONFIRM)


def _compared(first: Validity, row: Validity) -> dict[str, tuple[str, str]]:
    match first, row:
        case GpuHourRow(), GpuHourRow():
            return {"usd_per_gpu_hour": (first.usd_per_gpu_hour, row.usd_per_gpu_hour)}
        case ((RemoteRow() | ShowbackRow()), (RemoteRow() | ShowbackRow())):
            old, new = first.usd_per_mtok, row.usd_per_mtok
            return {
                "usd_per_mtok.input": (old.input, new.input),
                "usd_per_mtok.output": (old.output, new.output),
            }
    return {}
