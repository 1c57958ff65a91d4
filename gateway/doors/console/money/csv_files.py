"""Reports as CSV files. Unknown stays blank; money is in nano-USD, as in the ledger."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import Sequence

from aiohttp import web

Cell = str | int | float | None
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


async def csv_answer(
    name: str, header: Sequence[str], rows: Sequence[Sequence[Cell]]
) -> web.Response:
    """Returns a file to download."""
    text = await asyncio.to_thread(csv_text, header, rows)
    return web.Response(
        text=text,
        content_type="text/csv",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )


def csv_text(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Returns the text of a file."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(header)
    writer.writerows([[_text(cell) for cell in row] for row in rows])
    return file.getvalue()


def _text(cell: Cell) -> Cell:
    """A text that a spreadsheet takes for a formula gets an apostrophe: labels and end users come
    from callers."""
    if isinstance(cell, str) and cell.startswith(_FORMULA):
        return f"'{cell}"
    return "" if cell is None else cell
