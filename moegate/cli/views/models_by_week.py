"""Models ranked week by week, with their growth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from moegate.cli.views.fitted_table import Column, FittedTable, number
from moegate.cli.views.usage_report import usd
from moegate.v1 import usage_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedModel:
    """A model in a week. `growth`: of its tokens against the week before, as a share; None: it had
    none there, or that week is not in the report."""

    week: str
    rank: int
    model: str
    row: usage_pb2.SpendRow
    tokens: int
    growth: float | None


def ranked(rows: Sequence[usage_pb2.SpendRow]) -> list[RankedModel]:
    """Ranks rows of (week, model) in the order in which they come; weeks ascend."""
    weeks: dict[str, dict[str, usage_pb2.SpendRow]] = defaultdict(dict)
    for row in rows:
        week, model = row.group
        weeks[week][model] = row
    found = []
    before: dict[str, usage_pb2.SpendRow] = {}
    for week, models in weeks.items():
        for rank, (model, row) in enumerate(models.items(), 1):
            tokens = tokens_of(row)
            earlier = tokens_of(before[model]) if model in before else 0
            growth = tokens / earlier - 1.0 if earlier else None
            found.append(
                RankedModel(
                    week=week, rank=rank, model=model, row=row, tokens=tokens, growth=growth
                )
            )
        before = models
    return found


def tokens_of(row: usage_pb2.SpendRow) -> int:
    """Tokens of all kinds."""
    return row.uncached_input_tokens + row.cached_input_tokens + row.output_tokens


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
