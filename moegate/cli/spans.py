"""Windows of reports as people type them: 30d, 2026-03, 2026-Q1, 2026, or two times."""

from __future__ import annotations

import argparse
import re
import time
from datetime import UTC, datetime
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

_SPAN = re.compile(r"([0-9]{1,5})([mhdwy])\Z")
_SPAN_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 365 * 86_400}
_YEAR = re.compile(r"([0-9]{4})\Z")
_QUARTER = re.compile(r"([0-9]{4})-?[qQ]([1-4])\Z")
_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})\Z")
HOUR_S = 3600


class WindowRequest(Protocol):
    """A request with the fields `from` and `to`."""

    @property
    def to(self) -> Timestamp:
        """The end."""


def add_window_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares --since, --until and --in."""
    parser.add_argument(
        "--since", type=parse_time, metavar="WHEN", help="30d, 12h, or 2026-11-01 (30 days ago)"
    )
    parser.add_argument("--until", type=parse_time, metavar="WHEN", help="the same (now)")
    parser.add_argument(
        "--in",
        dest="within",
        type=parse_period,
        metavar="PERIOD",
        help="a day, month, quarter or year in place of both: 2026-03-07, 2026-03, 2026-Q1, 2026;"
        " this-month, last-month",
    )


def set_window(
    request: WindowRequest, args: argparse.Namespace, *, whole_hours: bool = False
) -> None:
    """Sets `from` and `to` of a request from the arguments. `whole_hours`: a time since which, or
    until when, is moved to the hour that it is in."""
    since_s, until_s = args.within or (args.since, args.until)
    for name, unix_s in (("from", since_s), ("to", until_s)):
        if unix_s is not None:
            if whole_hours:
                unix_s -= unix_s % HOUR_S
            getattr(request, name).FromMicroseconds(round(unix_s * 1e6))


def parse_time(text: str) -> float:
    """Parses a time, such as 30d (30 days ago) or a date or time in UTC. Returns Unix seconds."""
    if match := _SPAN.match(text):
        return time.time() - int(match[1]) * _SPAN_S[match[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            "such as 30d, 12h, 2026-11-01 or 2026-11-01T12:00"
        ) from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def parse_period(text: str) -> tuple[float, float | None]:
    """Parses a day, month, quarter or year. Returns its begin and end in Unix seconds; the end of
    a period that still runs is None, which is now."""
    begin, end = _period(text)
    until_s = end.timestamp()
    return begin.timestamp(), until_s if until_s <= time.time() else None


def _period(text: str) -> tuple[datetime, datetime]:
    now = datetime.fromtimestamp(time.time(), UTC)
    try:
        if text in ("this-month", "last-month"):
            year, month = now.year, now.month - (text == "last-month")
            return _months(year, month, 1)
        if match := _YEAR.match(text):
            return _months(int(match[1]), 1, 12)
        if match := _QUARTER.match(text):
            return _months(int(match[1]), 3 * int(match[2]) - 2, 3)
        if match := _MONTH.match(text):
            return _months(int(match[1]), datetime(2000, int(match[2]), 1).month, 1)
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text}: such as 2026-03-07, 2026-03, 2026-Q1, 2026, this-month or last-month"
        ) from None
    return day, datetime.fromtimestamp(day.timestamp() + 86_400, UTC)


def _months(year: int, month: int, count: int) -> tuple[datetime, datetime]:
    """Begin and end of some months; month 0 is the last one of the year before."""
    first = 12 * year + month - 1
    ends = [divmod(number, 12) for number in (first, first + count)]
    begin, end = (datetime(y, m + 1, 1, tzinfo=UTC) for y, m in ends)
    return begin, end
