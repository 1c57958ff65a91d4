"""Queries of the ledger: spend by groups, and its rows page by page."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.accounting.ledger.database import Row, Tx
from gateway.accounting.ledger.schema import ATTEMPT_COLUMNS

PAGE_ROWS = 500
_HOUR_US, _DAY_US = 3_600_000_000, 86_400_000_000
_THURSDAY_DAYS = 3
"""1970-01-01 was a Thursday: weeks begin three days earlier."""


class Group(enum.StrEnum):
    """A column that spend can be grouped by."""

    TENANT = "tenant"
    KEY = "key"
    MODEL = "model"
    PLACEMENT = "placement"
    SESSION = "session"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"


class Order(enum.StrEnum):
    """Order of the groups."""

    GROUP = "group"
    SPEND = "spend"
    TOKENS = "tokens"


_EXPRESSIONS = {
    Group.TENANT: "tenant",
    Group.KEY: "key_id",
    Group.MODEL: "model",
    Group.PLACEMENT: "placement",
    Group.SESSION: "session_id",
    Group.HOUR: f"ended_unix_us / {_HOUR_US}",
    Group.DAY: f"ended_unix_us / {_DAY_US}",
    Group.WEEK: f"(ended_unix_us / {_DAY_US} + {_THURSDAY_DAYS}) / 7",
}
_TIMES = (Group.HOUR, Group.DAY, Group.WEEK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Rows that ended from `from_us` until before `to_us`; "" selects every value."""

    from_us: int
    to_us: int
    tenant: str = ""
    key_id: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """Sums of one group. Its values are in the order of the query, times in ISO 8601."""

    group: tuple[str, ...]
    requests: int
    uncached_input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    metered_nano_usd: int
    charged_nano_usd: int
    unpriced_attempts: int
    estimated_attempts: int
    corrected_nano_usd: int
    recovered_nano_usd: int
    cheapest_remote_nano_usd: int


_SUMS = {
    "requests": "CASE WHEN attempt = 1 THEN 1 ELSE 0 END",
    "uncached_input_tokens": "prompt_tokens - COALESCE(cached_tokens, 0)",
    "cached_input_tokens": "cached_tokens",
    "output_tokens": "completion_tokens",
    "metered_nano_usd": "metered_nano_usd",
    "charged_nano_usd": "charged_nano_usd",
    "unpriced_attempts": "CASE WHEN state = 'unpriced' THEN 1 ELSE 0 END",
    "estimated_attempts": "CASE WHEN state = 'estimated' THEN 1 ELSE 0 END",
    "corrected_nano_usd": "CASE WHEN state = 'correction' THEN charged_nano_usd ELSE 0 END",
    "recovered_nano_usd": "CASE WHEN state = 'lease_recovery' THEN charged_nano_usd ELSE 0 END",
    "cheapest_remote_nano_usd": "cheapest_remote_nano_usd",
}


async def spend(
    tx: Tx, selection: Selection, groups: Sequence[Group], order: Order, limit: int
) -> list[Spend]:
    """Spend by group, at most `limit` rows."""
    where, values = _where(selection)
    columns = [f"{_EXPRESSIONS[group]} AS g{i}" for i, group in enumerate(groups)]
    columns += [f"CAST(COALESCE(SUM({sql}), 0) AS BIGINT) AS {name}" for name, sql in _SUMS.items()]
    names = [f"g{i}" for i in range(len(groups))]
    ordered = [name for name, group in zip(names, groups, strict=True) if group in _TIMES]
    match order:
        case Order.SPEND:
            ordered.append("charged_nano_usd DESC")
        case Order.TOKENS:
            tokens = ("uncached_input_tokens", "cached_input_tokens", "output_tokens")
            # PostgreSQL knows names of the list in ORDER BY, but not in an expression there.
            sums = " + ".join(f"COALESCE(SUM({_SUMS[name]}), 0)" for name in tokens)
            ordered.append(f"{sums} DESC")
    ordered += names
    sql = f"SELECT {', '.join(columns)} FROM attempt WHERE {where}"
    if names:
        sql += f" GROUP BY {', '.join(names)} ORDER BY {', '.join(dict.fromkeys(ordered))}"
    found = await tx.rows(f"{sql} LIMIT {int(limit)}", *values)
    return [_spend(row, groups) for row in found]


async def pages(
    read: Callable[[Callable[[Tx], Awaitable[Sequence[Row]]]], Awaitable[Sequence[Row]]],
    selection: Selection,
) -> AsyncIterator[Sequence[Row]]:
    """Rows (`ATTEMPT_COLUMNS`) in the order of their end, in pages: the table may be large. `read`
    runs a transaction."""
    after: tuple[Any, ...] = (selection.from_us, "", -1)
    where, values = _where(selection)
    start = len(values)
    sql = (
        f"SELECT {', '.join(ATTEMPT_COLUMNS)} FROM attempt WHERE {where}"
        f" AND (ended_unix_us, epoch, seq) > (${start + 1}, ${start + 2}, ${start + 3})"
        f" ORDER BY ended_unix_us, epoch, seq LIMIT {PAGE_ROWS}"
    )
    ended, epoch, seq = (ATTEMPT_COLUMNS.index(n) for n in ("ended_unix_us", "epoch", "seq"))
    while True:
        page = await read(lambda tx: tx.rows(sql, *values, *after))  # noqa: B023
        if page:
            yield page
        if len(page) < PAGE_ROWS:
            return
        last = page[-1]
        after = (last[ended], last[epoch], last[seq])


def _where(selection: Selection) -> tuple[str, list[object]]:
    values: list[object] = [selection.from_us, selection.to_us]
    where = "ended_unix_us >= $1 AND ended_unix_us < $2"
    for column, value in (
        ("tenant", selection.tenant),
        ("key_id", selection.key_id),
        ("model", selection.model),
    ):
        if value:
            values.append(value)
            where += f" AND {column} = ${len(values)}"
    return where, values


def _spend(row: Row, groups: Sequence[Group]) -> Spend:
    values = tuple(_text(group, row[i]) for i, group in enumerate(groups))
    sums = dict(zip(_SUMS, row[len(groups) :], strict=True))
    return Spend(group=values, **sums)


def _text(group: Group, value: Any) -> str:
    match group:
        case Group.HOUR:
            return _iso(value * 3600)[:16] + "Z"
        case Group.DAY:
            return _iso(value * 86_400)[:10]
        case Group.WEEK:
            return _iso((value * 7 - _THURSDAY_DAYS) * 86_400)[:10]
    return str(value)


def _iso(unix_s: int) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat()
