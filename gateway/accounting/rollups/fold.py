"""Adds new rows of the ledger to the roll-ups: each row once, in the period that it ended in.

The rows of an epoch are written in order, so that one number of each epoch tells which rows are in
the roll-ups already. A late row or a correction is a new row, and is added like any other. Gateways
that share a database take turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

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
    day = f"hour / {DAY_HOURS} * {DAY_HOURS}"
    month = start_expression(months(first_us // HOUR_US, last_us // HOUR_US + 1), "hour")
    await _run(tx, list(_additions(tx.dialect, day, month)), (epoch, after, last))


async def _run(tx: Tx, additions: Sequence[str], values: tuple[object, ...]) -> None:
    """Runs statements that read the rows of a piece, which are read and taken apart once."""
    columns = [*DIMENSIONS, "session_id", "end_user", "labels"]
    columns += [f"ended_unix_us / {HOUR_US} AS hour"]
    columns += [f"{sql} AS {name}_of_row" for name, sql in of_rows(tx.dialect).items()]
    piece = f"SELECT {', '.join(columns)} FROM attempt WHERE {_PIECE}"
    match tx.dialect:
        case Dialect.SQLITE:
            await tx.run(f"CREATE TEMP TABLE piece AS {piece}", *values)
            for statement in additions:
                await tx.run(statement)
            await tx.run("DROP TABLE piece")
        case Dialect.POSTGRES:
            # One statement changes no row twice: each addition has periods or tags of its own.
            parts = ", ".join(f"a{i} AS ({statement})" for i, statement in enumerate(additions))
            await tx.run(f"WITH piece AS MATERIALIZED ({piece}), {parts} SELECT 1", *values)


def _additions(dialect: Dialect, day: str, month: str) -> Iterator[str]:
    """Statements that add a piece to the roll-ups. `day`, `month`: SQL of their first hours."""
    for span, starts in ((Span.HOUR, "hour"), (Span.DAY, day), (Span.MONTH, month)):
        yield _spend(span, starts)
    yield _of_tenants()
    for span, starts in ((Span.DAY, day), (Span.MONTH, month)):
        for tag, column in ((SESSION_TAG, "session_id"), (END_USER_TAG, "end_user")):
            yield _tagged(span, starts, tag, column)
        yield _labelled(dialect, span, starts)


def start_expression(periods: Iterable[tuple[int, int]], hour: str) -> str:
    """SQL for the first hour of the period that a row is in. `periods`: begin and end of each, in
    order, without gaps. `hour`: SQL of the row's hour."""
    found = list(periods)
    if len(found) == 1:
        return str(found[0][0])
    cases = " ".join(f"WHEN {hour} < {end} THEN {begin}" for begin, end in found)
    return f"CASE {cases} END"


def _spend(span: Span, starts: str) -> str:
    return _upsert("spend", ("span", "starts_hour", *DIMENSIONS), (str(int(span)), starts))


def _of_tenants() -> str:
    blank = ["tenant" if name == "tenant" else "''" for name in DIMENSIONS]
    constants = (str(int(Span.TENANT_HOUR)), "hour", *blank)
    return _upsert("spend", ("span", "starts_hour", *DIMENSIONS), constants)


_TAG_KEYS = ("span", "tag", "starts_hour", *TAG_DIMENSIONS)


def _tagged(span: Span, starts: str, tag: str, value: str) -> str:
    return _upsert("tagged_spend", _TAG_KEYS, (str(int(span)), f"'{tag}'", starts, value))


def _labelled(dialect: Dialect, span: Span, starts: str) -> str:
    """Adds each row once for each of its labels."""
    constants = (str(int(span)), f"'{LABEL_TAG}' || label.key", starts, "label.value")
    source = f"piece AS attempt CROSS JOIN {LABELS[dialect]}"
    if dialect is Dialect.POSTGRES:
        source = f"piece AS attempt CROSS JOIN LATERAL {LABELS[dialect]}"
    return _upsert("tagged_spend", _TAG_KEYS, constants, source)


def _upsert(
    table: str, keys: tuple[str, ...], constants: tuple[str, ...], source: str = "piece"
) -> str:
    """Adds the sums of a piece. `constants`: SQL of the first keys; the others are columns."""
    sums = [f"CAST(COALESCE(SUM({name}_of_row), 0) AS BIGINT)" for name in SUMS]
    grouped = [*constants, *keys[len(constants) :]]
    # Constants may not be grouped by: PostgreSQL takes a number for a position.
    by = ", ".join(str(number) for number in range(1, len(keys) + 1))
    added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in SUMS)
    return (
        f"INSERT INTO {table} ({', '.join([*keys, *SUMS])})"
        f" SELECT {', '.join([*grouped, *sums])} FROM {source} WHERE true GROUP BY {by}"
        f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {added}"
    )
