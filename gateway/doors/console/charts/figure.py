"""A chart as a part of a page: the picture in two sizes, a legend, and the figures as a table."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from gateway.doors.console.charts.axes import value_text
from gateway.doors.console.charts.chart import Chart, Form, bounded, known_sum
from gateway.doors.console.charts.drawing import NARROW, WIDE, picture

MAX_TABLE_ROWS = 400


def figure(chart: Chart, identity: str) -> Markup:
    """Returns the markup. `identity`: unique in the page, of letters, digits and hyphens."""
    drawn = bounded(chart)
    return Markup(
        '<figure class="chart" id="{}"><figcaption>{}</figcaption>{}{}{}{}{}</figure>'
    ).format(
        *(identity, chart.title, picture(drawn, WIDE, identity)),
        *(picture(drawn, NARROW, identity), _legend(drawn), _note(drawn.note), _table(chart)),
    )


def _legend(chart: Chart) -> Markup:
    key = Markup(
        '<svg class="chart-key square" viewBox="0 0 14 14" aria-hidden="true">'
        '<rect class="series-{}" width="14" height="14"/></svg>'
    )
    if chart.form is Form.LINE:
        key = Markup(
            '<svg class="chart-key" viewBox="0 0 28 14" aria-hidden="true">'
            '<line class="line-{}" x1="0" x2="28" y1="7" y2="7"/></svg>'
        )
    items = Markup("").join(
        Markup("<li>{}{}</li>").format(key.format(number), series.name)
        for number, series in enumerate(chart.series)
    )
    return Markup('<ul class="chart-legend">{}</ul>').format(items)


def _note(text: str) -> Markup:
    return Markup('<p class="chart-note">{}</p>').format(text) if text else Markup("")


def _table(chart: Chart) -> Markup:
    names = [each.name for each in chart.series]
    stacked = chart.form is Form.BARS and len(names) > 1
    header = Markup("").join(
        Markup('<th scope="col"{}>{}</th>').format(
            Markup("") if number == 0 else Markup(' class="num"'), name
        )
        for number, name in enumerate(
            [f"{chart.period} (UTC)", *names, *(["sum"] if stacked else [])]
        )
    )
    body = Markup("").join(_rows(chart, stacked))
    more = len(chart.categories) - MAX_TABLE_ROWS
    note = _note(f"The last {MAX_TABLE_ROWS:,} of {len(chart.categories):,}." if more > 0 else "")
    return Markup(
        '<details class="chart-table"><summary>Figures: {}</summary><div class="scroll" '
        'tabindex="0" role="region" aria-label="{}"><table><caption>{}, {}</caption><thead>'
        "<tr>{}</tr></thead><tbody>{}</tbody></table></div>{}</details>"
    ).format(
        *(chart.title, chart.title, chart.title, chart.unit.name, header, body, note),
    )


def _rows(chart: Chart, stacked: bool) -> Iterator[Markup]:
    first = max(0, len(chart.categories) - MAX_TABLE_ROWS)
    for i, category in enumerate(chart.categories[first:], first):
        values = [each.values[i] for each in chart.series]
        if stacked:
            values.append(known_sum(values))
        cells = Markup("").join(
            Markup('<td class="num unknown">unknown</td>')
            if value is None
            else Markup('<td class="num">{}</td>').format(value_text(value, chart.unit))
            for value in values
        )
        yield Markup('<tr><th scope="row">{}</th>{}</tr>').format(category, cells)
