"""Axes of charts: where the ticks are, and how values and times read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal

from gateway.doors.console.charts.chart import Chart, Form, Unit, Value

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TIME = re.compile(r"([0-9]{4})(?:-([0-9]{2}))?(?:-([0-9]{2}))?(?:T([0-9]{2}):00Z)?\Z")
_SUFFIXES = ((Decimal(10) ** 9, "G"), (Decimal(10) ** 6, "M"), (Decimal(10) ** 3, "k"))
LEAST_DIGITS = 2
"""Decimals of a dollar that are always shown."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Axis of values. `ticks` ascend from the lowest to the highest, in units of the reader, and
    hold zero: a cut axis would make bars lie."""

    ticks: tuple[Decimal, ...]

    @property
    def low(self) -> float:
        return float(self.ticks[0])

    @property
    def high(self) -> float:
        return float(self.ticks[-1])

    def share(self, value: float) -> float:
        """Returns where a value is, from 0 at the bottom to 1 at the top."""
        return (value - self.low) / (self.high - self.low)


def scale_of(chart: Chart, most_ticks: int) -> Scale:
    """Returns the axis that holds all values of a chart: of stacked bars, their heights."""
    ends = [0.0]
    if chart.form is Form.BARS:
        for column in zip(*(each.values for each in chart.series), strict=True):
            known = [value for value in column if value is not None]
            ends += [
                float(sum(value for value in known if value > 0)),
                float(sum(value for value in known if value < 0)),
            ]
    else:
        ends += [float(value) for value in chart.known if value is not None]
    low, high = min(ends) / chart.unit.scale, max(ends) / chart.unit.scale
    return Scale(nice_ticks(low, high, most_ticks))


def nice_ticks(low: float, high: float, most: int) -> tuple[Decimal, ...]:
    """Returns ticks in steps of 1, 2 or 5 times a power of ten that hold `low` and `high`; at most
    `most` of them, of which three are needed. `low` is at most 0, `high` at least 0."""
    if not low <= 0 <= high or most < 3:
        raise ValueError(f"ticks from {low} to {high}, at most {most}")
    spread = high - low
    if spread == 0 or not math.isfinite(spread):
        return Decimal(0), Decimal(1)
    power = math.floor(math.log10(spread)) - 2
    while True:
        for factor in (1, 2, 5):
            step = Decimal(factor).scaleb(power)
            first = (Decimal(low) / step).to_integral_value("ROUND_FLOOR")
            last = (Decimal(high) / step).to_integral_value("ROUND_CEILING")
            if last - first < most:
                return tuple(step * number for number in range(int(first), int(last) + 1))
        power += 1


def tick_text(tick: Decimal, unit: Unit) -> str:
    """Returns a tick as short as it is exact: $0.05, $1,200, 40M."""
    sign, amount, ending = ("-" if tick < 0 else ""), abs(tick), ""
    for size, letter in _SUFFIXES:
        if amount >= size and (not unit.prefix or size > 1000):
            amount, ending = amount / size, letter
            break
    text = f"{amount.normalize():,f}"
    if unit.prefix and "." in text and len(text.partition(".")[2]) < LEAST_DIGITS:
        text += "0"
    return f"{sign}{unit.prefix}{text}{ending}{unit.suffix}"


def value_text(value: Value, unit: Unit) -> str:
    """Returns a value for a table: dollars to the cent, below one dollar with three digits that
    count. Unknown is blank."""
    if value is None:
        return ""
    exact = Decimal(value) / unit.scale
    if not unit.prefix:
        return (
            f"{exact:,.0f}{unit.suffix}" if exact == exact.to_integral_value() else f"{exact:,.2f}"
        )
    sign, amount = ("-" if exact < 0 else ""), abs(exact)
    digits = LEAST_DIGITS
    if 0 < amount < 1:
        digits = max(digits, min(9, 2 - amount.adjusted()))
    return f"{sign}{unit.prefix}{amount:,.{digits}f}{unit.suffix}"


def time_text(category: str) -> str:
    """Returns the begin of a period as an axis shows it; another text stays as it is."""
    found = _TIME.match(category)
    if found is None:
        return category
    year, month, day, hour = found.groups()
    if month is None:
        return year
    name = MONTHS[int(month) - 1] if 1 <= int(month) <= 12 else month
    if day is None:
        return f"{name} {year}"
    return f"{int(day)} {name}" + ("" if hour is None else f" {hour}h")


def shown_categories(count: int, most: int) -> range:
    """Returns which of some categories have a text, evenly from the first one on."""
    return range(0, count, max(1, -(-count // max(1, most))))
