"""Adds new rows of the ledger to the roll-ups: each row once, in the period that it ended in.

The rows of an epoch are written in order, so that one number of each epoch tells which rows are in
the roll-ups already. A late row or a correction is a new row, and is added like any other. Gateways
that share a database take turns.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.accounting.ledger.database import Dialect, Tx
from gateway.accounting.rollups.calendar import DAY_HOURS, HOUR_US, months
from gateway.accounting.rollups.columns import (
    DIMENSIONS,
    END_USER_TAG,
    LABEL_TAG,
    LABELS,
    SESSION_TAG,
    SUMS,
    TAG_DIMENSIONS,
    Span,
    of_rows,
)

PIECE_ROWS = 5000
"""Most rows of one transaction: SQLite writes nothing else meanwhile."""
_LOCK = "UPDATE fold SET folded_seq = folded_seq WHERE epoch = ''"
NEW_ROWS = (
    "SELECT epoch, folded_seq, last_seq FROM (SELECT epoch, folded_seq,"
    " (SELECT MAX(seq) FROM attempt WHERE attempt.epoch = fold.epoch) AS last_seq FROM fold) AS f"
    " WHERE last_seq > folded_seq ORDER BY epoch"
)
"""Epochs with rows that are not in the roll-ups: the last number that is, and the last of all."""
_PIECE = "epoch = $1 AND seq > $2 AND seq <= $3"


async def fold(tx: Tx, most_rows: int = PIECE_ROWS) -> int:
    """Adds one piece of rows. Returns their number; `most_rows` means that there may be more."""
    await tx.run(_LOCK)
    left = most_rows
    for epoch, folded, last in await tx.rows(NEW_ROWS):
        if not left:
            break
        last = min(last, folded + left)
        left -= last - folded
        await _add(tx, epoch, folded, last)
        await tx.run("UPDATE fold SET folded_seq = $2 WHERE epoch = $1", epoch, last)
    return most_rows - left


async def _add(tx: Tx, epoch: str, after: int, last: int) -> None:
    [(first_us, last_us)] = await tx.rows(
        f"SELECT MIN(ended_unix_us), MAX(ended_unix_us) FROM attempt WHERE {_PIECE}",
        *(epoch, after, last),
    )
    if first_us is None:
        return  # deleted meanwhile
    hour = f"ended_unix_us / {HOUR_US}"
    day = f"ended_unix_us / {HOUR_US * DAY_HOURS} * {DAY_HOURS}"
    month = start_expression(months(first_us // HOUR_US, last_us // HOUR_US + 1), hour)
    values = (epoch, after, last)
    for span, starts in ((Span.HOUR, hour), (Span.DAY, day), (Span.MONTH, month)):
        await tx.run(_spend(tx.dialect, span, starts), *values)
    await tx.run(_of_tenants(tx.dialect, hour), *values)
    for span, starts in ((Span.DAY, day), (Span.MONTH, month)):
        for tag, column in ((SESSION_TAG, "session_id"), (END_USER_TAG, "end_user")):
            await tx.run(_tagged(tx.dialect, span, starts, tag, column), *values)
        await tx.run(_labelled(tx.dialect, span, starts), *values)


def start_expression(periods: Iterable[tuple[int, int]], hour: str) -> str:
    """SQL for the first hour of the period that a row is in. `periods`: begin and end of each, in
    order, without gaps. `hour`: SQL of the row's hour."""
    found = list(periods)
    if len(found) == 1:
        return str(found[0][0])
    cases = " ".join(f"WHEN {hour} < {end} THEN {begin}" for begin, end in found)
    return f"CASE {cases} END"


def _spend(dialect: Dialect, span: Span, starts: str) -> str:
    return _upsert(dialect, "spend", ("span", "starts_hour", *DIMENSIONS), (str(int(span)), starts))


def _of_tenants(dialect: Dialect, starts: str) -> str:
    blank = ["tenant" if name == "tenant" else "''" for name in DIMENSIONS]
    constants = (str(int(Span.TENANT_HOUR)), starts, *blank)
    return _upsert(dialect, "spend", ("span", "starts_hour", *DIMENSIONS), constants)


_TAG_KEYS = ("span", "tag", "starts_hour", *TAG_DIMENSIONS)


def _tagged(dialect: Dialect, span: Span, starts: str, tag: str, value: str) -> str:
    constants = (str(int(span)), f"'{tag}'", starts, value)
    return _upsert(dialect, "tagged_spend", _TAG_KEYS, constants)


def _labelled(dialect: Dialect, span: Span, starts: str) -> str:
    """Adds each row once for each of its labels."""
    constants = (str(int(span)), f"'{LABEL_TAG}' || label.key", starts, "label.value")
    source = f"attempt CROSS JOIN {LABELS[dialect]}"
    if dialect is Dialect.POSTGRES:
        source = f"attempt CROSS JOIN LATERAL {LABELS[dialect]}"
    return _upsert(dialect, "tagged_spend", _TAG_KEYS, constants, source)


def _upsert(
    dialect: Dialect,
    table: str,
    keys: tuple[str, ...],
    constants: tuple[str, ...],
    source: str = "attempt",
) -> str:
    """Adds the sums of a piece. `constants`: SQL of the first keys; the others are columns."""
    sums = [f"CAST(COALESCE(SUM({sql}), 0) AS BIGINT)" for sql in of_rows(dialect).values()]
    grouped = [*constants, *keys[len(constants) :]]
    # Constants may not be grouped by: PostgreSQL takes a number for a position.
    by = ", ".join(str(number) for number in range(1, len(keys) + 1))
    added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in SUMS)
    return (
        f"INSERT INTO {table} ({', '.join([*keys, *SUMS])})"
        f" SELECT {', '.join([*grouped, *sums])} FROM {source} WHERE {_PIECE} GROUP BY {by}"
        f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {added}"
    )
