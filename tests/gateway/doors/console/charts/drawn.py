"""Charts for tests, and their markup as elements."""

from __future__ import annotations

from xml.etree import ElementTree

from gateway.doors.console.charts.chart import USD, Chart, Form, Series, Unit, Value
from gateway.doors.console.charts.drawing import Size, picture
from gateway.doors.console.charts.figure import figure


def chart(
    *series: tuple[Value, ...],
    form: Form = Form.BARS,
    unit: Unit = USD,
    names: tuple[str, ...] = (),
) -> Chart:
    """A chart of days of October."""
    count = len(series[0]) if series else 0
    return Chart(
        title="Cost by day",
        form=form,
        unit=unit,
        period="day",
        categories=tuple(f"2026-10-{1 + i:02}" for i in range(count)),
        series=tuple(
            Series(name=names[i] if names else f"series {i}", values=values)
            for i, values in enumerate(series)
        ),
    )


def elements(drawn: Chart, size: Size) -> ElementTree.Element:
    """The picture of a chart. It must be well-formed XML, which is stricter than HTML."""
    return ElementTree.fromstring(str(picture(drawn, size, "x")))


def page_part(drawn: Chart) -> ElementTree.Element:
    """The whole figure."""
    return ElementTree.fromstring(str(figure(drawn, "x")))


def of_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    """Elements with a class."""
    return [each for each in root.iter() if name in (each.get("class") or "").split()]
