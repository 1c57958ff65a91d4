"""The periods of budgets: hours, days and calendar months, all of UTC."""

from __future__ import annotations

import enum
from dataclasses import dataclass

HOUR_S = 3600
DAY_S = 86_400


class Period(enum.StrEnum):
    """Length of a budget's window; a new window starts with nothing spent."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One hour, day or month: from `starts_unix_s` until before `ends_unix_s`."""

    period: Period
    starts_unix_s: int
    ends_unix_s: int


def window_at(period: Period, unix_s: float) -> Window:
    """The window that holds a time since the epoch."""
    match period:
        case Period.HOUR:
            starts = int(unix_s // HOUR_S) * HOUR_S
            ends = starts + HOUR_S
        case Period.DAY:
            starts = int(unix_s // DAY_S) * DAY_S
            ends = starts + DAY_S
        case Period.MONTH:
            year, month = _month(int(unix_s // DAY_S))
            starts = _days(year, month) * DAY_S
            ends = _days(year + month // 12, month % 12 + 1) * DAY_S
    return Window(period=period, starts_unix_s=starts, ends_unix_s=ends)


def _days(year: int, month: int) -> int:
    """Days from 1970-01-01 to the first of a month of the Gregorian calendar.

    Years are counted from March, so that the leap day comes last, in eras of 400 years, which
    always have 146,097 days.
    """
    shifted = year - (month <= 2)
    era, of_era = divmod(shifted, 400)
    of_year = (153 * ((month + 9) % 12) + 2) // 5
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def _month(days: int) -> tuple[int, int]:
    """Year and month of a day since 1970-01-01: the inverse of `_days`."""
    era, of_era = divmod(days + 719_468, 146_097)
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    from_march = (5 * of_year + 2) // 153
    month = from_march + 3 if from_march < 10 else from_march - 9
    return era * 400 + year_of_era + (month <= 2), month
