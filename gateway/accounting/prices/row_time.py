"""Instants and windows of price rows as Unix seconds."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from gateway.config.price_rows import Validity, Weekday, Window

DAY_S = 86_400
DAY_MINUTES = 1440
_WEEKDAYS = tuple(Weekday)
_EPOCH_WEEKDAY = 3
"""1 January 1970 was a Thursday."""


def unix_s(instant: str) -> int:
    """Unix seconds of a date (its midnight UTC) or an instant. Raises ValueError."""
    form = "%Y-%m-%dT%H:%MZ" if "T" in instant else "%Y-%m-%d"
    return int(datetime.strptime(instant, form).replace(tzinfo=UTC).timestamp())


def span(row: Validity) -> tuple[int, float]:
    """First second of a row, and the one after its last."""
    return unix_s(row.valid_from), math.inf if row.valid_to is None else unix_s(row.valid_to)


def minutes(clock: str) -> int:
    """Minutes since midnight of HH:MM."""
    hours, _, rest = clock.partition(":")
    return int(hours) * 60 + int(rest)


def in_window(window: Window, at_s: float) -> bool:
    """Whether a window is open."""
    day, second = divmod(math.floor(at_s), DAY_S)
    weekday = _WEEKDAYS[(day + _EPOCH_WEEKDAY) % 7]
    return (
        weekday in window.days and minutes(window.start) * 60 <= second < minutes(window.end) * 60
    )


def next_edge(window: Window, at_s: float) -> int:
    """The first instant after `at_s` at which a window may open or close."""
    midnight = math.floor(at_s) // DAY_S * DAY_S
    edges = [minutes(window.start) * 60, minutes(window.end) * 60]
    return min(
        midnight + day * DAY_S + e
        for day in (0, 1)
        for e in edges
        if midnight + day * DAY_S + e > at_s
    )
