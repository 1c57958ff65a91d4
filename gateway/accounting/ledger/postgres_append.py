"""A batch of rows in one statement: one round trip to PostgreSQL, which commits it.

It does what `append.append` does in a transaction of several statements: it skips rows that the
database already has, and adds what the new rows settle to their leases and then to the accounts. It
takes locks in the same order: leases, then accounts, each in the order of their ids (by bytes, as
in Python: the collation of a database may differ); that of the leader's term comes first. Where a
lease is no longer open, or a part of it was booked as lost (this process or a front counted as
dead), it writes nothing, and `append.append` runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.accounting.ledger.append import Append, append, register_epoch
from gateway.accounting.ledger.postgres import PostgresDatabase
from gateway.accounting.ledger.rows import PendingRow
from gateway.accounting.ledger.schema import ATTEMPT, ATTEMPT_COLUMNS

_COLUMNS = ATTEMPT_COLUMNS[1:]
"""All but the epoch."""
_ARRAYS = ", ".join(
    f"${number}::{ATTEMPT[name].split()[0]}[]" for number, name in enumerate(_COLUMNS, 2)
)
_OVERRUNS, _OTHER_SEQS, _OTHER_ACCOUNTS = range(len(_COLUMNS) + 2, len(_COLUMNS) + 5)
_LEASES = len(_COLUMNS) + 5

_APPEND = f"""
given AS (
  SELECT * FROM unnest({_ARRAYS}, ${_OVERRUNS}::bigint[]) AS g ({", ".join(_COLUMNS)}, overrun)
), held AS MATERIALIZED (
  SELECT state = 'open' AND recovered_nano_usd = 0 AS plain FROM lease
  WHERE lease_id = ANY (${_LEASES}::text[]) ORDER BY lease_id COLLATE "C" FOR UPDATE
), fresh AS (
  INSERT INTO attempt (epoch, {", ".join(_COLUMNS)})
  SELECT $1, {", ".join(_COLUMNS)} FROM given
  WHERE EXISTS (SELECT FROM fence)
    AND (SELECT COALESCE(bool_and(plain), true) FROM held)
  ON CONFLICT (epoch, seq) DO NOTHING
  RETURNING seq, lease_id, budgeted_nano_usd
), spent AS (
  SELECT fresh.lease_id, SUM(fresh.budgeted_nano_usd)::bigint AS settled,
    SUM(given.overrun)::bigint AS overrun
  FROM fresh JOIN given USING (seq) WHERE fresh.lease_id <> '' GROUP BY fresh.lease_id
), touched AS (
  UPDATE lease SET settled_nano_usd = lease.settled_nano_usd + spent.settled,
    granted_nano_usd = lease.granted_nano_usd + spent.overrun
  FROM spent WHERE lease.lease_id = spent.lease_id
  RETURNING lease.accounts, spent.settled, spent.overrun
), added AS (
  SELECT account_id, SUM(settled)::bigint AS settled, SUM(committed)::bigint AS committed FROM (
    SELECT json_array_elements_text(accounts::json) AS account_id, settled, overrun AS committed
    FROM touched
    UNION ALL
    SELECT other.account_id, fresh.budgeted_nano_usd, fresh.budgeted_nano_usd
    FROM unnest(${_OTHER_SEQS}::bigint[], ${_OTHER_ACCOUNTS}::text[]) AS other (seq, account_id)
    JOIN fresh USING (seq)
  ) AS parts GROUP BY account_id
), locked AS MATERIALIZED (
  SELECT account_id FROM account WHERE account_id IN (SELECT account_id FROM added)
  ORDER BY account_id COLLATE "C" FOR UPDATE
), booked AS (
  UPDATE account SET settled_nano_usd = account.settled_nano_usd + added.settled,
    committed_nano_usd = account.committed_nano_usd + added.committed
  FROM added
  WHERE account.account_id = added.account_id AND (SELECT COUNT(*) FROM locked) >= 0
)
"""
_ALL_PLAIN = "(SELECT COALESCE(bool_and(plain), true) FROM held)"


def single_statement_append(database: PostgresDatabase, epoch: str) -> Append:
    """An `Append` that writes the rows of one process."""

    async def write(first_seq: int, rows: Sequence[PendingRow]) -> None:
        if first_seq == 0:
            await database.write(lambda tx: register_epoch(tx, epoch))
        others = [
            (first_seq + i, name) for i, row in enumerate(rows) for name in row.other_account_ids
        ]
        all_plain = await database.write_at_once(
            _APPEND,
            _ALL_PLAIN,
            epoch,
            list(range(first_seq, first_seq + len(rows))),
            *zip(*(row.values for row in rows), strict=True),
            [row.overrun_nano_usd for row in rows],
            [seq for seq, _ in others],
            [name for _, name in others],
            list({row.lease_id for row in rows if row.lease_id}),
        )
        if not all_plain:
            await database.write(lambda tx: append(tx, epoch, first_seq, rows))

    return write
