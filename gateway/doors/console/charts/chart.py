"""What a chart shows: categories, series of values, and the unit of the values."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

MAX_POINTS = 120
"""Most categories that are drawn: more are thinner than a reader can tell apart."""
MAX_SERIES = 8
"""Most series that are drawn: as many as there are colours."""

Value = int | float | None
"""A value of a series; None: unknown."""


class Form(enum.StrEnum):
    """How series are drawn."""

    LINE = "line"
    BARS = "bars"
    """Stacked, so that the whole bar is the sum of the series."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What the values are of.

    Attributes:
        name: for the axis and the table, such as "USD".
        scale: how many units of the values are one unit for the reader.
        prefix, suffix: around each number.
    """

    name: str
    scale: int = 1
    prefix: str = ""
    suffix: str = ""


USD = Unit(name="USD", scale=1_000_000_000, prefix="$")
"""Values in nano-USD."""
USD_PER_MTOK = Unit(name="USD per million tokens", scale=1_000_000_000, prefix="$")
"""Values in nano-USD per million tokens."""
TOKENS = Unit(name="tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Values of one name, one for each category."""

    name: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart, independent of how it looks.

    Attributes:
        title: a short sentence.
        period: of the categories: hour, day, week, month or year, UTC.
        categories: begins of the periods in ISO 8601, as reports name them.
        note: what the reader should know about the figures.
    """

    title: str
    form: Form
    unit: Unit
    period: str
    categories: tuple[str, ...]
    series: tuple[Series, ...]
    note: str = ""

    def __post_init__(self) -> None:
        for series in self.series:
            if len(series.values) != len(self.categories):
                raise ValueError(
                    f"{series.name}: {len(series.values)} values, {len(self.categories)} categories"
                )

    @property
    def known(self) -> list[Value]:
        """Values that are known, of all series."""
        return [value for each in self.series for value in each.values if value is not None]


def bounded(chart: Chart) -> Chart:
    """Returns the part of a chart that can be drawn; its note says what is left out.

    Stacked bars keep their height: the series above the bound become one. Of lines the first ones
    are drawn, because a sum of rates means nothing.
    """
    notes = [chart.note] if chart.note else []
    count = len(chart.categories)
    if count > MAX_POINTS:
        notes.append(f"The picture shows the last {MAX_POINTS} of {count:,} {chart.period}s.")
        chart = replace(
            chart,
            categories=chart.categories[-MAX_POINTS:],
            series=tuple(replace(each, values=each.values[-MAX_POINTS:]) for each in chart.series),
        )
    if len(chart.series) > MAX_SERIES:
        if chart.form is Form.BARS:
            kept, rest = chart.series[: MAX_SERIES - 1], chart.series[MAX_SERIES - 1 :]
            columns = zip(*(each.values for each in rest), strict=True)
            others = Series(name=f"{len(rest)} others", values=tuple(map(known_sum, columns)))
            chart = replace(chart, series=(*kept, others))
        else:
            notes.append(f"The picture shows {MAX_SERIES} of {len(chart.series)} lines.")
            chart = replace(chart, series=chart.series[:MAX_SERIES])
    return replace(chart, note=" ".join(notes))


def known_sum(values: Sequence[Value]) -> Value:
    """Returns the sum of values; None if one is unknown, because then the sum is."""
    total: int | float = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
