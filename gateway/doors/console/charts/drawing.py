"""Draws a chart as SVG. Colours and fonts are of classes in `static/charts.css`: the content
security policy forbids inline styles, and the classes follow light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup, escape

from gateway.doors.console.charts.axes import (
    Scale,
    scale_of,
    shown_categories,
    tick_text,
    time_text,
    value_text,
)
from gateway.doors.console.charts.chart import Chart, Form, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Size of a picture, in CSS pixels at its natural width. Texts are 12 of them high, so that a
    narrow screen gets a picture of its own in place of a shrunken one."""

    name: str
    width: int
    height: int
    left: int = 64
    right: int = 10
    top: int = 26
    bottom: int = 40
    ticks: int = 6
    texts: int

    @property
    def across(self) -> int:
        """Width of the area of the values."""
        return self.width - self.left - self.right

    @property
    def up(self) -> int:
        """Height of the area of the values."""
        return self.height - self.top - self.bottom


WIDE = Size(name="wide", width=760, height=280, texts=9)
NARROW = Size(name="narrow", width=360, height=240, texts=3, ticks=5)


def picture(chart: Chart, size: Size, identity: str) -> Markup:
    """Returns the SVG of a chart that is `bounded`. `identity`: unique in the page."""
    name = f"{identity}-{size.name}"
    scale = scale_of(chart, size.ticks)
    drawn = "".join(
        [
            *_grid(chart, scale, size),
            *(_bars if chart.form is Form.BARS else _lines)(chart, scale, size),
        ]
    )
    return Markup(
        '<svg class="chart-picture chart-{}" viewBox="0 0 {} {}" role="img" '
        'aria-labelledby="{} {}"><title id="{}">{}</title><desc id="{}">{}</desc>{}</svg>'
    ).format(
        *(size.name, size.width, size.height, f"{name}-t", f"{name}-d"),
        *(f"{name}-t", chart.title, f"{name}-d", description(chart), Markup(drawn)),
    )


def description(chart: Chart) -> str:
    """Returns what a chart shows, for those who do not see it."""
    if not chart.categories or not chart.series:
        return "There are no figures."
    names = ", ".join(each.name for each in chart.series)
    parts = [
        f"{chart.unit.name} by {chart.period}, {chart.categories[0]} to {chart.categories[-1]} UTC,"
        f" of {names}."
    ]
    known = [value for value in chart.known if value is not None]
    if known:
        lowest, highest = (value_text(value, chart.unit) for value in (min(known), max(known)))
        parts.append(f"The values are from {lowest} to {highest}.")
    unknown = sum(value is None for each in chart.series for value in each.values)
    if unknown:
        what = "value is" if unknown == 1 else "values are"
        parts.append(f"{unknown} {what} unknown: a gap.")
    parts.append("The table below the picture has all figures.")
    return " ".join(parts)


def _grid(chart: Chart, scale: Scale, size: Size) -> Iterator[str]:
    yield _text(0, 14, "chart-unit", chart.unit.name)
    right = size.left + size.across
    for tick in scale.ticks:
        y = _y(float(tick), scale, size)
        kind = "chart-zero" if tick == 0 else "chart-grid"
        yield f'<line class="{kind}" x1="{size.left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield _text(size.left - 6, y + 4, "chart-value", tick_text(tick, chart.unit))
    count = len(chart.categories)
    for i in shown_categories(count, size.texts):
        x = _middle(i, count, size)
        below = size.height - size.bottom
        yield (
            f'<line class="chart-zero" x1="{x:.1f}" x2="{x:.1f}" y1="{below}" y2="{below + 4}"/>'
        )
        yield _text(x, below + 18, "chart-time", time_text(chart.categories[i]))
    if count:
        ends = sorted({chart.categories[0][:4], chart.categories[-1][:4]})
        text = f"{chart.period}, UTC, {' to '.join(ends)}"
        yield _text(size.left + size.across / 2, size.height - 4, "chart-time chart-unit", text)


def _bars(chart: Chart, scale: Scale, size: Size) -> Iterator[str]:
    count = len(chart.categories)
    slot = size.across / max(1, count)
    width = max(0.5, min(slot * 0.8, 60.0))
    for i, category in enumerate(chart.categories):
        x = _middle(i, count, size) - width / 2
        above = below = 0.0
        for number, series in enumerate(chart.series):
            value = series.values[i]
            if not value:
                continue  # zero has no height, and unknown is a gap
            amount = value / chart.unit.scale
            begin = above if amount > 0 else below
            ends = _y(begin, scale, size), _y(begin + amount, scale, size)
            if amount > 0:
                above += amount
            else:
                below += amount
            tip = f"{series.name}, {category}: {value_text(value, chart.unit)}"
            yield (
                f'<rect class="series-{number}" x="{x:.1f}" y="{min(ends):.2f}"'
                f' width="{width:.1f}" height="{abs(ends[0] - ends[1]):.2f}">'
                f"<title>{escape(tip)}</title></rect>"
            )
        unknown = [each.name for each in chart.series if each.values[i] is None]
        if unknown:
            y = _y(above, scale, size) - 3
            tip = f"{', '.join(unknown)}, {category}: unknown"
            yield (
                f'<text class="chart-unknown" x="{x + width / 2:.1f}" y="{y:.1f}">?'
                f"<title>{escape(tip)}</title></text>"
            )


def _lines(chart: Chart, scale: Scale, size: Size) -> Iterator[str]:
    count = len(chart.categories)
    for number, series in enumerate(chart.series):
        for run in runs(series.values):
            points = [
                (
                    _middle(i, count, size),
                    _y(_number(series.values[i]) / chart.unit.scale, scale, size),
                )
                for i in run
            ]
            if len(points) > 1:
                path = " ".join(f"{x:.1f},{y:.2f}" for x, y in points)
                yield f'<polyline class="line-{number}" points="{path}"/>'
            for i, (x, y) in zip(run, points, strict=True):
                value = value_text(series.values[i], chart.unit)
                tip = f"{series.name}, {chart.categories[i]}: {value}"
                yield (
                    f'<circle class="series-{number}" cx="{x:.1f}" cy="{y:.2f}" r="2.5">'
                    f"<title>{escape(tip)}</title></circle>"
                )


def runs(values: tuple[Value, ...]) -> list[range]:
    """Returns the stretches of known values: a line is broken where a value is unknown."""
    found: list[range] = []
    for i, value in enumerate(values):
        if value is None:
            continue
        if found and found[-1].stop == i:
            found[-1] = range(found[-1].start, i + 1)
        else:
            found.append(range(i, i + 1))
    return found


def _number(value: Value) -> int | float:
    assert value is not None
    return value


def _middle(i: int, count: int, size: Size) -> float:
    return size.left + (i + 0.5) * size.across / max(1, count)


def _y(value: float, scale: Scale, size: Size) -> float:
    return size.top + (1 - scale.share(value)) * size.up


def _text(x: float, y: float, kind: str, text: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
