"""The transaction that writes a batch of rows and settles them in leases and budget accounts."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from gateway.accounting.ledger.database import Database, Tx
from gateway.accounting.ledger.rows import INSERT, PendingRow, bare_row
from gateway.accounting.ledger.schema import RowState

Append = Callable[[int, Sequence[PendingRow]], Awaitable[None]]
"""Writes rows of one epoch, numbered from the first argument, to the disk. Raises
LedgerUnavailable."""
TOLD_NOTE = "the gateway was alive: part of the lease's recovery came as rows"


def transactional_append(database: Database, epoch: str) -> Append:
    """An `Append` that writes the rows of one process in a transaction of several statements."""

    async def write(first_seq: int, rows: Sequence[PendingRow]) -> None:
        await database.write(lambda tx: append(tx, epoch, first_seq, rows))

    return write


async def append(tx: Tx, epoch: str, first_seq: int, rows: Sequence[PendingRow]) -> int:
    """Writes rows, numbered from `first_seq`, and skips those that the database already has.
    Returns how many it has written, which are the last ones.

    Batches of an epoch are written in order and whole, so that the rows it has are a prefix.
    """
    [(last,)] = await tx.rows("SELECT MAX(seq) FROM attempt WHERE epoch = $1", epoch)
    written = 0 if last is None else max(0, last + 1 - first_seq)
    fresh = rows[written:]
    if not fresh:
        return 0
    if first_seq == 0:
        await register_epoch(tx, epoch)
    first_seq += written
    await tx.many(INSERT, [(epoch, first_seq + i, *row.values) for i, row in enumerate(fresh)])
    settled: dict[str, int] = defaultdict(int)
    overruns: dict[str, int] = defaultdict(int)
    accounts: dict[str, tuple[int, int]] = {}
    for row in fresh:
        if row.lease_id:
            settled[row.lease_id] += row.budgeted_nano_usd
            overruns[row.lease_id] += row.overrun_nano_usd
        for account_id in row.other_account_ids:
            # No lease has committed this amount in that account, so that it is committed now.
            add_to(accounts, account_id, row.budgeted_nano_usd, row.budgeted_nano_usd)
    for lease_id in sorted(settled):
        spent, overrun = settled[lease_id], overruns[lease_id]
        found = await tx.rows(
            "UPDATE lease SET settled_nano_usd = settled_nano_usd + $2,"
            " granted_nano_usd = granted_nano_usd + $3 WHERE lease_id = $1"
            " RETURNING accounts, state, recovered_nano_usd",
            *(lease_id, spent, overrun),
        )
        if not found:
            continue  # retention deleted it: it was closed long ago
        names, state, recovered = found[0]
        late = state != "open"
        # This process, or a front that came back late, counted as dead, and what it held was booked
        # as spent: rows beyond what the lease has free are part of that amount.
        covered = min(max(recovered, 0), spent if late else overrun)
        if covered:
            await take_back(tx, lease_id, covered, TOLD_NOTE, from_grant=not late)
        more = (spent if late else overrun) - covered
        for name in msgspec.json.decode(names, type=list[str]):
            add_to(accounts, name, spent - covered, more)
    await apply(tx, accounts)
    return len(fresh)


def add_to(accounts: dict[str, tuple[int, int]], name: str, settled: int, committed: int) -> None:
    """Adds to the amounts that `apply` will add to an account."""
    before = accounts.get(name, (0, 0))
    accounts[name] = (before[0] + settled, before[1] + committed)


async def apply(tx: Tx, accounts: dict[str, tuple[int, int]]) -> None:
    """Adds (settled, committed) to accounts. A missing account is made later, from the rows."""
    await tx.many(
        "UPDATE account SET settled_nano_usd = settled_nano_usd + $2,"
        " committed_nano_usd = committed_nano_usd + $3 WHERE account_id = $1",
        [(name, *accounts[name]) for name in sorted(accounts)],
    )


async def register_epoch(tx: Tx, epoch: str) -> None:
    """Lets the roll-ups find the rows of an epoch. It comes before the epoch's first row."""
    await tx.run(
        "INSERT INTO fold (epoch, folded_seq) VALUES ($1, -1) ON CONFLICT (epoch) DO NOTHING", epoch
    )


async def next_seq(tx: Tx, epoch: str) -> int:
    """The next free number of an epoch, which is registered."""
    await register_epoch(tx, epoch)
    [(last,)] = await tx.rows("SELECT MAX(seq) FROM attempt WHERE epoch = $1", epoch)
    return 0 if last is None else int(last) + 1


def recovery_epoch(lease_id: str) -> str:
    """The epoch of the rows that book parts of a lease as spent, and take them back."""
    return f"recovery-{lease_id}"


async def take_back(tx: Tx, lease_id: str, nano_usd: int, note: str, *, from_grant: bool) -> None:
    """Corrects the recovery of a lease whose gateway turned out to be alive. The caller corrects
    the accounts. `from_grant`: the lease is open, so that its grant covers the amount as well."""
    again = nano_usd if from_grant else 0
    await tx.run(
        "UPDATE lease SET recovered_nano_usd = recovered_nano_usd - $2,"
        " settled_nano_usd = settled_nano_usd - $3, granted_nano_usd = granted_nano_usd - $3"
        " WHERE lease_id = $1",
        *(lease_id, nano_usd, again),
    )
    [(tenant, key_id, session_id)] = await tx.rows(
        "SELECT tenant, key_id, session_id FROM lease WHERE lease_id = $1", lease_id
    )
    now_us = round(time.time() * 1e6)
    epoch = recovery_epoch(lease_id)
    row = bare_row(
        epoch=epoch,
        seq=await next_seq(tx, epoch),
        state=RowState.CORRECTION.value,
        tenant=tenant,
        key_id=key_id,
        session_id=session_id,
        started_unix_us=now_us,
        ended_unix_us=now_us,
        charged_nano_usd=-nano_usd,
        budgeted_nano_usd=-nano_usd,
        lease_id=lease_id,
        note=note,
    )
    await tx.many(INSERT, [row])
