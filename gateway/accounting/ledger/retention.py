"""Deletes old rows, leases and accounts, in pieces that do not delay the rows of requests."""

from __future__ import annotations

from gateway.accounting.ledger.database import Tx

PIECE_ROWS = 5000
HOUR_US = 3_600_000_000
ROWS, HOURS = 0, 1
"""What `retained` tells of: rows of attempts, and sums of hours."""


async def delete_old(tx: Tx, before_unix_us: int) -> int:
    """Deletes one piece of what ended before the hour of a time. Returns the number of attempts;
    `PIECE_ROWS` means that there may be more. Open leases stay, an account stays as long as its
    rows, and a row stays until it is in the roll-ups.
    """
    before_hour = before_unix_us // HOUR_US
    await _keep_from(tx, ROWS, before_hour)
    rows = await tx.run(
        "DELETE FROM attempt WHERE (epoch, seq) IN (SELECT attempt.epoch, seq FROM attempt"
        " JOIN fold ON fold.epoch = attempt.epoch AND seq <= folded_seq"
        " WHERE ended_unix_us < $1 ORDER BY ended_unix_us LIMIT $2)",
        *(before_hour * HOUR_US, PIECE_ROWS),
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


async def delete_old_hours(tx: Tx, before_unix_us: int) -> int:
    """Deletes the sums of one old day's hours; days and months stay. Returns how many sums;
    0: there are no more."""
    before_hour = before_unix_us // HOUR_US // 24 * 24
    await _keep_from(tx, HOURS, before_hour)
    [(oldest,)] = await tx.rows("SELECT MIN(starts_hour) FROM spend WHERE span = 0")
    if oldest is None or oldest >= before_hour:
        return 0
    return await tx.run(
        "DELETE FROM spend WHERE span IN (0, 3) AND starts_hour < $1", min(before_hour, oldest + 24)
    )


async def _keep_from(tx: Tx, what: int, from_hour: int) -> None:
    await tx.run(
        "INSERT INTO retained (what, from_hour) VALUES ($1, $2) ON CONFLICT (what)"
        " DO UPDATE SET from_hour = CASE WHEN retained.from_hour < excluded.from_hour"
        " THEN excluded.from_hour ELSE retained.from_hour END",
        *(what, from_hour),
    )
