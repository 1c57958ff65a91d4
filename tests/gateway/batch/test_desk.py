"""Files and jobs as callers see them: of their tenant, within its bounds, in pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.batch.files import CHUNK_BYTES, FileDraft, FileKind
from gateway.batch.jobs import Form, JobDraft, JobState, JobTerms
from gateway.batch.port import BatchReason, BatchRefused, Owner, PageQuery, ResultQuery
from gateway.batch.running.retention import delete_piece
from tests.gateway.batch.rig import CHAT, OWNER, Rig, lines, rig

OTHER = Owner(tenant="other", key_id="k2")
OPERATOR = Owner(tenant="other", key_id="k3", all_tenants=True)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as found:
        yield found


async def content(made: Rig, file_id: str) -> bytes:
    found, cursor = b"", 0
    while True:
        piece = await made.desk.read_file(OWNER, file_id, cursor)
        found += piece.content
        if piece.next_cursor is None:
            return found
        cursor = piece.next_cursor


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 7])
async def test_a_file_is_read_as_it_was_written(made: Rig, size: int) -> None:
    sent = bytes(i % 251 for i in range(size))
    info = await made.upload(sent)
    assert (info.size_bytes, info.is_complete, info.filename) == (size, True, "in.jsonl")
    assert await content(made, info.file_id) == sent


async def test_another_tenant_sees_nothing(made: Rig) -> None:
    info = await made.upload(lines(1))
    job = await made.submit(lines(1))
    for call in (
        made.desk.file(OTHER, info.file_id),
        made.desk.read_file(OTHER, info.file_id, 0),
        made.desk.delete_file(OTHER, info.file_id),
        made.desk.job(OTHER, job.job_id),
        made.desk.cancel(OTHER, job.job_id),
        made.desk.results(OTHER, ResultQuery(job_id=job.job_id)),
        made.desk.submit(OTHER, JobDraft(form=Form.OPENAI, file_id=info.file_id)),
    ):
        with pytest.raises(BatchRefused) as refused:
            await call
        assert refused.value.reason is BatchReason.NOT_FOUND
    assert (await made.desk.files(OTHER, PageQuery())).files == ()
    assert (await made.desk.jobs(OTHER, PageQuery())).jobs == ()


async def test_an_operator_sees_the_jobs_of_all_tenants_and_no_more(made: Rig) -> None:
    jobs = [await made.submit(lines(1)) for _ in range(3)]
    mine = await made.desk.create_file(OPERATOR, FileDraft(kind=FileKind.LINES, purpose="batch"))
    await made.desk.write_chunk(OPERATOR, mine.file_id, 0, lines(1))
    await made.desk.finish_file(OPERATOR, mine.file_id, "batch", "in.jsonl", None)
    jobs.append(await made.desk.submit(OPERATOR, JobDraft(form=Form.OPENAI, file_id=mine.file_id)))
    listed: list[str] = []
    page = await made.desk.jobs(OPERATOR, PageQuery(limit=3))
    assert page.has_more
    listed += [job.job_id for job in page.jobs]
    page = await made.desk.jobs(OPERATOR, PageQuery(limit=3, after=listed[-1]))
    assert not page.has_more
    listed += [job.job_id for job in page.jobs]
    assert sorted(listed) == sorted(job.job_id for job in jobs)
    assert (await made.desk.job(OPERATOR, jobs[0].job_id)).tenant == OWNER.tenant
    for call in (
        made.desk.cancel(OPERATOR, jobs[0].job_id),
        made.desk.results(OPERATOR, ResultQuery(job_id=jobs[0].job_id)),
        made.desk.file(OPERATOR, jobs[0].file_id),
    ):
        with pytest.raises(BatchRefused) as refused:
            await call
        assert refused.value.reason is BatchReason.NOT_FOUND


async def test_files_and_jobs_come_in_pages(made: Rig) -> None:
    names = []
    for _ in range(5):
        made.now_us += 1
        names.append((await made.upload(lines(1))).file_id)
    found, after = [], ""
    while True:
        page = await made.desk.files(OWNER, PageQuery(after=after, limit=2))
        found += [each.file_id for each in page.files]
        if not page.has_more:
            break
        after = found[-1]
    assert found == names[::-1]
    oldest = await made.desk.files(OWNER, PageQuery(limit=3, newest_first=False))
    assert [each.file_id for each in oldest.files] == names[:3]
    assert (await made.desk.files(OWNER, PageQuery(purpose="fine-tune"))).files == ()
    jobs = [await made.submit(lines(1)) for _ in range(3)]  # all at one time
    first = await made.desk.jobs(OWNER, PageQuery(limit=2))
    rest = await made.desk.jobs(OWNER, PageQuery(limit=2, after=first.jobs[-1].job_id))
    assert {each.job_id for each in (*first.jobs, *rest.jobs)} == {each.job_id for each in jobs}
    assert (first.has_more, rest.has_more) == (True, False)


async def test_a_tenant_keeps_so_many_files_and_bytes(made: Rig) -> None:
    made.limit(tenant_files=2)
    kept = await made.upload(b"x")
    await made.upload(b"x")
    with pytest.raises(BatchRefused, match=r"keeps 2 files.*allows 2: delete some") as refused:
        await made.upload(b"x")
    assert refused.value.reason is BatchReason.LIMIT
    await made.upload(b"x", OTHER)  # has bounds of its own
    await made.desk.delete_file(OWNER, kept.file_id)
    made.limit(tenant_bytes=10)
    with pytest.raises(BatchRefused, match=r"would keep 11 bytes.*allows 10"):
        await made.upload(b"x" * 10)
    made.limit(file_bytes=4, tenant_files=10)
    with pytest.raises(BatchRefused, match=r"more than 4 bytes, batch.file_bytes: split it"):
        await made.upload(b"x" * 5)


async def test_a_tenant_has_so_many_open_jobs(made: Rig) -> None:
    made.limit(tenant_open_jobs=1)
    job = await made.submit(lines(1))
    with pytest.raises(BatchRefused, match=r"1 jobs that have not ended.*wait, or cancel one"):
        await made.submit(lines(1))
    async with made.running():
        await made.ended(job)
    await made.submit(lines(1))


async def test_the_file_of_an_open_job_stays(made: Rig) -> None:
    job = await made.submit(lines(1))
    with pytest.raises(BatchRefused, match="has not ended: cancel it first") as refused:
        await made.desk.delete_file(OWNER, job.file_id)
    assert refused.value.reason is BatchReason.STATE
    made.now_us = job.deadline_unix_us * 2
    assert not await delete_piece(made.database, made.bounds, made.now_us)
    assert (await made.desk.file(OWNER, job.file_id)).file_id == job.file_id


async def test_a_job_needs_a_whole_file_of_its_form(made: Rig) -> None:
    info = await made.desk.create_file(OWNER, FileDraft(kind=FileKind.LINES, purpose="batch"))
    draft = JobDraft(form=Form.OPENAI, file_id=info.file_id, endpoint=CHAT)
    with pytest.raises(BatchRefused, match="holds no requests") as refused:
        await made.desk.submit(OWNER, draft)
    assert refused.value.param == "input_file_id"
    whole = await made.upload(lines(1))
    with pytest.raises(BatchRefused, match="is complete: upload another one"):
        await made.desk.write_chunk(OWNER, whole.file_id, 0, b"x")
    with pytest.raises(BatchRefused, match="holds no requests"):
        await made.desk.submit(OWNER, JobDraft(form=Form.GRPC, file_id=whole.file_id))


async def test_terms_and_deadline_are_kept(made: Rig) -> None:
    terms = JobTerms(local_only=True, metadata={"a": "b"}, max_cost_nano_usd=5)
    job = await made.submit(lines(1), terms=terms, deadline_s=10.0)
    kept = await made.job(job)
    assert kept == job
    assert (kept.terms, kept.deadline_unix_us - made.now_us) == (terms, 10_000_000)
    assert kept.state is JobState.VALIDATING


async def test_what_is_old_is_deleted(made: Rig) -> None:
    job = await made.submit(lines(3))
    async with made.running():
        ended = await made.ended(job)
    assert await content(made, ended.output_file_id)
    info = await made.desk.create_file(OWNER, FileDraft(kind=FileKind.LINES))  # never ends
    made.now_us += round(2e6 * made.bounds.upload_s) + 1
    assert not await delete_piece(made.database, made.bounds, made.now_us)
    with pytest.raises(BatchRefused):
        await made.desk.file(OWNER, info.file_id)
    assert await made.job(job) == ended
    made.now_us += made.bounds.keep_us
    assert not await delete_piece(made.database, made.bounds, made.now_us)
    for file_id in (job.file_id, ended.output_file_id):
        with pytest.raises(BatchRefused):
            await made.desk.file(OWNER, file_id)
    with pytest.raises(BatchRefused):
        await made.job(job)
    for table in ("batch_chunk", "batch_item", "batch_result", "batch_file", "batch_job"):
        count = f"SELECT COUNT(*) FROM {table}"
        [(left,)] = await made.database.read(lambda tx, count=count: tx.rows(count))  # type: ignore[misc]
        assert left == 0, table


async def test_results_go_with_their_file(made: Rig) -> None:
    job = await made.submit(lines(3))
    async with made.running():
        ended = await made.ended(job)
    await made.desk.delete_file(OWNER, ended.output_file_id)
    assert await made.results(job) == []
    assert (await made.job(job)).result_bytes == 0


async def test_a_database_that_fails_is_told(made: Rig, tmp_path: Path) -> None:
    await made.database.write(lambda tx: tx.run("DROP TABLE batch_file"))
    with pytest.raises(BatchRefused, match="the ledger's database fails: no such table") as refused:
        await made.desk.files(OWNER, PageQuery())
    assert refused.value.reason is BatchReason.UNAVAILABLE
