"""The batch lane on PostgreSQL, which several gateways share: one runner for each job, each item
once, each charged once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from gateway.accounting.ledger.postgres import connect
from gateway.batch.jobs import JobState
from gateway.batch.port import PageQuery
from gateway.batch.running import runner
from gateway.batch.running.execution import ItemAnswer, ItemCall
from gateway.batch.running.retention import delete_piece
from gateway.batch.store.desk import MAX_PAGE
from tests.gateway.batch.rig import OWNER, Rig, answered, lane, line, lines
from tests.stack.ledger.postgres import Postgres


@contextlib.asynccontextmanager
async def made(postgres: Postgres, name: str) -> AsyncIterator[Rig]:
    dsn = await postgres.new_database(name)
    database = await connect(dsn, "gw")
    try:
        async with lane(database) as found:
            yield found
    finally:
        await database.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "HOLD_S", 0.1)
    monkeypatch.setattr(runner, "POLL_S", 0.02)


async def test_two_gateways_share_jobs_and_run_no_item_twice(postgres: Postgres) -> None:
    async with made(postgres, "batch_two") as rig:
        jobs = [await rig.submit(lines(60)) for _ in range(6)]
        async with rig.running("one"), rig.running("two"):
            ended = [await rig.ended(job) for job in jobs]
        assert {job.state for job in ended} == {JobState.COMPLETED}
        assert [job.succeeded for job in ended] == [60] * 6
        assert set(Counter(call.request_id for call in rig.execution.calls).values()) == {1}
        page = await rig.desk.jobs(OWNER, PageQuery(limit=MAX_PAGE))
        assert len(page.jobs) == 6


async def test_a_stopped_gateways_items_run_again_and_are_charged_once(postgres: Postgres) -> None:
    async with made(postgres, "batch_stopped") as rig:

        async def lost(call: ItemCall) -> ItemAnswer:
            call.on_start()
            rig.charge(call.request_id, 60)
            await asyncio.Event().wait()
            raise AssertionError

        async def good(call: ItemCall) -> ItemAnswer:
            rig.charge(call.request_id)
            return await answered(call)

        rig.execution.script = lost
        content = line("big", "x" * 600_000) + b"\n{\n" + lines(20)
        job = await rig.submit(content)
        async with rig.running("one"):
            async with asyncio.timeout(60.0):
                while rig.execution.now < 21:
                    await asyncio.sleep(0.02)
        assert await rig.charged() == 21 * 60
        rig.execution.script = good
        rig.execution.calls.clear()
        async with rig.running("two"):
            ended = await rig.ended(job)
        assert (ended.succeeded, ended.bad_lines) == (21, 1)
        assert await rig.charged() == ended.charged_nano_usd == 21 * 100
        assert {call.item.number: len(call.content) for call in rig.execution.calls}[1] > 600_000
        results = await rig.results(job, in_order=True)
        assert [each.number for each in results] == [1, *range(3, 23)]
        output = await rig.desk.file(OWNER, ended.output_file_id)
        assert output.size_bytes == sum(len(each.content) + 1 for each in results)
        await rig.desk.delete_file(OWNER, ended.output_file_id)
        rig.now_us += rig.bounds.keep_us + 1
        assert not await delete_piece(rig.database, rig.bounds, rig.now_us)
        assert (await rig.desk.jobs(OWNER, PageQuery())).jobs == ()
        assert (await rig.desk.files(OWNER, PageQuery())).files == ()


async def test_a_cancelled_job_ends_everywhere(postgres: Postgres) -> None:
    async with made(postgres, "batch_cancel") as rig:

        async def hangs(call: ItemCall) -> ItemAnswer:
            call.on_start()
            await asyncio.Event().wait()
            raise AssertionError

        rig.execution.script = hangs
        job = await rig.submit(lines(900))
        async with rig.running("one"):
            async with asyncio.timeout(60.0):
                while rig.execution.now < 100:
                    await asyncio.sleep(0.02)
            await rig.desk.cancel(OWNER, job.job_id)
            ended = await rig.ended(job)
        assert (ended.state, ended.failed) == (JobState.CANCELLED, 900)
