"""What a killed runner left: items that it had taken, some of which were charged.

Results are written after the rows of the ledger that they come from, so that an item with a result
has its rows. An item without one may have rows: it ran, and its answer is lost. It runs again, and
what its lost run was charged is corrected to nothing, in the transaction that lets it wait again.
So every item is charged once, however often its runner is killed.

Rows of a lost run may come later than that: from the spool of the killed process when it starts
again (`corrections.py`), or from a runner that lives and lost its claim while it could not reach
the database (`correct_own_runs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.accounting.ledger.corrections import LOST_NOTE, AccountsOf, correct
from gateway.accounting.ledger.database import Tx
from gateway.batch.jobs import Job, request_id
from gateway.batch.store.items import give_back, taken_items
from gateway.batch.store.jobs import Claim

PIECE_IDS = 200
"""Request ids of one query."""


async def recover_taken(tx: Tx, claim: Claim, job: Job, accounts_of: AccountsOf) -> int:
    """Lets items that an earlier runner had taken wait again, and corrects what they were charged.
    Returns how many there were. Raises ClaimLost."""
    taken = await taken_items(tx, job.job_id)
    if not taken:
        return 0
    since_us = min(taken_us for _, taken_us in taken)
    ids = [request_id(job.job_id, item.number) for item, _ in taken]
    charges = await charges_of(tx, job.key_id, ids, since_us)
    for row in charges:
        await correct(tx, row.epoch, row.seq, -row.nano_usd, LOST_NOTE, accounts_of)
    await give_back(tx, claim, [item.number for item, _ in taken])
    return len(taken)


async def correct_own_runs(
    tx: Tx, job: Job, numbers: Sequence[int], epoch: str, accounts_of: AccountsOf
) -> int:
    """Corrects what this process charged for items of a job that another runner has now. `numbers`:
    items that it ran without knowing of a result; `epoch`: its own. Returns the number of rows."""
    ids = {request_id(job.job_id, number): number for number in numbers}
    own = [
        row
        for row in await charges_of(tx, job.key_id, list(ids), job.created_unix_us)
        if row.epoch == epoch
    ]
    corrected = 0
    for row in own:
        if not await _is_of_result(tx, job, ids[row.request_id], row):
            await correct(tx, row.epoch, row.seq, -row.nano_usd, LOST_NOTE, accounts_of)
            corrected += 1
    return corrected


async def _is_of_result(tx: Tx, job: Job, number: int, row: Charge) -> bool:
    """Whether the result of an item comes from a row: it has one, and no other process ran it."""
    ended = await tx.rows(
        "SELECT 1 FROM batch_result WHERE job_id = $1 AND number = $2", job.job_id, number
    )
    others = await tx.rows(
        "SELECT 1 FROM attempt WHERE key_id = $1 AND request_id = $2 AND epoch <> $3"
        " AND state <> 'correction' AND ended_unix_us >= $4 LIMIT 1",
        *(job.key_id, row.request_id, row.epoch, job.created_unix_us),
    )
    return bool(ended) and not others


@dataclass(frozen=True, slots=True)
class Charge:
    """A row of the ledger that charges something. `nano_usd`: after its corrections."""

    request_id: str
    epoch: str
    seq: int
    nano_usd: int


async def charges_of(tx: Tx, key_id: str, ids: Sequence[str], since_us: int) -> list[Charge]:
    """Rows of these requests that charge something, and are not corrected to nothing."""
    found: list[Charge] = []
    for first in range(0, len(ids), PIECE_IDS):
        piece = ids[first : first + PIECE_IDS]
        marks = ", ".join(f"${number}" for number in range(3, 3 + len(piece)))
        rows = await tx.rows(
            "SELECT request_id, epoch, seq, charged_nano_usd FROM attempt"
            " WHERE ended_unix_us >= $1 AND key_id = $2 AND charged_nano_usd <> 0"
            f" AND state <> 'correction' AND request_id IN ({marks})",
            *(since_us, key_id, *piece),
        )
        for name, epoch, seq, charged in rows:
            left = charged + await _corrections(tx, epoch, seq)
            if left:
                found.append(Charge(name, epoch, seq, left))
    return found


async def _corrections(tx: Tx, epoch: str, seq: int) -> int:
    [(total,)] = await tx.rows(
        "SELECT COALESCE(CAST(SUM(charged_nano_usd) AS BIGINT), 0) FROM attempt WHERE epoch = $1",
        f"correction-{epoch}-{seq}",
    )
    return int(total)
