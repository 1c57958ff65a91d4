"""Instants, spans and daily windows of price rows."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounting.prices.row_time import in_window, minutes, next_edge, span, unix_s
from gateway.config.price_rows import ShowbackRow, TokenPrices, Weekday, Window

PRICES = TokenPrices(input="1", output="2")
CLOCKS = st.integers(0, 1440).map(lambda m: f"{m // 60:02}:{m % 60:02}")


def test_a_date_is_its_midnight_and_an_instant_its_minute() -> None:
    assert unix_s("2026-11-23") == datetime(2026, 11, 23, tzinfo=UTC).timestamp()
    assert unix_s("2026-11-23T07:30Z") == datetime(2026, 11, 23, 7, 30, tzinfo=UTC).timestamp()
    with pytest.raises(ValueError, match="day is out of range"):
        unix_s("2026-02-30")
    assert (minutes("00:00"), minutes("07:05"), minutes("24:00")) == (0, 425, 1440)


def test_a_row_without_an_end_is_valid_for_ever() -> None:
    row = ShowbackRow(
        id="row",
        valid_from="1970-01-02",
        checked_at="2026-01-01",
        source="x",
        pool="own",
        usd_per_mtok=PRICES,
    )
    assert span(row) == (86_400, math.inf)


@given(
    start=CLOCKS,
    end=CLOCKS,
    days=st.sets(st.sampled_from(Weekday), min_size=1),
    at_s=st.integers(0, 10 * 86_400),
)
def test_windows_follow_the_calendar_and_change_only_at_their_edges(
    start: str, end: str, days: set[Weekday], at_s: int
) -> None:
    window = Window(name="w", days=tuple(days), start=start, end=end, usd_per_mtok=PRICES)
    when = datetime.fromtimestamp(at_s, UTC)
    clock = f"{when:%H:%M}"
    today = list(Weekday)[when.weekday()]
    assert in_window(window, at_s) == (today in days and start <= clock < end)
    edge = next_edge(window, at_s)
    assert at_s < edge <= at_s + 86_400
    # Nothing changes before the edge but at midnight, where the weekday does.
    midnight = (at_s // 86_400 + 1) * 86_400
    last = min(edge, midnight) - 1
    assert in_window(window, last) == in_window(window, at_s)
