"""The month so far, the one before, and what is to be expected of the month and of budgets."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from gateway.accounting.ledger.budgets import standings
from gateway.accounting.ledger.database import Tx
from gateway.accounting.ledger.queries import Selection
from gateway.accounting.reports.forecast import DAY_S, PROFILE_DAYS, WeekProfile, week_profile
from gateway.accounting.rollups.calendar import HOUR_US, month_of, next_month
from gateway.accounting.rollups.spend import Group, Order, Spend, spend
from scheduler.budgets.budget import Budget

MOST_ROWS = 50_000
_EPOCH = datetime.date(1970, 1, 1).toordinal()


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetOutlook:
    """How a budget will end. None: not known; `reached_unix_s`: None, too, where it is not reached
    in its period."""

    budget: Budget
    spent_nano_usd: int
    ends_unix_s: int
    forecast_nano_usd: int | None
    reached_unix_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """See `read_outlook`; forecasts are None where too few days are known."""

    month_to_date: Spend
    last_month_to_date: Spend
    last_month: Spend
    forecast_charged_nano_usd: int | None
    forecast_metered_nano_usd: int | None
    budgets: tuple[BudgetOutlook, ...]


async def read_outlook(
    tx: Tx, selection: Selection, budgets: Iterable[Budget], now_s: float
) -> Outlook:
    """The outlook of a tenant or key, whose window in `selection` is not read."""
    hour = int(now_s // 3600)
    begin, end = month_of(hour), next_month(hour)
    before = month_of(begin - 1)
    same = min(begin, before + (hour + 1 - begin))
    sums = {}
    for name, first, last in (
        ("month", begin, end),
        ("to_date", before, same),
        ("last", before, begin),
    ):
        window = replace(selection, from_us=first * HOUR_US, to_us=last * HOUR_US)
        [sums[name]] = await spend(tx, window, (), Order.GROUP, 1)
    today = int(now_s // DAY_S)
    window = replace(
        selection,
        from_us=(today - PROFILE_DAYS) * 24 * HOUR_US,
        to_us=today * 24 * HOUR_US,
    )
    rows = await spend(tx, window, (Group.DAY, Group.TENANT, Group.KEY), Order.GROUP, MOST_ROWS)
    charged: dict[tuple[str, str], dict[int, int]] = defaultdict(lambda: defaultdict(int))
    metered: dict[int, int] = defaultdict(int)
    for row in rows:
        day, (_, tenant, key_id) = _day(row.group[0]), row.group
        metered[day] += row.metered_nano_usd
        for whose in ((tenant, key_id), (tenant, ""), ("", "")):
            charged[whose][day] += row.charged_nano_usd
    all_charged = week_profile(charged["", ""], today)
    all_metered = week_profile(metered, today)
    month_ends_s = end * 3600.0
    return Outlook(
        month_to_date=sums["month"],
        last_month_to_date=sums["to_date"],
        last_month=sums["last"],
        forecast_charged_nano_usd=_forecast(
            sums["month"].charged_nano_usd, all_charged, now_s, month_ends_s
        ),
        forecast_metered_nano_usd=_forecast(
            sums["month"].metered_nano_usd, all_metered, now_s, month_ends_s
        ),
        budgets=tuple(
            [
                await _budget(tx, budget, _profile(budget, selection, charged, today), now_s)
                for budget in budgets
                if not budget.each_session
            ]
        ),
    )


def _profile(
    budget: Budget,
    selection: Selection,
    charged: Mapping[tuple[str, str], Mapping[int, int]],
    today: int,
) -> WeekProfile | None:
    """The profile of who spends from a budget; None, too, where only one key of many was read."""
    if selection.key_id and not budget.key_id:
        return None
    return week_profile(charged.get((budget.tenant, budget.key_id), {}), today)


async def _budget(
    tx: Tx, budget: Budget, profile: WeekProfile | None, now_s: float
) -> BudgetOutlook:
    [standing] = await standings(tx, budget)
    spent, ends_s = standing.settled_nano_usd, standing.window.ends_unix_s
    reached_s = None
    if profile is not None:
        reached_s = profile.reached(budget.cap_nano_usd - spent, now_s, ends_s)
    elif spent >= budget.cap_nano_usd:
        reached_s = now_s
    return BudgetOutlook(
        budget=budget,
        spent_nano_usd=spent,
        ends_unix_s=ends_s,
        forecast_nano_usd=_forecast(spent, profile, now_s, ends_s),
        reached_unix_s=reached_s,
    )


def _forecast(spent: int, profile: WeekProfile | None, now_s: float, ends_s: float) -> int | None:
    return None if profile is None else spent + profile.between(now_s, ends_s)


def _day(date: str) -> int:
    """Days since 1970 of a date."""
    return datetime.date.fromisoformat(date).toordinal() - _EPOCH
