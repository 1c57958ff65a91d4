"""Figures of spend for readers: what is known of a row, and models ranked week by week."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from moegate.v1 import usage_pb2

NUMBERS = (
    *("requests", "attempts", "uncached_input_tokens", "cached_input_tokens", "output_tokens"),
    *("cache_write_tokens", "metered_attempts", "metered_nano_usd", "own_nano_usd"),
    *("remote_nano_usd", "wasted_nano_usd", "uncached_input_nano_usd", "cached_input_nano_usd"),
    *("output_nano_usd", "charged_nano_usd", "unpriced_attempts", "estimated_attempts"),
    *("corrected_nano_usd", "recovered_nano_usd", "cheapest_remote_attempts"),
    "cheapest_remote_nano_usd",
)
_METERED = (
    *("metered_nano_usd", "own_nano_usd", "remote_nano_usd", "wasted_nano_usd"),
    *("uncached_input_nano_usd", "cached_input_nano_usd", "output_nano_usd"),
)


def known(row: usage_pb2.SpendRow) -> list[int | None]:
    """Values of `NUMBERS`; None: unknown, since of no attempt it is known."""
    found: dict[str, int | None] = {name: getattr(row, name) for name in NUMBERS}
    if row.attempts and not row.metered_attempts:
        found |= dict.fromkeys(_METERED)
    if row.attempts and row.unpriced_attempts == row.attempts and not row.charged_nano_usd:
        found["charged_nano_usd"] = None
    if not row.cheapest_remote_attempts:
        found["cheapest_remote_nano_usd"] = None
    return list(found.values())


def known_figures(row: usage_pb2.SpendRow) -> dict[str, int | None]:
    """The same by name."""
    return dict(zip(NUMBERS, known(row), strict=True))


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
