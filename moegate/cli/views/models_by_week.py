"""Models ranked week by week, with their growth."""

from __future__ import annotations

from gateway.translation.spend_figures import ranked
from moegate.cli.views.fitted_table import Column, FittedTable, number
from moegate.cli.views.money import usd
from moegate.v1 import usage_pb2


def models_table(answer: usage_pb2.GetSpendResponse) -> FittedTable:
    """A row for each model and week."""
    table = FittedTable(
        [
            Column(header="week"),
            number("rank"),
            Column(header="model"),
            number("requests", leaves=2),
            number("tokens"),
            number("growth", leaves=1),
            number("charged $"),
            number("metered $", leaves=3),
        ]
    )
    for entry in ranked(answer.rows):
        row = entry.row
        table.add_row(
            entry.week if entry.rank == 1 else "",
            f"{entry.rank}",
            entry.model,
            f"{row.requests:,}",
            f"{entry.tokens:,}",
            "" if entry.growth is None else f"{entry.growth:+.0%}",
            usd(row.charged_nano_usd),
            usd(row.metered_nano_usd) if row.metered_attempts or not row.attempts else "",
        )
    return table
