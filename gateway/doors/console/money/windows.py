"""The time that a page of money is about, as its address says it, and the periods in it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from gateway.accounting.reports.named_periods import EXAMPLES, named_period, span_s
from gateway.doors.console.problems import Problem

PERIODS = ("hour", "day", "week", "month", "year")
MAX_PERIODS = 20_000
_DAY = timedelta(days=1)
_FINEST = (("hour", 3 * _DAY), ("day", 100 * _DAY), ("week", 800 * _DAY), ("month", 3700 * _DAY))
"""Longest window that is divided by each period, so that a chart has a readable number of them."""
SUGGESTIONS = ("24h", "7d", "30d", "this-month", "last-month", "90d", "365d")


class WindowRequest(Protocol):
    """A request with the fields `from` and `to`."""

    @property
    def to(self) -> Timestamp:
        """The end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Whole hours from `begin` until before `end`, UTC. `text`: as the reader wrote it.
    `has_ended`: whether the end is not after now."""

    begin: datetime
    end: datetime
    text: str
    has_ended: bool

    @property
    def period(self) -> str:
        """The period that suits a chart of the window."""
        span = self.end - self.begin
        return next((name for name, longest in _FINEST if span <= longest), "year")

    @property
    def last_day(self) -> str:
        """The last day in it."""
        return f"{self.end - timedelta(seconds=1):%Y-%m-%d}"

    def put_into(self, request: WindowRequest) -> None:
        """Sets the window of a request. One that still runs goes to now."""
        getattr(request, "from").FromDatetime(self.begin)
        if self.has_ended:
            request.to.FromDatetime(self.end)


def window_of(query: Mapping[str, str], now: datetime, default: str) -> Window:
    """Reads `in`, or `from` and `to` (days, the last one inclusive). Raises Problem."""
    first, last = query.get("from", "").strip(), query.get("to", "").strip()
    if first or last:
        try:
            begin = _day(first) if first else _day(last) - 29 * _DAY
            end = _day(last) + _DAY if last else _hour_after(now)
        except (ValueError, OverflowError):
            text = f"{first[:40]} to {last[:40]}: give days such as 2026-03-07."
            raise Problem(400, "This is no time", text) from None
        text = ""
    else:
        text = query.get("in", "").strip() or default
        begin, end = _named(text, now)
    has_ended, end = end <= now, min(end, _hour_after(now))
    if not begin < end:
        raise Problem(400, "This is no time", "It ends before it begins, or begins after now.")
    return Window(begin=begin, end=end, text=text, has_ended=has_ended)


def periods(period: str, begin: datetime, end: datetime) -> list[str]:
    """Returns the begin of every period that touches a window, as reports name it. Raises Problem
    where there are more than MAX_PERIODS."""
    found = []
    for start in _starts(period, begin, end):
        found.append(_name(period, start))
        if len(found) > MAX_PERIODS:
            text = f"More than {MAX_PERIODS:,} {period}s: choose a longer period."
            raise Problem(400, "This cannot be shown", text)
    return found


def _starts(period: str, begin: datetime, end: datetime) -> Iterator[datetime]:
    at = begin.replace(minute=0, second=0, microsecond=0)
    if period != "hour":
        at = at.replace(hour=0)
    if period == "week":
        at -= at.weekday() * _DAY
    if period in ("month", "year"):
        at = at.replace(day=1)
    if period == "year":
        at = at.replace(month=1)
    while at < end:
        yield at
        at = _next(period, at)


def _next(period: str, at: datetime) -> datetime:
    match period:
        case "hour":
            return at + timedelta(hours=1)
        case "day":
            return at + _DAY
        case "week":
            return at + 7 * _DAY
        case "month":
            return at.replace(year=at.year + at.month // 12, month=at.month % 12 + 1)
    return at.replace(year=at.year + 1)


def _name(period: str, at: datetime) -> str:
    match period:
        case "hour":
            return f"{at:%Y-%m-%dT%H}:00Z"
        case "month":
            return f"{at:%Y-%m}"
        case "year":
            return f"{at:%Y}"
    return f"{at:%Y-%m-%d}"


def _named(text: str, now: datetime) -> tuple[datetime, datetime]:
    try:
        ago_s = span_s(text)
        if ago_s is None:
            return named_period(text, now)
        end = _hour_after(now)
        return max(end - timedelta(seconds=max(ago_s, 3600)), _day("1970-01-01")), end
    except (ValueError, OverflowError):
        fix = f"{text[:40]}: such as 30d, {EXAMPLES}."
        raise Problem(400, "This is no time", fix) from None


def _day(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)


def _hour_after(now: datetime) -> datetime:
    return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
