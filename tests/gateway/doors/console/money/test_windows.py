"""Times that pages of money are about."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.doors.console.money.windows import PERIODS, periods, window_of
from gateway.doors.console.problems import Problem

NOW = datetime(2026, 1, 15, 12, 30, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@pytest.mark.parametrize(
    ("query", "begin", "end", "period"),
    [
        ({}, "2025-12-16T13", "2026-01-15T13", "day"),
        ({"in": "24h"}, "2026-01-14T13", "2026-01-15T13", "hour"),
        ({"in": "this-month"}, "2026-01-01T00", "2026-01-15T13", "day"),
        ({"in": "2025"}, "2025-01-01T00", "2026-01-01T00", "week"),
        ({"in": "2025-Q4"}, "2025-10-01T00", "2026-01-01T00", "day"),
        ({"from": "2025-03-01", "to": "2025-03-31"}, "2025-03-01T00", "2025-04-01T00", "day"),
        ({"from": "2016-01-01"}, "2016-01-01T00", "2026-01-15T13", "month"),
        ({"to": "2025-03-30", "in": "7d"}, "2025-03-01T00", "2025-03-31T00", "day"),
    ],
)
def test_a_window_is_whole_hours(query: dict[str, str], begin: str, end: str, period: str) -> None:
    window = window_of(query, NOW, "30d")
    assert (f"{window.begin:%Y-%m-%dT%H}", f"{window.end:%Y-%m-%dT%H}") == (begin, end)
    assert window.period == period
    assert window.has_ended == (window.end <= NOW)


@pytest.mark.parametrize("text", ["soon", "2026-13", "0000", "9999", "99999y", "-1d"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(Problem) as caught:
        window_of({"in": text}, NOW, "30d")
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "query", [{"from": "2026-02-01"}, {"from": "2099-01-01", "to": "2099-12-31"}]
)
def test_a_window_does_not_begin_after_now(query: dict[str, str]) -> None:
    with pytest.raises(Problem, match="begins after now"):
        window_of(query, NOW, "30d")


@given(MOMENTS, st.timedeltas(timedelta(hours=1), timedelta(days=300)), st.sampled_from(PERIODS))
def test_periods_cover_the_window_once(begin: datetime, span: timedelta, period: str) -> None:
    end = begin + span
    found = periods(period, begin, end)
    assert found == sorted(set(found))
    starts = [_start(name) for name in found]
    assert starts[0] <= begin
    assert all(begin < start < end for start in starts[1:])


def _start(name: str) -> datetime:
    padded = {4: f"{name}-01-01", 7: f"{name}-01"}.get(len(name), name)
    return datetime.fromisoformat(padded.replace("Z", "")).replace(tzinfo=UTC)


def test_there_are_not_too_many_periods() -> None:
    with pytest.raises(Problem) as caught:
        periods("hour", datetime(1970, 1, 1, tzinfo=UTC), NOW)
    assert "choose a longer period" in caught.value.text
