"""Statements of windows, read from the database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.accounting.ledger.database import Tx
from gateway.accounting.ledger.queries import Selection
from gateway.accounting.reports.overflow import ModelOverflow, ModelUse, overflow
from gateway.accounting.reports.statement import SharingRule, Statement, Use, statement
from gateway.accounting.rollups.calendar import HOUR_US
from gateway.accounting.rollups.pool_bills import PoolBill, pool_bills
from gateway.accounting.rollups.spend import Group, Order, Spend, spend

MOST_LINES = 20_000


class TooManyLines(Exception):
    """The statement has more lines than are sent; the text says what to ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementQuery:
    """A window of whole hours since 1970. `groups`: whose lines; `period`: a time to divide the
    window by; `weights`: of the first group's values, for `SharingRule.BY_WEIGHT`."""

    from_hour: int
    to_hour: int
    groups: Sequence[Group] = (Group.TENANT,)
    period: Group | None = None
    rule: SharingRule = SharingRule.NONE
    weights: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodStatement:
    """A statement, and the bills of its pools. `period`: as spend names it; "": the window."""

    period: str
    bills: tuple[PoolBill, ...]
    statement: Statement
    overflow: tuple[ModelOverflow, ...]


async def window_statement(tx: Tx, query: StatementQuery) -> list[PeriodStatement]:
    """The statements of a window, by period. Raises WindowTooFine and TooManyLines."""
    bills = await pool_bills(tx, query.from_hour, query.to_hour, query.period)
    window = Selection(from_us=query.from_hour * HOUR_US, to_us=query.to_hour * HOUR_US)
    before = () if query.period is None else (query.period,)
    by_pool = [group for group in query.groups if group is not Group.POOL]
    rows = await spend(tx, window, (*before, *by_pool, Group.POOL), Order.GROUP, MOST_LINES + 1)
    if len(rows) > MOST_LINES:
        raise TooManyLines(f"more than {MOST_LINES:,} lines: group by less, or by a longer time")
    models = await _models(tx, window, before)
    return await tx.computed(lambda: _closed(query, by_pool, bills, rows, models))


def _closed(
    query: StatementQuery,
    by_pool: Sequence[Group],
    bills: Sequence[PoolBill],
    rows: Sequence[Spend],
    models: Mapping[str, Sequence[ModelUse]],
) -> list[PeriodStatement]:
    """Closes each period. `by_pool`: the groups of the rows, between the period and the pool."""
    uses: dict[str, list[Use]] = {}
    for row in rows:
        period, values = ("", row.group) if query.period is None else (row.group[0], row.group[1:])
        named = dict(zip([*by_pool, Group.POOL], values, strict=True))
        uses.setdefault(period, []).append(
            Use(
                group=tuple(named[group] for group in query.groups),
                pool=values[-1],
                own_nano_usd=row.own_nano_usd,
                remote_nano_usd=row.remote_nano_usd,
                charged_nano_usd=row.charged_nano_usd,
            )
        )
    periods = sorted({bill.period for bill in bills} | uses.keys())
    if query.period is None:
        periods = [""]
    weights: dict[tuple[str, ...], int] = {
        (name,): weight for name, weight in (query.weights or {}).items()
    }
    found = []
    for period in periods:
        pools = tuple(bill for bill in bills if bill.period == period)
        closed = statement(pools, uses.get(period, ()), query.rule, weights)
        found.append(
            PeriodStatement(
                period=period,
                bills=pools,
                statement=closed,
                overflow=tuple(overflow(models.get(period, ()), pools)),
            )
        )
    return found


async def _models(tx: Tx, window: Selection, period: Sequence[Group]) -> dict[str, list[ModelUse]]:
    """What each model used of pools and remotes, by period."""
    found: dict[str, list[ModelUse]] = {}
    groups = (*period, Group.MODEL, Group.POOL)
    for row in await spend(tx, window, groups, Order.GROUP, MOST_LINES):
        *when, model, pool = row.group
        found.setdefault(when[0] if when else "", []).append(
            ModelUse(
                model=model,
                pool=pool,
                requests=row.requests,
                tokens=(row.uncached_input_tokens, row.cached_input_tokens, row.output_tokens),
                remote_nano_usd=row.remote_nano_usd,
            )
        )
    return found
