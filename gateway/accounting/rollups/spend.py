"""Spend by groups over any window: roll-ups for whole periods, rows for the edges and for what is
not rolled up yet.

One query adds both. All of it sees one state of the database, so that each row counts once.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.accounting.ledger.database import Dialect, Row, Tx
from gateway.accounting.ledger.queries import Selection
from gateway.accounting.rollups.calendar import (
    DAY_HOURS,
    HOUR_US,
    iso,
    months,
    next_month,
    week_start,
    years,
)
from gateway.accounting.rollups.columns import (
    END_USER_TAG,
    LABEL_TAG,
    SESSION_TAG,
    SUMS,
    Span,
    label_value,
    of_rows,
)
from gateway.accounting.rollups.fold import NEW_ROWS, start_expression
from gateway.accounting.rollups.tiles import Tiles, tiles


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
    MONTH = "month"
    YEAR = "year"
    POOL = "pool"
    KIND = "kind"
    END_USER = "end_user"
    LABEL = "label"
    """The value of one label; only rows that have it."""


class Order(enum.StrEnum):
    """Order of the groups."""

    GROUP = "group"
    SPEND = "spend"
    TOKENS = "tokens"


_COLUMNS = {
    Group.TENANT: "tenant",
    Group.KEY: "key_id",
    Group.MODEL: "model",
    Group.PLACEMENT: "placement",
    Group.POOL: "pool",
    Group.KIND: "kind",
}
_TAGS = {Group.SESSION: (SESSION_TAG, "session_id"), Group.END_USER: (END_USER_TAG, "end_user")}
"""The tag in `tagged_spend`, and the SQL of its value in a row. That of a label has its key."""
_UNTAGGED = ("placement", "pool", "kind")
"""Columns that `tagged_spend` lacks."""
_ORDERED = {
    Order.SPEND: ("charged_nano_usd",),
    Order.TOKENS: ("uncached_input_tokens", "cached_input_tokens", "output_tokens"),
}
"""Sums that an order is by, together."""
_TIMES = (Group.HOUR, Group.DAY, Group.WEEK, Group.MONTH, Group.YEAR)


MOST_RANGES = 50
"""Most epochs of which new rows are read by a range each."""


class WindowTooFine(Exception):
    """Retention has left only sums of longer periods; the text says what to ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """Sums of one group. Its values are in the order of the query, times in ISO 8601.

    Attributes:
        own_nano_usd, remote_nano_usd: metered where it is known, which `metered_attempts` counts.
        wasted_nano_usd: the part of both that brought the client nothing.
        *_input_nano_usd, output_nano_usd: parts of the metered cost.
        cheapest_remote_attempts: attempts for which a remote was allowed and its price known.
    """

    group: tuple[str, ...]
    requests: int
    attempts: int
    uncached_input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    own_nano_usd: int
    remote_nano_usd: int
    wasted_nano_usd: int
    metered_attempts: int
    uncached_input_nano_usd: int
    cached_input_nano_usd: int
    output_nano_usd: int
    charged_nano_usd: int
    unpriced_attempts: int
    estimated_attempts: int
    corrected_nano_usd: int
    recovered_nano_usd: int
    cheapest_remote_nano_usd: int
    cheapest_remote_attempts: int

    @property
    def metered_nano_usd(self) -> int:
        """What it cost, where it is known."""
        return self.own_nano_usd + self.remote_nano_usd


async def spend(
    tx: Tx,
    selection: Selection,
    groups: Sequence[Group],
    order: Order,
    limit: int,
    *,
    label: str = "",
) -> list[Spend]:
    """Spend by group, at most `limit` rows. `label`: key of the label of `Group.LABEL`. Raises
    WindowTooFine."""
    query = _Query(tx.dialect, selection, groups, label)
    await _check_kept(tx, query)
    first = last = 0
    if Group.MONTH in groups or Group.YEAR in groups:
        first, last = await _hours_kept(tx, selection)
    names = [f"g{i}" for i in range(len(groups))]
    values = [query.tag_name(group) or _expression(group, first, last) for group in groups]
    keys = [f"{value} AS {name}" for value, name in zip(values, names, strict=True)]
    columns = [f"CAST(COALESCE(SUM({name}), 0) AS BIGINT) AS s_{name}" for name in SUMS]
    ordered = [name for name, group in zip(names, groups, strict=True) if group in _TIMES]
    is_by_time = bool(ordered)
    if order is not Order.GROUP:
        # PostgreSQL knows names of the list in ORDER BY, but not in an expression there.
        ordered.append(
            " + ".join(f"COALESCE(SUM({name}), 0)" for name in _ORDERED[order]) + " DESC"
        )
    ordered += [name for name in names if name not in ordered]
    new_rows = await tx.rows(NEW_ROWS)
    grouped = f"GROUP BY {', '.join(names)} ORDER BY {', '.join(ordered)}" if names else ""
    grouped += f" LIMIT {int(limit)}"
    first_of_all = chosen = ""
    if order is not Order.GROUP and not is_by_time and query.reads_tags:
        # Tags have very many values. Which of them come first is found with one sum for each; all
        # sums of each value would take three times as long.
        parts = " UNION ALL ".join(query.sources(new_rows, _ORDERED[order]))
        first_of_all = f"WITH top AS (SELECT {', '.join(keys)} FROM ({parts}) AS parts {grouped}) "
        chosen = f"SELECT {', '.join(names)} FROM top"
        if tx.dialect is Dialect.POSTGRES:
            # Workers sum few rows of each of very many values, and hand nearly all of them on: that
            # took twice the CPU time.
            await tx.run("SET LOCAL max_parallel_workers_per_gather = 0")
    parts = " UNION ALL ".join(query.sources(new_rows, SUMS, values, chosen))
    sql = f"{first_of_all}SELECT {', '.join([*keys, *columns])} FROM ({parts}) AS parts {grouped}"
    found = await tx.rows(sql, *query.values)
    return await tx.computed(lambda: [_spend(row, groups) for row in found])


class _Query:
    """The sources that a report adds, with numbered values."""

    def __init__(
        self, dialect: Dialect, selection: Selection, groups: Sequence[Group], label: str
    ) -> None:
        self.selection = selection
        self.values: list[object] = []
        self._rows = of_rows(dialect)
        tags = dict(_TAGS)
        self._labelled = ""
        if Group.LABEL in groups:
            value = label_value(dialect, label)
            tags[Group.LABEL] = (f"{LABEL_TAG}{label}", value)
            self._labelled = f" AND {value} IS NOT NULL"
        self._tag_groups = [group for group in groups if group in tags]
        self._tags = [tags[group] for group in self._tag_groups]
        self._columns = {_COLUMNS[group] for group in groups if group in _COLUMNS}
        self.tiles = self._tiles(groups)

    def _tiles(self, groups: Sequence[Group]) -> Tiles:
        window = self.selection.from_us, self.selection.to_us
        if len(self._tags) > 1 or (self._tags and self._columns & set(_UNTAGGED)):
            return Tiles(whole=(), edges=(window,))  # of rows alone
        hourly, daily = Group.HOUR in groups, Group.DAY in groups or Group.WEEK in groups
        if self._tags and hourly:
            return Tiles(whole=(), edges=(window,))
        coarsest = Span.HOUR if hourly else Span.DAY if daily else Span.MONTH
        return tiles(*window, Span.DAY if self._tags else Span.HOUR, coarsest)

    @property
    def reads_tags(self) -> bool:
        """Whether sums of `tagged_spend` are read."""
        return bool(self._tags and self.tiles.whole)

    def tag_name(self, group: Group) -> str:
        """The name of a tag's values in the sources; empty: the group is no tag."""
        return f"t{self._tag_groups.index(group)}" if group in self._tag_groups else ""

    def sources(
        self,
        new_rows: Sequence[Row],
        sums: Sequence[str],
        keys: Sequence[str] = (),
        chosen: str = "",
    ) -> Iterator[str]:
        """SELECTs with the hour, the columns to group by, and some of `SUMS`. `new_rows`: those of
        `NEW_ROWS`. `chosen`: a query of the values that `keys` must have; empty: any."""
        columns = sorted(self._columns)
        kept = ", ".join(["starts_hour AS hour", *columns, *self._tag_columns("value"), *sums])
        table = "tagged_spend" if self._tags else "spend"
        for tile in self.tiles.whole:
            where = self._between("starts_hour", tile.from_hour, tile.to_hour)
            where += f" AND span = {int(self._stored(tile.span))}"
            if self._tags:
                where += f" AND tag = {self._value(self._tags[0][0])}"
            where += self._among(keys, chosen, "value")
            yield f"SELECT {kept} FROM {table} WHERE {where}{self._filters()}"
        of_row = [f"{self._rows[name]} AS {name}" for name in sums]
        single = ", ".join(
            [f"ended_unix_us / {HOUR_US} AS hour", *columns, *self._tag_columns(""), *of_row]
        )
        among = f"{self._labelled}{self._among(keys, chosen, '')}{self._filters()}"
        for from_us, to_us in self.tiles.edges:
            where = self._between("ended_unix_us", from_us, to_us)
            yield f"SELECT {single} FROM attempt WHERE {where}{among}"
        if not self.tiles.whole or not new_rows:
            return
        rest = f"{self._between('ended_unix_us', *self.tiles.whole_us)}{among}"
        if len(new_rows) > MOST_RANGES:  # while an old ledger is summed for the first time
            yield (
                f"SELECT {single} FROM fold CROSS JOIN attempt WHERE attempt.epoch = fold.epoch"
                f" AND attempt.seq > fold.folded_seq AND {rest}"
            )
            return
        # A range of each epoch's numbers: PostgreSQL would go through all rows for a join.
        for epoch, folded, last in new_rows:
            where = f"epoch = {self._value(epoch)} AND seq > {int(folded)} AND seq <= {int(last)}"
            yield f"SELECT {single} FROM attempt WHERE {where} AND {rest}"

    def _stored(self, span: Span) -> Span:
        """The span to read: hours of tenants, where no other dimension matters."""
        needed = self._columns | {column for column, _ in self.selection.filters()}
        return Span.TENANT_HOUR if span is Span.HOUR and needed <= {"tenant"} else span

    def _tag_columns(self, kept: str) -> list[str]:
        return [f"{kept or sql} AS t{i}" for i, (_, sql) in enumerate(self._tags)]

    def _among(self, keys: Sequence[str], chosen: str, kept: str) -> str:
        """SQL of the condition that the groups are chosen ones. `kept`: see `_tag_columns`."""
        if not chosen:
            return ""
        tags = {f"t{i}": kept or sql for i, (_, sql) in enumerate(self._tags)}
        return f" AND ({', '.join(tags.get(key, key) for key in keys)}) IN ({chosen})"

    def _filters(self) -> str:
        return "".join(
            f" AND {column} = {self._value(value)}" for column, value in self.selection.filters()
        )

    def _between(self, column: str, first: int, last: int) -> str:
        return f"{column} >= {self._value(first)} AND {column} < {self._value(last)}"

    def _value(self, value: object) -> str:
        if value not in self.values:
            self.values.append(value)
        return f"${self.values.index(value) + 1}"


def _expression(group: Group, first_hour: int, last_hour: int) -> str:
    """SQL of a group over the sources."""
    match group:
        case Group.HOUR | Group.DAY | Group.WEEK:
            return time_expression(group)
        case Group.MONTH:
            return start_expression(months(first_hour, last_hour), "hour")
        case Group.YEAR:
            return start_expression(years(first_hour, last_hour), "hour")
    return _COLUMNS[group]


def time_expression(group: Group) -> str:
    """SQL of an hour, day or week, as `group_text` reads it."""
    days = f"hour / {DAY_HOURS}"
    return {Group.HOUR: "hour", Group.DAY: days, Group.WEEK: f"({days} + 3) / 7"}[group]


async def _check_kept(tx: Tx, query: _Query) -> None:
    """Raises WindowTooFine where rows or hours that the query needs were deleted."""
    kept: dict[int, int] = {
        what: hour for what, hour in await tx.rows("SELECT what, from_hour FROM retained")
    }
    hours_from, rows_from = kept.get(1, 0), kept.get(0, 0)
    needed = [(a // HOUR_US, -(-b // HOUR_US), rows_from, "hours") for a, b in query.tiles.edges]
    needed += [
        (tile.from_hour, tile.to_hour, hours_from, "days")
        for tile in query.tiles.whole
        if tile.span is Span.HOUR
    ]
    for first, last, from_hour, whole in needed:
        if first >= from_hour:
            continue
        found = await tx.rows(
            "SELECT 1 FROM spend WHERE span = 1 AND starts_hour > $1 AND starts_hour < $2 LIMIT 1",
            *(first - DAY_HOURS, min(last, from_hour)),
        )
        if found:
            raise WindowTooFine(
                f"before {iso(from_hour)}Z only whole {whole} are kept: let the window begin and "
                "end at midnight UTC, and group by no less than a day"
            )


async def _hours_kept(tx: Tx, selection: Selection) -> tuple[int, int]:
    """The hours of the selection in which there can be rows."""
    first, last = selection.from_us // HOUR_US, -(-selection.to_us // HOUR_US)
    [(oldest, newest)] = await tx.rows(
        "SELECT MIN(starts_hour), MAX(starts_hour) FROM spend WHERE span = 2"
    )
    [(oldest_us, newest_us)] = await tx.rows(
        # Two queries: SQLite would go through the whole index for both at once.
        "SELECT (SELECT MIN(ended_unix_us) FROM attempt), (SELECT MAX(ended_unix_us) FROM attempt)"
    )
    hours = [hour for hour in (oldest, oldest_us and oldest_us // HOUR_US) if hour is not None]
    ends = [hour for hour in (newest, newest_us and newest_us // HOUR_US) if hour is not None]
    if not hours:
        return first, first + 1
    first = max(first, min(hours))
    return first, max(first + 1, min(last, next_month(max(ends))))


def _spend(row: Row, groups: Sequence[Group]) -> Spend:
    values = tuple(group_text(group, row[i]) for i, group in enumerate(groups))
    return Spend(group=values, **dict(zip(SUMS, row[len(groups) :], strict=True)))


def group_text(group: Group, value: object) -> str:
    """The value of a group for a reader."""
    if not isinstance(value, int):
        return str(value)
    match group:
        case Group.HOUR:
            return f"{iso(value)[:16]}Z"
        case Group.DAY:
            return iso(value * DAY_HOURS)[:10]
        case Group.WEEK:
            return iso(week_start(value))[:10]
        case Group.MONTH:
            return iso(value)[:7]
        case Group.YEAR:
            return iso(value)[:4]
    return str(value)
