"""Jobs from file to results: whatever fails, each item ends once and is charged once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from gateway.accounting.ledger.database import LedgerUnavailable, Tx
from gateway.batch.jobs import Job, JobState, JobTerms, request_id
from gateway.batch.port import BatchReason, BatchRefused
from gateway.batch.running import retries, runner
from gateway.batch.running.execution import ItemAnswer, ItemCall
from gateway.batch.running.retries import Retry
from gateway.batch.store.files import read_bytes
from gateway.batch.store.jobs import claim_jobs
from scheduler.contract import SloClass
from tests.gateway.batch.rig import CALLER, OWNER, Rig, answered, line, lines, rig

T = TypeVar("T")


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(tmp_path) as found:
        yield found


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items are tried again at once, and claims are looked at often."""
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(retries, "LONGEST_WAIT_S", 0.01)
    monkeypatch.setattr(runner, "HOLD_S", 0.05)
    monkeypatch.setattr(runner, "POLL_S", 0.02)


def names(job: Job, count: int) -> list[bytes]:
    return [request_id(job.job_id, number).encode() for number in range(1, count + 1)]


async def test_no_item_runs_before_the_scheduler_admits_requests(made: Rig) -> None:
    admits = asyncio.Event()
    made.opening = admits.wait
    job = await made.submit(lines(3))
    async with made.running():
        await asyncio.sleep(5 * runner.POLL_S)
        assert not made.execution.calls
        admits.set()
        assert (await made.ended(job)).succeeded == 3


async def test_every_item_runs_once(made: Rig) -> None:
    job = await made.submit(lines(300))
    async with made.running():
        ended = await made.ended(job)
    assert ended.state is JobState.COMPLETED
    assert (ended.items, ended.succeeded, ended.failed, ended.left) == (300, 300, 0, 0)
    assert (ended.charged_nano_usd, ended.tokens.prompt, ended.unpriced) == (30_000, 3000, 0)
    found = await made.results(job, in_order=True)
    assert [each.content for each in found] == names(job, 300)
    assert [each.custom_id for each in found] == [f"c{number}" for number in range(1, 301)]
    by_end = await made.results(job)
    assert [each.seq for each in by_end] == list(range(1, 301))
    runs = Counter(call.request_id for call in made.execution.calls)
    assert set(runs.values()) == {1}
    assert len(runs) == 300


async def test_an_item_gets_its_line_and_the_terms_of_its_job(made: Rig) -> None:
    terms = JobTerms(local_only=True, session_id="s")
    texts = [line("a", "x" * 300_000), line("b", "y", model="other")]
    job = await made.submit(b"\n".join(texts), terms=terms)
    async with made.running():
        await made.ended(job)
    by_number = {call.item.number: call for call in made.execution.calls}
    assert [by_number[number].content for number in (1, 2)] == texts
    assert [by_number[number].terms for number in (1, 2)] == [terms, terms]
    assert by_number[2].item.model == "other"
    assert 0 < by_number[1].remaining_s <= made.bounds.deadline_s


async def test_bad_lines_do_not_sink_the_job(made: Rig) -> None:
    content = b"\n".join([line("a"), b"{", b"", line("a"), line("b"), line("c", url="/x")])
    job = await made.submit(content)
    async with made.running():
        ended = await made.ended(job)
    assert (ended.state, ended.items, ended.succeeded) == (JobState.COMPLETED, 2, 2)
    assert ended.bad_lines == 3
    assert [(fault.line, fault.code) for fault in ended.faults] == [
        (2, "invalid_json_line"), (4, "duplicate_custom_id"), (6, "mismatched_endpoint"),
    ]  # fmt: skip
    assert [each.number for each in await made.results(job, in_order=True)] == [1, 5]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"{\n{\n"])
async def test_a_job_without_items_fails(made: Rig, content: bytes) -> None:
    job = await made.submit(content)
    async with made.running():
        ended = await made.ended(job)
    assert (ended.state, ended.items) == (JobState.FAILED, 0)
    assert ended.faults
    assert (ended.output_file_id, ended.error_file_id) == ("", "")


async def test_items_in_flight_and_waiting_are_bounded(made: Rig) -> None:
    made.limit(items_in_flight=20, items_waiting=3)
    waiting: set[str] = set()
    most_waiting = 0
    release = asyncio.Event()

    async def script(call: ItemCall) -> ItemAnswer:
        nonlocal most_waiting
        waiting.add(call.request_id)
        most_waiting = max(most_waiting, len(waiting))
        await asyncio.sleep(0.001)
        waiting.discard(call.request_id)
        call.on_start()
        await release.wait()
        return await answered(call)

    made.execution.script = script
    job = await made.submit(lines(100))
    async with made.running() as lane:
        async with asyncio.timeout(30.0):
            while made.execution.now < 20:
                await asyncio.sleep(0.01)
        assert lane.runs.in_flight == 20
        release.set()
        await made.ended(job)
    assert (made.execution.most, most_waiting) == (20, 3)


async def test_two_jobs_take_turns(made: Rig) -> None:
    made.limit(items_in_flight=1)
    both_ready = asyncio.Event()

    async def script(call: ItemCall) -> ItemAnswer:
        await both_ready.wait()
        return await answered(call)

    made.execution.script = script
    one, two = await made.submit(lines(20)), await made.submit(lines(20))
    async with made.running() as lane:
        async with asyncio.timeout(30.0):
            while sum(job.is_ready for job in lane.jobs) < 2:
                await asyncio.sleep(0.01)
        both_ready.set()
        await asyncio.gather(made.ended(one), made.ended(two))
    first = Counter(call.request_id.rpartition("-")[0] for call in made.execution.calls[:20])
    assert min(first[one.job_id], first[two.job_id]) >= 5


async def test_what_passes_is_tried_again_and_what_fails_three_times_is_not(made: Rig) -> None:
    async def script(call: ItemCall) -> ItemAnswer:
        call.on_start()
        runs = sum(each.request_id == call.request_id for each in made.execution.calls)
        match call.item.custom_id:
            case "c1":  # no room, ten times
                retry = Retry() if runs <= 10 else None
            case "c2":
                retry = Retry(is_failure=True)
            case _:
                retry = None
        content = f"{call.item.custom_id} {runs}".encode()
        return ItemAnswer(is_ok=retry is None, content=content, retry=retry)

    made.execution.script = script
    job = await made.submit(lines(3))
    async with made.running():
        ended = await made.ended(job)
    found = {each.content: each.is_ok for each in await made.results(job)}
    assert found == {b"c1 11": True, b"c2 3": False, b"c3 1": True}
    assert (ended.succeeded, ended.failed) == (2, 1)
    assert ended.error_file_id


async def test_a_fault_of_the_gateway_is_a_failure_of_the_item(made: Rig) -> None:
    async def script(call: ItemCall) -> ItemAnswer:
        raise KeyError(call.request_id)

    made.execution.script = script
    job = await made.submit(lines(1))
    async with made.running():
        ended = await made.ended(job)
    assert (ended.state, ended.failed) == (JobState.COMPLETED, 1)
    [found] = await made.results(job)
    assert found.content == b"internal_error: the gateway failed: its log says why"


async def until_running(made: Rig, count: int) -> None:
    async with asyncio.timeout(30.0):
        while made.execution.now < count:
            await asyncio.sleep(0.01)


async def hanging(call: ItemCall) -> ItemAnswer:
    """Answers the first two items, and keeps all others."""
    if call.item.number > 2:
        call.on_start()
        await asyncio.Event().wait()
    return await answered(call)


async def test_a_cancelled_job_keeps_what_has_ended(made: Rig) -> None:
    made.limit(items_in_flight=10)
    made.execution.script = hanging
    job = await made.submit(lines(700))
    async with made.running():
        await until_running(made, 10)
        made.charge(request_id(job.job_id, 5), 70)  # what its run was charged as it ended
        assert (await made.desk.cancel(OWNER, job.job_id)).state is JobState.CANCELLING
        ended = await made.ended(job)
    assert (ended.state, ended.succeeded, ended.failed) == (JobState.CANCELLED, 2, 698)
    assert ended.charged_nano_usd == 2 * 100 + 70
    results = await made.results(job, in_order=True)
    assert [each.number for each in results] == list(range(1, 701))
    assert results[6].content.startswith(b"batch_cancelled: ")
    with pytest.raises(BatchRefused, match=r"has ended .cancelled.") as refused:
        await made.desk.cancel(OWNER, job.job_id)
    assert refused.value.reason is BatchReason.STATE


async def test_a_job_that_is_late_expires(made: Rig) -> None:
    made.execution.script = hanging
    job = await made.submit(lines(5), deadline_s=60.0)
    async with made.running():
        await until_running(made, 3)
        made.now_us += 60_000_000
        ended = await made.ended(job)
    assert (ended.state, ended.succeeded, ended.failed) == (JobState.EXPIRED, 2, 3)
    found = await made.results(job, is_ok=False)
    assert {each.content.partition(b":")[0] for each in found} == {b"batch_expired"}


async def test_a_late_job_rises_in_class(made: Rig) -> None:
    made.limit(items_in_flight=1)

    async def script(call: ItemCall) -> ItemAnswer:
        if call.item.number == 3:
            made.now_us += 95_000_000
        return await answered(call)

    made.execution.script = script
    job = await made.submit(lines(6), deadline_s=100.0)
    async with made.running():
        await made.ended(job)
    classes = [call.slo_class.value for call in made.execution.calls]
    assert classes == ["batch"] * 3 + ["standard"] * 3


@pytest.mark.parametrize("local_only", [False, True])
async def test_a_late_job_has_as_many_waiting_as_its_pace_needs(
    local_only: bool, made: Rig
) -> None:
    made.limit(items_waiting=2)

    async def script(call: ItemCall) -> ItemAnswer:
        await asyncio.Event().wait()
        raise AssertionError

    made.execution.script = script
    job = await made.submit(lines(50), deadline_s=1000.0, terms=JobTerms(local_only=local_only))
    made.now_us = job.deadline_unix_us - 50_000_000
    async with made.running():
        # 50 items in 45 of 50 s, and 5 s to the first token: 6 items, and one more.
        expected = 2 if local_only else 7
        async with asyncio.timeout(30.0):
            while made.execution.now < expected:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert made.execution.now == expected


async def test_a_key_that_may_only_use_batch_stays_there(made: Rig) -> None:
    made.keys["key"] = replace(CALLER, slo_classes=(SloClass.BATCH,))
    job = await made.submit(lines(1), deadline_s=100.0)
    made.now_us += 95_000_000
    async with made.running():
        await made.ended(job)
    assert [call.slo_class.value for call in made.execution.calls] == ["batch"]


async def test_a_key_that_was_removed_runs_nothing(made: Rig) -> None:
    made.keys.clear()
    job = await made.submit(lines(2))
    async with made.running():
        ended = await made.ended(job)
    assert (ended.failed, made.execution.calls) == (2, [])
    [first, _] = await made.results(job)
    assert first.content == b"key_removed: key key is not configured any more"


async def test_a_job_never_passes_its_budget(made: Rig) -> None:
    """Each item costs 100 and needs a promise of 150."""

    async def script(call: ItemCall) -> ItemAnswer:
        call.on_start()
        await asyncio.sleep(0.001)
        assert call.max_cost_nano_usd is not None
        if call.max_cost_nano_usd < 150:
            return ItemAnswer(is_ok=False, content=b"MAX_COST", retry=Retry(for_budget=True))
        return await answered(call)

    made.execution.script = script
    job = await made.submit(lines(30), terms=JobTerms(max_cost_nano_usd=1000))
    async with made.running():
        ended = await made.ended(job)
    # The ninth item leaves 100, which is less than the promise that another one needs.
    assert (ended.succeeded, ended.failed, ended.charged_nano_usd) == (9, 21, 900)


async def test_a_stopped_runner_leaves_its_items_to_the_next_one(made: Rig) -> None:
    """What was charged without a result is corrected, and runs again."""
    made.limit(items_in_flight=6)

    async def charged_but_lost(call: ItemCall) -> ItemAnswer:
        if call.item.number <= 2:
            made.charge(call.request_id)
            return await answered(call)
        call.on_start()
        made.charge(call.request_id, 60)  # settled, and then its gateway is killed
        await asyncio.Event().wait()
        raise AssertionError

    async def good(call: ItemCall) -> ItemAnswer:
        made.charge(call.request_id)
        return await answered(call)

    made.execution.script = charged_but_lost
    job = await made.submit(lines(20))
    async with made.running():
        await until_running(made, 6)
        async with asyncio.timeout(30.0):
            while (await made.job(job)).succeeded < 2:
                await asyncio.sleep(0.02)
    assert await made.charged() == 2 * 100 + 6 * 60
    made.execution.script = good
    async with made.running():
        ended = await made.ended(job)
    assert (ended.state, ended.succeeded) == (JobState.COMPLETED, 20)
    assert await made.charged() == ended.charged_nano_usd == 20 * 100
    found = await made.results(job, in_order=True)
    assert [each.content for each in found] == names(job, 20)


async def test_a_database_that_is_away_at_the_start_delays_the_lane(
    made: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "RETRY_S", 0.01)
    job = await made.submit(lines(3))
    write, refused = made.database.write, 0

    async def away_twice(transaction: Callable[[Tx], Awaitable[T]]) -> T:
        nonlocal refused
        if refused < 2:
            refused += 1
            raise LedgerUnavailable("away")
        return await write(transaction)

    monkeypatch.setattr(made.database, "write", away_twice)
    async with made.running():
        ended = await made.ended(job)
    assert (refused, ended.succeeded) == (2, 3)


async def test_a_fault_of_the_database_that_nobody_expects_loses_no_item(
    made: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = 3

    async def faulty(*arguments: object) -> bytes:
        nonlocal faults
        if faults:
            faults -= 1
            raise RuntimeError("another operation is in progress")
        return await read_bytes(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("gateway.batch.running.item_runs.read_bytes", faulty)
    job = await made.submit(lines(5))
    async with made.running():
        ended = await made.ended(job)
    assert (faults, ended.succeeded, ended.failed) == (0, 5, 0)


async def test_a_job_has_one_runner(made: Rig) -> None:
    made.limit(items_in_flight=5)
    jobs = [await made.submit(lines(40)) for _ in range(4)]
    async with made.running("one"), made.running("two"):
        for job in jobs:
            ended = await made.ended(job)
            assert (ended.succeeded, ended.failed) == (40, 0)
    assert set(Counter(call.request_id for call in made.execution.calls).values()) == {1}


async def test_a_runner_that_lost_its_job_writes_nothing(made: Rig) -> None:
    release = asyncio.Event()

    async def slow(call: ItemCall) -> ItemAnswer:
        call.on_start()
        await release.wait()
        return await answered(call)

    made.execution.script = slow
    job = await made.submit(lines(3))
    async with made.running("old") as old:
        await until_running(made, 3)
        made.now_us += 3_600_000_000  # it was silent for an hour
        [(claim, _)] = await made.database.write(
            lambda tx: claim_jobs(tx, "new", made.now_us, made.now_us + 30_000_000, 5)
        )
        assert claim.fence == 2
        release.set()
        async with asyncio.timeout(30.0):
            while old.jobs:
                await asyncio.sleep(0.02)
    assert (await made.job(job)).succeeded == 0
    made.now_us += 60_000_000
    async with made.running("new"):
        ended = await made.ended(job)
    assert (ended.succeeded, ended.failed) == (3, 0)


async def test_what_a_runner_charged_for_a_job_that_it_lost_is_corrected(made: Rig) -> None:
    """It lives and could not reach the database: its rows come after the other one has taken over
    and has ended the items."""
    stalled = asyncio.Event()

    async def slow(call: ItemCall) -> ItemAnswer:
        call.on_start()
        await stalled.wait()
        made.charge(call.request_id, 60)
        return await answered(call)

    async def good(call: ItemCall) -> ItemAnswer:
        await made.charge_elsewhere(call.request_id)
        return await answered(call)

    made.execution.script = slow
    made.limit(items_in_flight=3)
    job = await made.submit(lines(5))
    async with made.running("old") as old:
        await until_running(made, 3)
        hold = old._hold
        monkey = asyncio.Event()

        async def no_hold() -> None:
            await monkey.wait()
            await hold()

        old._hold = no_hold  # type: ignore[method-assign]
        made.now_us += 3_600_000_000  # it was silent for an hour
        made.execution.script = good
        async with made.running("new"):
            ended = await made.ended(job)
        assert await made.charged() == ended.charged_nano_usd == 500
        stalled.set()
        monkey.set()
        async with asyncio.timeout(30.0):
            while await made.corrected() != -3 * 60:
                await asyncio.sleep(0.02)
    assert (ended.state, ended.succeeded) == (JobState.COMPLETED, 5)
    assert await made.charged() == 500


async def test_a_job_that_was_being_read_is_read_again(made: Rig) -> None:
    job = await made.submit(lines(30))
    [(claim, _)] = await made.database.write(
        lambda tx: claim_jobs(tx, "gw", made.now_us, made.now_us + 30_000_000, 5)
    )
    await made.database.write(
        lambda tx: tx.run(
            "INSERT INTO batch_item VALUES ($1, 1, 'c1', 'moe', 0, 5, 0, 0, 0)", claim.job_id
        )
    )
    async with made.running():
        ended = await made.ended(job)
    assert ended.succeeded == 30
