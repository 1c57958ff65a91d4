"""Pictures: heights are values, unknown is a gap, and texts of others are never markup."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.doors.console.charts.axes import scale_of
from gateway.doors.console.charts.chart import (
    MAX_POINTS,
    MAX_SERIES,
    USD,
    Chart,
    Form,
    Series,
    bounded,
)
from gateway.doors.console.charts.drawing import NARROW, WIDE, description, runs
from tests.gateway.doors.console.charts.drawn import chart, elements, of_class, page_part

VALUE = st.one_of(st.none(), st.integers(min_value=-(10**12), max_value=10**15))
TEXT = st.text(st.characters(codec="utf-8", categories=["L", "P", "S", "Zs"]), max_size=20)
SVG = "{http://www.w3.org/2000/svg}"


@st.composite
def charts(draw: st.DrawFn) -> Chart:
    count = draw(st.integers(min_value=0, max_value=8))
    column = st.lists(VALUE, min_size=count, max_size=count).map(tuple)
    many = draw(st.lists(column, min_size=1, max_size=4))
    names = tuple(draw(TEXT) for _ in many)
    return chart(*many, form=draw(st.sampled_from(Form)), names=names)


@given(charts())
def test_any_chart_is_well_formed_and_has_no_styles(drawn: Chart) -> None:
    root = page_part(drawn)
    for element in root.iter():
        assert "style" not in element.attrib
        assert not [name for name in element.attrib if name.startswith("on")]
        assert element.tag not in ("script", "style", "foreignObject")
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    pictures = of_class(root, "chart-picture")
    assert len(pictures) == 2
    for each in pictures:
        named = (each.get("aria-labelledby") or "").split()
        assert each.get("role") == "img"
        assert set(named) <= set(ids)
        assert len(named) == 2


@given(charts())
def test_every_known_value_is_drawn_to_scale_inside_the_picture(drawn: Chart) -> None:
    scale = scale_of(drawn, WIDE.ticks)
    root = elements(drawn, WIDE)
    for number, series in enumerate(drawn.series):
        marks = of_class(root, f"series-{number}")
        known = [value for value in series.values if value is not None]
        if drawn.form is Form.LINE:
            assert len(marks) == len(known)
            for mark, value in zip(marks, known, strict=True):
                y = float(mark.attrib["cy"])
                share = scale.share(value / USD.scale)
                assert y == pytest.approx(WIDE.top + (1 - share) * WIDE.up, abs=0.02)
                assert WIDE.top - 0.01 <= y <= WIDE.top + WIDE.up + 0.01
        else:
            heights = [float(mark.attrib["height"]) for mark in marks]
            unit = WIDE.up / (scale.high - scale.low)
            wanted = [abs(value) / USD.scale * unit for value in known if value]
            assert heights == pytest.approx(wanted, abs=0.02)
            for mark in marks:
                top = float(mark.attrib["y"])
                assert WIDE.top - 0.01 <= top
                assert top + float(mark.attrib["height"]) <= WIDE.top + WIDE.up + 0.03


def test_unknown_is_a_gap_and_zero_is_not() -> None:
    lines = elements(chart((10**9, None, 0, 10**9), form=Form.LINE), WIDE)
    assert len(of_class(lines, "series-0")) == 3
    [line] = of_class(lines, "line-0")
    assert len(line.attrib["points"].split()) == 2, "the line of one point is no line"
    bars = elements(chart((10**9, None, 0)), WIDE)
    assert len(of_class(bars, "series-0")) == 1
    [mark] = of_class(bars, "chart-unknown")
    assert mark.text == "?"
    assert "unknown" in "".join(mark.itertext())


@given(st.lists(VALUE).map(tuple))
def test_runs_are_the_known_values(values: tuple[int | None, ...]) -> None:
    found = runs(values)
    assert [i for run in found for i in run] == [
        i for i, value in enumerate(values) if value is not None
    ]
    assert all(a.stop < b.start for a, b in pairwise(found))


def test_a_chart_has_no_more_points_than_can_be_told_apart() -> None:
    long = chart(tuple(range(MAX_POINTS * 3)))
    small = bounded(long)
    assert small.categories == long.categories[-MAX_POINTS:]
    assert small.series[0].values == long.series[0].values[-MAX_POINTS:]
    assert f"{MAX_POINTS} of {MAX_POINTS * 3}" in small.note
    assert len(of_class(page_part(long), "chart-wide")[0].findall("rect")) <= MAX_POINTS


def test_series_above_the_bound_become_one_of_stacked_bars() -> None:
    many = [(10**i, None if i == 8 else 1) for i in range(MAX_SERIES + 4)]
    stacked = bounded(chart(*many))
    assert len(stacked.series) == MAX_SERIES
    rest = stacked.series[-1]
    assert rest.name == "5 others"
    assert rest.values == (sum(10**i for i in range(MAX_SERIES - 1, MAX_SERIES + 4)), None)
    lines = bounded(chart(*many, form=Form.LINE))
    assert [each.name for each in lines.series] == [f"series {i}" for i in range(MAX_SERIES)]
    assert f"{MAX_SERIES} of {MAX_SERIES + 4}" in lines.note


def test_the_table_has_every_figure() -> None:
    root = page_part(chart((10**9, None), (2 * 10**9, 5), names=("own", "<idle>")))
    cells = [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]
    assert cells == [
        ["day (UTC)", "own", "<idle>", "sum"],
        ["2026-10-01", "$1.00", "$2.00", "$3.00"],
        ["2026-10-02", "unknown", "$0.000000005", "unknown"],
    ]


def test_the_description_says_what_the_picture_shows() -> None:
    text = description(chart((10**9, None), names=("own",)))
    assert "USD by day, 2026-10-01 to 2026-10-02 UTC, of own" in text
    assert "$1.00" in text
    assert "1 value is unknown" in text
    assert description(chart()) == "There are no figures."


def test_a_narrow_picture_has_texts_that_fit() -> None:
    texts = of_class(elements(chart(tuple(range(30))), NARROW), "chart-time")
    assert len(texts) <= NARROW.texts + 1


def test_series_and_categories_must_match() -> None:
    with pytest.raises(ValueError, match="own: 1 values, 2 categories"):
        Chart(
            title="",
            form=Form.BARS,
            unit=USD,
            period="day",
            categories=("2026-10-01", "2026-10-02"),
            series=(Series(name="own", values=(1,)),),
        )
