"""Answers of the reports as charts over time. Pure.

A period without a row had no spend, which is zero; a rate without tokens is unknown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from gateway.doors.console.charts.chart import USD, USD_PER_MTOK, Chart, Form, Series, Value
from gateway.doors.console.money.windows import PERIODS
from gateway.translation.spend_figures import known_figures
from moegate.v1 import usage_pb2

KINDS = ("uncached_input", "cached_input", "output", "total")
BILL_PARTS = (
    ("requests, own servers", "own"),
    ("requests, remotes", "remote_bill_nano_usd"),
    ("idle", "idle_nano_usd"),
    ("unavailable", "unavailable_nano_usd"),
    ("external", "external_nano_usd"),
    ("unobserved", "unobserved_nano_usd"),
    ("unsettled", "unsettled_nano_usd"),
)


def spend_chart(
    rows: Sequence[usage_pb2.SpendRow],
    groups: Sequence[str],
    figure: str,
    categories: Sequence[str],
    title: str,
) -> Chart | None:
    """Bars of one figure of rows over the time that is one of their groups, stacked by the others,
    the largest first. None: no group is a time."""
    column = next((i for i, group in enumerate(groups) if group in PERIODS), None)
    if column is None:
        return None
    places = {name: i for i, name in enumerate(categories)}
    stacks: dict[str, list[Value]] = defaultdict(lambda: [0] * len(places))
    for row in rows:
        name = " / ".join(text or "none" for i, text in enumerate(row.group) if i != column)
        place = places.get(row.group[column])
        if place is None:
            continue
        value = known_figures(row)[figure]
        before = stacks[name][place]
        stacks[name][place] = None if value is None or before is None else before + value
    series = [Series(name=name or "all", values=tuple(values)) for name, values in stacks.items()]
    series.sort(key=lambda each: -sum(value or 0 for value in each.values))
    return Chart(
        title=title,
        form=Form.BARS,
        unit=USD,
        period=groups[column],
        categories=tuple(categories),
        series=tuple(series),
    )


def running_sums(days: Mapping[int, int | None], last: int, most: int) -> tuple[Value, ...]:
    """Sums of a month up to each of its days, 1 to `most`; unknown after the day `last`, and from
    the first unknown day on."""
    total: int | None = 0
    found: list[Value] = []
    for day in range(1, most + 1):
        amount = days.get(day, 0)
        total = None if total is None or amount is None else total + amount
        found.append(total if day <= last else None)
    return tuple(found)


def bill_chart(
    statements: Sequence[usage_pb2.Statement], period: str, categories: Sequence[str]
) -> Chart:
    """Where the bill of each period went. The stack is the whole bill."""
    found = {statement.period: statement for statement in statements}
    series = []
    for name, field in BILL_PARTS:
        values = tuple(
            _bill_part(found[category], field) if category in found else 0
            for category in categories
        )
        if any(value is None or value for value in values):
            series.append(Series(name=name, values=values))
    return Chart(
        title="Where the bill went",
        form=Form.BARS,
        unit=USD,
        period=period,
        categories=tuple(categories),
        series=tuple(series),
    )


def _bill_part(statement: usage_pb2.Statement, field: str) -> Value:
    if field == "own":
        return sum(line.own_nano_usd for line in statement.lines)
    return getattr(statement, field) if statement.HasField(field) else None


def rates_chart(
    statements: Sequence[usage_pb2.Statement], pool: str, period: str, categories: Sequence[str]
) -> Chart:
    """Cost per million tokens of a pool by kind of token, idle inside."""
    found = {
        statement.period: _rates(bill)
        for statement in statements
        for bill in statement.pools
        if bill.pool == pool
    }
    series = [
        Series(
            name=kind.replace("_", " "),
            values=tuple(found.get(category, {}).get(kind) for category in categories),
        )
        for kind in KINDS
    ]
    return Chart(
        title=f"Pool {pool}: cost of a million tokens, idle inside",
        form=Form.LINE,
        unit=USD_PER_MTOK,
        period=period,
        categories=tuple(categories),
        series=tuple(each for each in series if any(v is not None for v in each.values)),
    )


def _rates(bill: usage_pb2.PoolBill) -> dict[str, int | None]:
    return {
        rate.token_kind: (
            rate.allocated_nano_usd_per_mtok
            if rate.HasField("allocated_nano_usd_per_mtok")
            else None
        )
        for rate in bill.rates
    }


def pools_of(statements: Iterable[usage_pb2.Statement]) -> list[str]:
    """Names of the pools that have a bill."""
    return sorted({bill.pool for statement in statements for bill in statement.pools})
