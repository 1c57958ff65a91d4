"""Deletes old rows, leases and accounts, in pieces that do not delay the rows of requests."""

from __future__ import annotations

from gateway.accounting.ledger.database import Tx

PIECE_ROWS = 5000


async def delete_old(tx: Tx, before_unix_us: int) -> int:
    """Deletes one piece of what ended before a time. Returns the number of attempts; `PIECE_ROWS`
    means that there may be more. Open leases stay, and an account stays as long as its rows.
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
