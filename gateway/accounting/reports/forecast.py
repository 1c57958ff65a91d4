"""What will be spent, from what was spent on each day. Pure.

A day to come is expected to bring the mean of the same weekday over the last four weeks, spread
evenly over its hours. A weekday that was not seen yet has the mean of all days. With fewer than
`LEAST_DAYS` whole days nothing is forecast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DAY_S = 86_400
PROFILE_DAYS = 28
LEAST_DAYS = 3
_WEEK = 7


@dataclass(frozen=True, slots=True)
class WeekProfile:
    """Expected spend of a day, by weekday (days since 1970 modulo 7), in nano-USD."""

    by_weekday: tuple[int, ...]

    def between(self, from_s: float, to_s: float) -> int:
        """Expected spend of a time, in Unix seconds."""
        total = 0.0
        for day, seconds in _days(from_s, to_s):
            total += self.by_weekday[day % _WEEK] * seconds / DAY_S
        return round(total)

    def reached(self, left_nano_usd: int, from_s: float, to_s: float) -> float | None:
        """When an amount will have been spent, in Unix seconds; None: not before `to_s`."""
        if left_nano_usd <= 0:
            return from_s
        left, at_s = float(left_nano_usd), from_s
        for day, seconds in _days(from_s, to_s):
            daily = self.by_weekday[day % _WEEK]
            brings = daily * seconds / DAY_S
            if brings >= left:
                return at_s + left / daily * DAY_S
            left -= brings
            at_s += seconds
        return None


def week_profile(spent: Mapping[int, int], today: int) -> WeekProfile | None:
    """The profile by the spend of days (since 1970), today left out; None: too few days are known.

    Days before the first with spend do not count: nobody used the gateway then.
    """
    first = min((day for day in spent if day < today), default=today)
    first = max(first, today - PROFILE_DAYS)
    days = range(first, today)
    if len(days) < LEAST_DAYS:
        return None
    mean = sum(spent.get(day, 0) for day in days) // len(days)
    by_weekday = []
    for weekday in range(_WEEK):
        same = [spent.get(day, 0) for day in days if day % _WEEK == weekday]
        by_weekday.append(sum(same) // len(same) if same else mean)
    return WeekProfile(tuple(by_weekday))


def _days(from_s: float, to_s: float) -> list[tuple[int, float]]:
    """Days since 1970 that a time touches, and how much of each, in seconds."""
    found = []
    at_s = from_s
    while at_s < to_s:
        day = int(at_s // DAY_S)
        end_s = min(to_s, (day + 1) * DAY_S)
        found.append((day, end_s - at_s))
        at_s = end_s
    return found
