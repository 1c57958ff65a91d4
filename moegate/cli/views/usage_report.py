"""Spend as a table, as JSON, and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.config.money import NANO_USD
from gateway.translation.spend_figures import NUMBERS, known
from moegate.cli.views.fitted_table import Column, FittedTable, number
from moegate.cli.views.money import usd
from moegate.cli.views.pictures import new_figure
from moegate.v1 import usage_pb2

MAX_BARS = 40


def table(groups: Sequence[str], answer: usage_pb2.GetSpendResponse) -> FittedTable:
    """A row for each group, and a row with their sum."""
    rows = FittedTable(
        [
            *(Column(header=name) for name in groups),
            number("requests"),
            number("input", leaves=3),
            number("cached", leaves=4),
            number("output", leaves=2),
            number("charged $"),
            number("metered $", leaves=1),
            number("own $", leaves=6),
            number("remote $", leaves=6),
            number("wasted $", leaves=7),
            number("at the cheapest\nremote $", leaves=5),
            Column(header="notes", wraps=16),
        ]
    )
    for row in answer.rows:
        rows.add_row(*row.group, *_cells(row))
    if len(answer.rows) > 1:
        total = _sum(answer.rows)
        blank = ["total", *[""] * (len(groups) - 1)]
        rows.add_row(*blank[: len(groups)], *_cells(total), style="bold")
    return rows


def as_json(groups: Sequence[str], answer: usage_pb2.GetSpendResponse) -> dict[str, Any]:
    """All figures; money in nano-USD, null where it is unknown."""
    return {
        "rows": [
            dict(zip([*groups, *NUMBERS], [*row.group, *known(row)], strict=True))
            for row in answer.rows
        ],
        "truncated": answer.truncated,
    }


def save_png(groups: Sequence[str], answer: usage_pb2.GetSpendResponse, path: Path) -> None:
    """Draws charges and metered cost as bars. Raises NoMatplotlib or OSError."""
    rows = list(answer.rows[:MAX_BARS])
    names = [" / ".join(row.group) or "all" for row in rows]
    figure = new_figure(10, 1.5 + 0.35 * max(3, len(rows)))
    axes = figure.subplots()
    at = range(len(rows))
    charged = [row.charged_nano_usd / NANO_USD for row in rows]
    metered = [row.metered_nano_usd / NANO_USD for row in rows]
    axes.barh([i - 0.2 for i in at], charged, height=0.4, label="charged")
    axes.barh([i + 0.2 for i in at], metered, height=0.4, label="metered")
    axes.set_yticks(list(at), names)
    axes.invert_yaxis()
    axes.set_xlabel("US dollars")
    axes.set_title(f"Spend by {', '.join(groups)}" if groups else "Spend")
    axes.legend()
    figure.savefig(path, dpi=120)


def _cells(row: usage_pb2.SpendRow) -> tuple[str, ...]:
    notes = [
        f"{count} {what}"
        for count, what in (
            (row.unpriced_attempts, "without a price"),
            (row.estimated_attempts, "estimated"),
        )
        if count
    ]
    if row.corrected_nano_usd:
        notes.append(f"${usd(row.corrected_nano_usd)} of corrections")
    if row.recovered_nano_usd:
        notes.append(f"${usd(row.recovered_nano_usd)} of recovered leases")
    unmetered = row.attempts - row.metered_attempts
    if 0 < unmetered < row.attempts:
        notes.append(f"{unmetered} of unknown cost")
    amounts = dict(zip(NUMBERS, known(row), strict=True))
    shown = (
        *("charged_nano_usd", "metered_nano_usd", "own_nano_usd", "remote_nano_usd"),
        *("wasted_nano_usd", "cheapest_remote_nano_usd"),
    )
    return (
        f"{row.requests:,}",
        f"{row.uncached_input_tokens:,}",
        f"{row.cached_input_tokens:,}",
        f"{row.output_tokens:,}",
        *("" if (amount := amounts[name]) is None else usd(amount) for name in shown),
        ", ".join(notes),
    )


def _sum(rows: Sequence[usage_pb2.SpendRow]) -> usage_pb2.SpendRow:
    return usage_pb2.SpendRow(**{name: sum(getattr(row, name) for row in rows) for name in NUMBERS})
