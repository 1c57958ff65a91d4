"""Deletes what is older than the ledger is asked to keep, in pieces that hold nobody up."""

from __future__ import annotations

from gateway.accounting.ledger.database import Tx

PIECE_ROWS = 5000


async def delete_old(tx: Tx, before_unix_us: int) -> int:
    """One piece of what ended before; returns the number of attempts: `PIECE_ROWS`: there is more.

    Open leases stay, and the accounts of budgets as long as a row of theirs may.
    """
    rows = await tx.run(
        "DELETE FROM attempt WHERE (epoch, seq) IN (SELECT epoch, seq FROM attempt"
        " WHERE ended_unix_us < $1 ORDER BY ended_unix_us LIMIT $2)",
        *(before_unix_us, PIECE_ROWS),
    )
    await tx.run(
        "DELETE FROM lease WHERE lease_id IN (SELECT lease_id FROM lease"
        " WHERE state <> 'open' AND closed_unix_us < $1 LIMIT $2)",
        *(before_unix_us, PIECE_ROWS),
    )
    await tx.run(
        "DELETE FROM account WHERE account_id IN (SELECT account_id FROM account"
        " WHERE starts_unix_s < $1 LIMIT $2)",
        *(before_unix_us // 1_000_000, PIECE_ROWS),
    )
    return rows
