"""A rich table that leaves out whole columns where the terminal is too narrow for all of them.

rich wraps and folds cells by each column's own options. It cannot leave a column out: below the
narrowest width of a table it cuts cells off, and a figure without its last digits misleads. So the
columns leave by priority, before rich draws the rest, and a line below the table names them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich import box
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

PIPE_COLUMNS = 160
"""Width of standard output where it is no terminal and $COLUMNS is not set."""
_UNBOUNDED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        header: may have several lines.
        leaves: columns with the highest number leave first; columns with 0 stay.
        wraps: its cells may be wrapped, down to this width, before any column leaves. 0: they are
            never wrapped.
        name: the header in the line below the table; empty: `header`.
    """

    header: str
    leaves: int = 0
    wraps: int = 0
    justify: JustifyMethod = "left"
    name: str = ""


@dataclass(slots=True)
class FittedTable:
    """A table of one cell for each column in every row.

    Where no further column may leave, the first column is folded.
    """

    columns: Sequence[Column]
    _rows: list[tuple[tuple[str, ...], str]] = field(default_factory=list)

    def add_row(self, *cells: str, style: str = "") -> None:
        """Adds a row, with a style of its own."""
        self._rows.append((cells, style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields the table with as many columns as fit, and the names of the others."""
        shown = list(range(len(self.columns)))
        unbounded = options.update(max_width=_UNBOUNDED)
        while True:
            narrowest = self._table(shown, wrapped=True)
            needed = Measurement.get(console, unbounded, narrowest).maximum
            leaving = max(shown, key=lambda i: (self.columns[i].leaves, i))
            if needed <= options.max_width or not self.columns[leaving].leaves:
                break
            shown.remove(leaving)
        yield self._table(shown, folds=needed > options.max_width)
        hidden = [c.name or c.header for i, c in enumerate(self.columns) if i not in shown]
        if hidden:
            yield Text(f"in a wider terminal also: {', '.join(hidden)}", style="dim")

    def _table(self, shown: Sequence[int], *, wrapped: bool = False, folds: bool = False) -> Table:
        """Makes a table of some columns. `wrapped`: cells that may be are wrapped; otherwise rich
        wraps them as far as the width demands it. `folds`: the first column is folded."""
        table = Table(
            box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold"
        )
        for i in shown:
            column = self.columns[i]
            table.add_column(
                column.header,
                justify=column.justify,
                overflow="fold",
                max_width=column.wraps if wrapped and column.wraps else None,
                no_wrap=not column.wraps and not (folds and i == 0),
            )
        for cells, style in self._rows:
            table.add_row(*(_plain(cells[i]) for i in shown), style=style)
        return table


def _plain(cell: str) -> Text:
    """Makes a cell of text that a caller may have chosen, such as the id of a session: markup is
    shown as it is, and control characters, which would be commands to the terminal, are replaced.
    """
    return Text("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in cell))


def number(header: str, leaves: int = 0) -> Column:
    """A column of figures."""
    return Column(header=header, justify="right", leaves=leaves)


def table_console() -> Console:
    """Standard output: as wide as the terminal or $COLUMNS, else `PIPE_COLUMNS`."""
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PIPE_COLUMNS if wide else None)
