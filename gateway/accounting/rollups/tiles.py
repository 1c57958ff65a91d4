"""Divides a window into whole months, days and hours, and the rest at its edges. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway.accounting.rollups.calendar import DAY_HOURS, HOUR_US, day_of, month_of, next_month
from gateway.accounting.rollups.columns import Span

LAST_HOUR = month_of(253_402_300_799 // 3600)
"""Begin of the last month that a date can name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Consecutive periods of one span, in hours since 1970; the end is not in it."""

    span: Span
    from_hour: int
    to_hour: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """A window: sums of whole periods, in the order of time, and ranges of single rows in
    microseconds."""

    whole: tuple[Tile, ...]
    edges: tuple[tuple[int, int], ...]

    @property
    def whole_us(self) -> tuple[int, int]:
        """The time of the whole periods; empty where there are none."""
        if not self.whole:
            return 0, 0
        return self.whole[0].from_hour * HOUR_US, self.whole[-1].to_hour * HOUR_US


def tiles(from_us: int, to_us: int, finest: Span, coarsest: Span) -> Tiles:
    """Divides a window. It uses spans from `finest` to `coarsest`."""
    to_hour = min(to_us // HOUR_US, LAST_HOUR)
    whole = tuple(_whole(-(-from_us // HOUR_US), to_hour, finest, coarsest))
    if not whole:
        return Tiles(whole=(), edges=((from_us, to_us),))
    first_us, last_us = whole[0].from_hour * HOUR_US, whole[-1].to_hour * HOUR_US
    edges = tuple((a, b) for a, b in ((from_us, first_us), (last_us, to_us)) if a < b)
    return Tiles(whole=whole, edges=edges)


def _whole(from_hour: int, to_hour: int, finest: Span, coarsest: Span) -> Iterator[Tile]:
    """The tiles of whole hours: the coarsest in the middle, finer ones before and after."""
    if from_hour >= to_hour:
        return
    if coarsest is Span.HOUR:
        yield Tile(span=Span.HOUR, from_hour=from_hour, to_hour=to_hour)
        return
    finer = Span(coarsest - 1)
    first, last = _inner(from_hour, to_hour, coarsest)
    if first >= last:
        if finest < coarsest:
            yield from _whole(from_hour, to_hour, finest, finer)
        return
    if finest < coarsest:
        yield from _whole(from_hour, first, finest, finer)
    yield Tile(span=coarsest, from_hour=first, to_hour=last)
    if finest < coarsest:
        yield from _whole(last, to_hour, finest, finer)


def _inner(from_hour: int, to_hour: int, span: Span) -> tuple[int, int]:
    """Begin of the first and end of the last whole period within these hours."""
    if span is Span.DAY:
        return -(-from_hour // DAY_HOURS) * DAY_HOURS, day_of(to_hour)
    begin = month_of(from_hour)
    return begin if begin == from_hour else next_month(from_hour), month_of(to_hour)
