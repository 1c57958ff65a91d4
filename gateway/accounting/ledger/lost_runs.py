"""Rows of lost runs: an item of an offline job ran in a process that was killed before its result
was written, and runs again elsewhere.

A result is written after the rows that it comes from. So a row that only the spool of a killed
process has is that of a lost run, whoever has the job by now; it is corrected to nothing in the
transaction that writes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from gateway.accounting.ledger.corrections import correct
from gateway.accounting.ledger.database import Tx
from gateway.accounting.ledger.rows import PendingRow
from gateway.accounting.ledger.schema import ATTEMPT_COLUMNS
from scheduler.budgets.budget import BudgetAccount

LOST_NOTE = "the answer was lost with its gateway: the item of the batch runs again"
AccountsOf = Callable[[str, str, str, float], Sequence[BudgetAccount]]
"""Budget accounts of a tenant, key and session at a Unix second."""
_ITEM_ID = re.compile(r"(batch_[0-9a-f]{24})-[1-9][0-9]*\Z")
_REQUEST_ID, _KEY_ID = (ATTEMPT_COLUMNS.index(name) - 2 for name in ("request_id", "key_id"))


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
