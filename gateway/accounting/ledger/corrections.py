"""Corrections: an earlier row is never changed; a row that adds to its charge is written.

An item of an offline job whose process was killed before its result was written runs again
elsewhere. A result is written after the rows that it comes from. So a row that only the spool of a
killed process has is that of a lost run, whoever has the job by now; it is corrected to nothing in
the transaction that writes it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from gateway.accounting.ledger.append import add_to, apply, next_seq
from gateway.accounting.ledger.database import Tx
from gateway.accounting.ledger.rows import INSERT, PendingRow, bare_row
from gateway.accounting.ledger.schema import ATTEMPT_COLUMNS, RowState
from scheduler.budgets.budget import BudgetAccount

_COPIED = (
    *("request_id", "key_id", "tenant", "session_id", "model", "slo_class", "placement", "pool"),
    *("kind", "started_unix_us", "price_row_id"),
)

LOST_NOTE = "the answer was lost with its gateway: the item of the batch runs again"
AccountsOf = Callable[[str, str, str, float], Sequence[BudgetAccount]]
"""Budget accounts of a tenant, key and session at a Unix second."""
_ITEM_ID = re.compile(r"(batch_[0-9a-f]{24})-[1-9][0-9]*\Z")
_REQUEST_ID, _KEY_ID = (ATTEMPT_COLUMNS.index(name) - 2 for name in ("request_id", "key_id"))


class NoSuchRow(Exception):
    """The ledger has no attempt of this epoch and number."""


async def correct(
    tx: Tx,
    epoch: str,
    seq: int,
    delta_nano_usd: int,
    note: str,
    accounts_of: AccountsOf,
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


async def correct_lost_runs(
    tx: Tx, epoch: str, first_seq: int, rows: Sequence[PendingRow], accounts_of: AccountsOf
) -> int:
    """Corrects those of some rows to nothing that are of items of jobs. `rows`: just written,
    numbered from `first_seq`. Returns how many."""
    corrected = 0
    jobs: dict[tuple[str, str], bool] = {}
    for seq, row in enumerate(rows, first_seq):
        found = _ITEM_ID.match(str(row.values[_REQUEST_ID]))
        if found is None or not row.charged_nano_usd:
            continue
        job = found[1], str(row.values[_KEY_ID])
        if job not in jobs:
            sql = "SELECT 1 FROM batch_job WHERE job_id = $1 AND key_id = $2"
            jobs[job] = bool(await tx.rows(sql, *job))
        if jobs[job]:
            await correct(tx, epoch, seq, -row.charged_nano_usd, LOST_NOTE, accounts_of)
            corrected += 1
    return corrected
