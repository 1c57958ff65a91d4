"""A table that fits its terminal: columns leave by priority until the rest is whole.

A figure that is cut off misleads, and a hidden column says so below the table: what is wanted most
stays, whatever the width.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

PIPE_COLUMNS = 160
"""Where nobody looks at a terminal."""
_NATURAL = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        header: may have several lines.
        leaves: columns with the highest number leave first, 0 never does.
        wraps: cells that are wider become several lines before any column leaves; 0: they do not.
        name: how the header is told below the table.
    """

    header: str
    leaves: int = 0
    wraps: int = 0
    justify: Literal["left", "right"] = "left"
    name: str = ""


@dataclass(slots=True)
class FittedTable:
    """Rows of as many cells as there are columns. The first column folds if nothing else helps."""

    columns: Sequence[Column]
    _rows: list[tuple[tuple[str, ...], str]] = field(default_factory=list)

    def add_row(self, *cells: str, style: str = "") -> None:
        """A row, with a style of its own."""
        self._rows.append((cells, style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The widest table that fits, and which columns it lacks."""
        shown = list(range(len(self.columns)))
        natural = options.update(max_width=_NATURAL)
        wrap = False
        while True:
            table = self._table(shown, wrap=wrap)
            if Measurement.get(console, natural, table).maximum <= options.max_width:
                break
            leaving = max(shown, key=lambda i: (self.columns[i].leaves, i))
            if wrap and not self.columns[leaving].leaves:
                break
            if wrap:
                shown.remove(leaving)
            wrap = True
        yield table
        hidden = [c.name or c.header for i, c in enumerate(self.columns) if i not in shown]
        if hidden:
            yield Text(f"in a wider terminal also: {', '.join(hidden)}", style="dim")

    def _table(self, shown: Sequence[int], *, wrap: bool) -> Table:
        table = Table(
            box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold"
        )
        for i in shown:
            column = self.columns[i]
            table.add_column(
                column.header,
                justify=column.justify,
                overflow="fold",
                max_width=column.wraps if wrap and column.wraps else None,
                no_wrap=i > 0 and not column.wraps,
            )
        for cells, style in self._rows:
            table.add_row(*(_plain(cells[i]) for i in shown), style=style)
        return table


def _plain(cell: str) -> Text:
    """A cell as it is: what callers choose, such as a session's id, is neither rich's markup nor a
    command to the terminal."""
    return Text("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in cell))


def number(header: str, leaves: int = 0) -> Column:
    """A column of figures."""
    return Column(header=header, justify="right", leaves=leaves)


def table_console() -> Console:
    """Standard output: as wide as the terminal or $COLUMNS, and wide where it is neither."""
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PIPE_COLUMNS if wide else None)
