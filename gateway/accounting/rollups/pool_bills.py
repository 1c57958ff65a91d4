"""Reads the accounts of pools over whole hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.accounting.ledger.database import Tx
from gateway.accounting.rollups.calendar import HOUR_US, months, years
from gateway.accounting.rollups.columns import Span
from gateway.accounting.rollups.fold import start_expression
from gateway.accounting.rollups.spend import Group, group_text, time_expression
from gateway.accounting.rollups.tiles import tiles
from scheduler.metering.hours import AMOUNTS, BILLED, REQUEST_PARTS, Amounts

MILLION = 1_000_000
_TOKENS = {
    "uncached_input": "uncached_tokens",
    "cached_input": "cached_tokens",
    "output": "output_tokens",
}
"""Kinds of token, in the order of `REQUEST_PARTS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolBill:
    """Accounts of one pool over one period. `period`: as spend names it; "": the whole window."""

    period: str
    pool: str
    amounts: Amounts

    @property
    def bill_nano_usd(self) -> int:
        """What its GPUs cost."""
        return sum(self.amounts[name] for name in BILLED)

    @property
    def requests_nano_usd(self) -> int:
        """The account of requests, in flight included."""
        return sum(self.amounts[name] for name in REQUEST_PARTS)

    def allocated_nano_usd_per_mtok(self) -> dict[str, int]:
        """The bill over the tokens, by kind of token in proportion to its part of the account of
        requests; kinds without tokens are absent, and all where nothing was billed."""
        counts = [self.amounts[name] for name in _TOKENS.values()]
        costs = [max(0, self.amounts[name]) for name in REQUEST_PARTS]
        bill, whole = self.bill_nano_usd, sum(costs)
        if not bill or not whole:
            return {}
        rates = {
            kind: bill * cost // whole * MILLION // count
            for kind, count, cost in zip(_TOKENS, counts, costs, strict=True)
            if count > 0
        }
        if sum(counts) > 0:
            rates["total"] = bill * MILLION // sum(counts)
        return rates


async def pool_bills(
    tx: Tx, from_hour: int, to_hour: int, period: Group | None = None
) -> Sequence[PoolBill]:
    """Accounts by pool from an hour until before another one. `period`: a time to group by."""
    coarsest = Span.HOUR if period is Group.HOUR else Span.DAY
    if period in (None, Group.MONTH, Group.YEAR):
        coarsest = Span.MONTH
    parts = [
        f"SELECT starts_hour AS hour, pool, {', '.join(AMOUNTS)} FROM pool_account WHERE span ="
        f" {int(tile.span)} AND starts_hour >= {tile.from_hour} AND starts_hour < {tile.to_hour}"
        for tile in tiles(from_hour * HOUR_US, to_hour * HOUR_US, Span.HOUR, coarsest).whole
    ]
    if not parts:
        return []
    at = "0"
    if period in (Group.MONTH, Group.YEAR):
        [(first, last)] = await tx.rows(
            "SELECT MIN(starts_hour), MAX(starts_hour) FROM pool_account WHERE span = 0"
            " AND starts_hour >= $1 AND starts_hour < $2",
            *(from_hour, to_hour),
        )
        if first is None:
            return []
        found = months if period is Group.MONTH else years
        at = start_expression(found(first, last + 1), "hour")
    elif period is not None:
        at = time_expression(period)
    sums = ", ".join(f"CAST(SUM({name}) AS BIGINT)" for name in AMOUNTS)
    rows = await tx.rows(
        f"SELECT {at} AS period, pool, {sums} FROM ({' UNION ALL '.join(parts)}) AS parts"
        " GROUP BY period, pool ORDER BY period, pool"
    )
    return [
        PoolBill(
            period="" if period is None else group_text(period, row[0]),
            pool=row[1],
            amounts=dict(zip(AMOUNTS, row[2:], strict=True)),
        )
        for row in rows
    ]
