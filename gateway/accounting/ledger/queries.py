"""Rows of the ledger, page by page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.accounting.ledger.database import Row, Tx
from gateway.accounting.ledger.schema import ATTEMPT_COLUMNS

PAGE_ROWS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Rows that ended from `from_us` until before `to_us`; "" selects every value."""

    from_us: int
    to_us: int
    tenant: str = ""
    key_id: str = ""
    model: str = ""
    request_id: str = ""

    def filters(self) -> list[tuple[str, str]]:
        """Columns and the values that they must have."""
        names = ("tenant", "key_id", "model", "request_id")
        named = [(name, getattr(self, name)) for name in names]
        return [(column, value) for column, value in named if value]


async def pages(
    read: Callable[[Callable[[Tx], Awaitable[Sequence[Row]]]], Awaitable[Sequence[Row]]],
    selection: Selection,
) -> AsyncIterator[Sequence[Row]]:
    """Rows (`ATTEMPT_COLUMNS`) in the order of their end, in pages: the table may be large. `read`
    runs a transaction."""
    after: tuple[Any, ...] = (selection.from_us, "", -1)
    values: list[object] = [selection.from_us, selection.to_us]
    where = "ended_unix_us >= $1 AND ended_unix_us < $2"
    for column, value in selection.filters():
        values.append(value)
        where += f" AND {column} = ${len(values)}"
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
