"""Hours, days and calendar months of UTC, as whole hours since 1970. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

HOUR_US = 3_600_000_000
DAY_HOURS = 24
_THURSDAY_DAYS = 3
"""1970-01-01 was a Thursday: weeks begin three days earlier."""


def month_of(hour: int) -> int:
    """First hour of the month that an hour is in."""
    at = datetime.fromtimestamp(hour * 3600, UTC)
    return _hour(datetime(at.year, at.month, 1, tzinfo=UTC))


def next_month(hour: int) -> int:
    """First hour of the month after the one that an hour is in."""
    at = datetime.fromtimestamp(hour * 3600, UTC)
    year, month = (at.year, at.month + 1) if at.month < 12 else (at.year + 1, 1)
    return _hour(datetime(year, month, 1, tzinfo=UTC))


def day_of(hour: int) -> int:
    """First hour of the day that an hour is in."""
    return hour - hour % DAY_HOURS


def week_number(day: int) -> int:
    """Number of the week, from Monday, that a day (days since 1970) is in."""
    return (day + _THURSDAY_DAYS) // 7


def week_start(week: int) -> int:
    """First hour of a week of `week_number`."""
    return (week * 7 - _THURSDAY_DAYS) * DAY_HOURS


def months(from_hour: int, to_hour: int) -> Iterator[tuple[int, int]]:
    """Begin and end of every month that touches these hours, in order."""
    at = month_of(from_hour)
    while at < to_hour:
        end = next_month(at)
        yield at, end
        at = end


def years(from_hour: int, to_hour: int) -> Iterator[tuple[int, int]]:
    """Begin and end of every year that touches these hours, in order."""
    year = datetime.fromtimestamp(from_hour * 3600, UTC).year
    while (begin := _hour(datetime(year, 1, 1, tzinfo=UTC))) < to_hour:
        year += 1
        yield begin, _hour(datetime(year, 1, 1, tzinfo=UTC))


def iso(hour: int) -> str:
    """ISO 8601 of an hour, without its offset."""
    return datetime.fromtimestamp(hour * 3600, UTC).isoformat()[:19]


def _hour(at: datetime) -> int:
    return int(at.timestamp()) // 3600
