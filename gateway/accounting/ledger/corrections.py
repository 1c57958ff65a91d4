"""Corrections: an earlier row is never changed; a row that adds to its charge is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from gateway.accounting.ledger.append import add_to, apply, next_seq
from gateway.accounting.ledger.database import Tx
from gateway.accounting.ledger.rows import INSERT, bare_row
from gateway.accounting.ledger.schema import RowState
from scheduler.budgets.budget import BudgetAccount

_COPIED = (
    *("request_id", "key_id", "tenant", "session_id", "model", "slo_class", "placement", "pool"),
    *("kind", "started_unix_us", "price_row_id"),
)


class NoSuchRow(Exception):
    """The ledger has no attempt of this epoch and number."""


async def correct(
    tx: Tx,
    epoch: str,
    seq: int,
    delta_nano_usd: int,
    note: str,
    accounts_of: Callable[[str, str, str, float], Sequence[BudgetAccount]],
) -> int:
    """Adds to the charge of a row and to its budgets; returns the corrected charge.

    `accounts_of` gives the budget accounts of a tenant, key and session at a time. Raises
    NoSuchRow.
    """
    found = await tx.rows(
        f"SELECT {', '.join(_COPIED)}, charged_nano_usd, budgeted_nano_usd FROM attempt"
        " WHERE epoch = $1 AND seq = $2",
        *(epoch, seq),
    )
    if not found:
        raise NoSuchRow(f"{epoch}/{seq}")
    copied = dict(zip(_COPIED, found[0], strict=False))
    charged, budgeted = found[0][-2:]
    own = f"correction-{epoch}-{seq}"
    number = await next_seq(tx, own)
    # A row without a price counts with its whole reservation, until its first correction.
    counts = delta_nano_usd if charged is not None or number else delta_nano_usd - budgeted
    row = bare_row(
        epoch=own,
        seq=number,
        state=RowState.CORRECTION.value,
        ended_unix_us=round(time.time() * 1e6),
        charged_nano_usd=delta_nano_usd,
        budgeted_nano_usd=counts,
        note=note,
        **copied,
    )
    await tx.many(INSERT, [row])
    added: dict[str, tuple[int, int]] = {}
    started_s = copied["started_unix_us"] / 1e6
    for account in accounts_of(copied["tenant"], copied["key_id"], copied["session_id"], started_s):
        add_to(added, account.account_id, counts, counts)
    await apply(tx, added)
    [(corrections,)] = await tx.rows(
        "SELECT CAST(SUM(charged_nano_usd) AS BIGINT) FROM attempt WHERE epoch = $1", own
    )
    return int(corrections) + (charged or 0)
