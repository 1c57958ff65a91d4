"""Rows of lost runs that come late: from the spool of a gateway that starts again after another one
has ended its items."""

from __future__ import annotations

from pathlib import Path

from gateway.accounting.ledger.leases import Owner, record_heartbeat
from gateway.accounting.ledger.rows import PendingRow, pending_row
from gateway.accounting.ledger.spool import Spool, recover_spool
from gateway.batch.jobs import request_id
from gateway.batch.running.execution import ItemAnswer, ItemCall
from tests.gateway.batch.rig import Rig, answered, lines, no_accounts, rig
from tests.ledgers import settled

KILLED = "killed"
"""Epoch of the process that was killed."""


def row(name: str, charged: int, key_id: str = "key") -> PendingRow:
    return pending_row(settled(f"{key_id}/{name}", charged=charged, key_id=key_id), None)


def spooled(folder: Path, rows: list[PendingRow]) -> None:
    """What a killed process leaves."""
    spool = Spool(folder / "spool", KILLED)
    for seq, each in enumerate(rows):
        spool.append(seq, each)
    spool.close()


async def recovered(made: Rig, folder: Path) -> int:
    spool = Spool(folder / "spool", "next")
    try:
        return await recover_spool(spool, made.database, no_accounts)
    finally:
        spool.close()


async def test_rows_that_come_after_another_gateway_has_ended_the_items(tmp_path: Path) -> None:
    async with rig(tmp_path) as made:

        async def good(call: ItemCall) -> ItemAnswer:
            made.charge(call.request_id)
            return await answered(call)

        made.execution.script = good
        await made.database.write(lambda tx: record_heartbeat(tx, Owner("gw", KILLED)))
        job = await made.submit(lines(3))
        items = [row(request_id(job.job_id, number), 60) for number in (1, 2)]
        others = [row("mine", 7), row(request_id(job.job_id, 3), 5, "another-key")]
        spooled(tmp_path, [*items, *others])
        async with made.running():
            ended = await made.ended(job)
        assert await made.charged() == ended.charged_nano_usd == 300
        assert await recovered(made, tmp_path) == 4
        assert await made.charged() == 300 + 7 + 5
        assert await made.corrected() == -2 * 60
        assert await recovered(made, tmp_path) == 0


async def test_rows_that_come_before_anybody_has_taken_over(tmp_path: Path) -> None:
    """They are corrected at once, and not once more when the items run again."""
    async with rig(tmp_path) as made:

        async def good(call: ItemCall) -> ItemAnswer:
            made.charge(call.request_id)
            return await answered(call)

        made.execution.script = good
        await made.database.write(lambda tx: record_heartbeat(tx, Owner("gw", KILLED)))
        job = await made.submit(lines(3))
        names = [request_id(job.job_id, number) for number in (1, 2, 3)]
        spooled(tmp_path, [row(name, 60) for name in names])
        assert await recovered(made, tmp_path) == 3
        assert await made.charged() == 0
        async with made.running():
            ended = await made.ended(job)
        assert await made.charged() == ended.charged_nano_usd == 300
        assert await made.corrected() == -3 * 60
