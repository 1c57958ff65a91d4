"""Axes of charts: ticks that hold every value, and texts that a reader understands."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.doors.console.charts.axes import (
    nice_ticks,
    scale_of,
    shown_categories,
    tick_text,
    time_text,
    value_text,
)
from gateway.doors.console.charts.chart import TOKENS, USD, Form
from tests.gateway.doors.console.charts.drawn import chart

ENDS = st.floats(min_value=0.0, max_value=1e15, allow_nan=False)


@given(ENDS, ENDS, st.integers(min_value=3, max_value=12))
def test_ticks_hold_all_values_in_even_steps(below: float, high: float, most: int) -> None:
    ticks = nice_ticks(-below, high, most)
    assert ticks[0] <= Decimal(-below)
    assert ticks[-1] >= Decimal(high)
    assert Decimal(0) in ticks
    assert 2 <= len(ticks) <= most
    steps = {b - a for a, b in pairwise(ticks)}
    assert len(steps) == 1
    assert steps.pop().normalize().as_tuple().digits in ((1,), (2,), (5,))


def test_ticks_are_not_much_higher_than_the_values() -> None:
    assert nice_ticks(0.0, 9.3, 6) == tuple(map(Decimal, (0, 2, 4, 6, 8, 10)))
    assert nice_ticks(-3.0, 9.3, 6) == tuple(map(Decimal, (-5, 0, 5, 10)))
    assert nice_ticks(0.0, 0.0, 6) == (Decimal(0), Decimal(1))


def test_the_axis_of_stacked_bars_holds_their_heights() -> None:
    stacked = chart((3 * 10**9, -(10**9)), (4 * 10**9, None))
    scale = scale_of(stacked, 6)
    assert scale.high >= 7
    assert scale.low <= -1
    side_by_side = chart((3 * 10**9, None), (4 * 10**9, 0), form=Form.LINE)
    assert 4 <= scale_of(side_by_side, 6).high < 7


@pytest.mark.parametrize(
    ("tick", "usd", "tokens"),
    [
        ("0", "$0", "0"),
        ("0.05", "$0.05", "0.05"),
        ("0.5", "$0.50", "0.5"),
        ("0.0025", "$0.0025", "0.0025"),
        ("1200", "$1,200", "1.2k"),
        ("40000000", "$40M", "40M"),
        ("-5", "-$5", "-5"),
    ],
)
def test_ticks_read_short_and_exact(tick: str, usd: str, tokens: str) -> None:
    assert tick_text(Decimal(tick), USD) == usd
    assert tick_text(Decimal(tick), TOKENS) == tokens


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [
        (None, ""),
        (0, "$0.00"),
        (1_234_567_890_000, "$1,234.57"),
        (12_345_678, "$0.0123"),
        (999_999_999, "$1.000"),
        (1, "$0.000000001"),
        (-500_000_000, "-$0.500"),
    ],
)
def test_money_is_dollars_and_unknown_is_blank(nano_usd: int | None, text: str) -> None:
    assert value_text(nano_usd, USD) == text


@pytest.mark.parametrize(
    ("category", "text"),
    [
        ("2026-10-05T13:00Z", "5 Oct 13h"),
        ("2026-10-05", "5 Oct"),
        ("2026-10", "Oct 2026"),
        ("2026", "2026"),
        ("own/a", "own/a"),
    ],
)
def test_times_read_short(category: str, text: str) -> None:
    assert time_text(category) == text


@given(st.integers(min_value=0, max_value=500), st.integers(min_value=1, max_value=20))
def test_never_more_texts_than_fit(count: int, most: int) -> None:
    shown = shown_categories(count, most)
    assert len(shown) <= most
    assert not count or shown[0] == 0
