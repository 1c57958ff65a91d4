"""Periods as people name them: 2026-03-07, 2026-03, 2026-Q1, 2026, this-month, last-month. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_YEAR = re.compile(r"([0-9]{4})\Z")
_QUARTER = re.compile(r"([0-9]{4})-?[qQ]([1-4])\Z")
_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})\Z")
_SPAN = re.compile(r"([0-9]{1,5})([mhdwy])\Z")
_SPAN_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}
EXAMPLES = "2026-03-07, 2026-03, 2026-Q1, 2026, this-month or last-month"


def span_s(text: str) -> int | None:
    """Returns the seconds of a span such as 30d; None: the text is none."""
    match = _SPAN.match(text)
    return None if match is None else int(match[1]) * _SPAN_S[match[2]]


def named_period(text: str, now: datetime) -> tuple[datetime, datetime]:
    """Returns begin and end of a day, month, quarter or year, UTC. Raises ValueError."""
    if text in ("this-month", "last-month"):
        return _months(now.year, now.month - (text == "last-month"), 1)
    if match := _YEAR.match(text):
        return _months(int(match[1]), 1, 12)
    if match := _QUARTER.match(text):
        return _months(int(match[1]), 3 * int(match[2]) - 2, 3)
    if match := _MONTH.match(text):
        return _months(int(match[1]), datetime(2000, int(match[2]), 1).month, 1)
    day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    return day, day + timedelta(days=1)


def _months(year: int, month: int, count: int) -> tuple[datetime, datetime]:
    """Begin and end of some months; month 0 is the last one of the year before."""
    first = 12 * year + month - 1
    ends = [divmod(number, 12) for number in (first, first + count)]
    begin, end = (datetime(y, m + 1, 1, tzinfo=UTC) for y, m in ends)
    return begin, end
