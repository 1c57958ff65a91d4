"""The order of a job's items: of each model by itself, and anew as more is known of experts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.batch.jobs import JobState
from gateway.batch.running import item_runs, ordering, runner
from gateway.batch.running.execution import ItemAnswer, ItemCall
from gateway.batch.running.ordering import order_by_model
from scheduler.engine_steps import ExpertSignature
from scheduler.prefix.expert_affinity import LEAST_OBSERVED, ExpertTable
from scheduler.prefix.item_order import order_items
from tests.gateway.batch.rig import Rig, answered, line, rig

DOMAINS = 3


@pytest.fixture
async def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(runner, "POLL_S", 0.02)
    async with rig(tmp_path) as found:
        yield found


def text(number: int) -> str:
    """Of the domains in turn, and no two alike."""
    return f"{'ABC'[number % DOMAINS] * 60}{number}"


def job_of(count: int) -> bytes:
    return b"\n".join(line(f"c{number}", text(number)) for number in range(count))


def told(made: Rig, call: ItemCall) -> None:
    """What an engine tells of an item: the experts of its domain."""
    domain = (call.item.number - 1) % DOMAINS
    experts = (tuple(range(8 * domain, 8 * domain + 8)),)
    made.experts.observe([ExpertSignature(request_id=call.request_id, experts=experts)])


def by_experts(beginnings: Sequence[bytes], table: ExpertTable | None) -> Sequence[int]:
    """The order of the file until experts are known."""
    return range(len(beginnings)) if table is None else order_items(beginnings, table)


def switches(calls: Sequence[ItemCall]) -> int:
    return sum(
        (one.item.number - other.item.number) % DOMAINS != 0 for one, other in pairwise(calls)
    )


def test_each_model_has_an_order_of_its_own() -> None:
    given: list[tuple[list[bytes], ExpertTable | None]] = []

    def backwards(beginnings: Sequence[bytes], table: ExpertTable | None) -> Sequence[int]:
        given.append((list(beginnings), table))
        return range(len(beginnings))[::-1]

    found = order_by_model(backwards, ["a", "b", "a", "b"], [b"0", b"1", b"2", b"3"], {})
    assert found == [2, 0, 3, 1]
    assert given == [([b"0", b"2"], None), ([b"1", b"3"], None)]


async def test_items_that_wait_are_ordered_as_experts_become_known(
    made: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordering, "WINDOW_ITEMS", 100)
    monkeypatch.setattr(item_runs, "TAKE_ITEMS", 10)
    made.limit(items_in_flight=8)
    made.order = by_experts
    made.experts.observe([ExpertSignature(request_id="of a person", experts=((1,),))])

    async def script(call: ItemCall) -> ItemAnswer:
        told(made, call)
        await asyncio.sleep(0.002)  # lets the order be found meanwhile
        return await answered(call)

    made.execution.script = script
    job = await made.submit(job_of(360))
    async with made.running():
        ended = await made.ended(job)
    assert (ended.state, ended.succeeded) == (JobState.COMPLETED, 360)
    calls = made.execution.calls
    assert set(Counter(call.item.number for call in calls).values()) == {1}
    assert switches(calls[:LEAST_OBSERVED]) == LEAST_OBSERVED - 1
    assert switches(calls[-120:]) < 30


async def test_a_later_job_is_ordered_by_what_an_earlier_one_showed(made: Rig) -> None:
    made.order = by_experts
    made.limit(items_in_flight=4)
    made.experts.observe([ExpertSignature(request_id="of a person", experts=((1,),))])

    async def script(call: ItemCall) -> ItemAnswer:
        told(made, call)
        return await answered(call)

    made.execution.script = script
    async with made.running():
        await made.ended(await made.submit(job_of(90)))
        made.execution.calls.clear()
        await made.ended(await made.submit(job_of(90)))
    # Four at once begin in about the order of their places.
    assert switches(made.execution.calls) < 15


async def test_no_text_is_kept_while_no_engine_tells_experts(made: Rig) -> None:
    async with made.running():
        await made.ended(await made.submit(job_of(5)))
    made.experts.observe(
        [
            ExpertSignature(request_id=call.request_id, experts=((1,),))
            for call in made.execution.calls
        ]
    )
    assert made.experts.observed("team", "moe") == 0


async def test_an_order_that_cannot_be_found_costs_no_item(
    made: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_runs, "TAKE_ITEMS", 10)
    made.limit(items_in_flight=8)
    failures = [LedgerUnavailable("away"), ValueError("a fault")]

    raised: list[ExpertTable] = []

    def order(beginnings: Sequence[bytes], table: ExpertTable | None) -> Sequence[int]:
        if table is not None:
            raised.append(table)
            raise failures[len(raised) % 2]
        return range(len(beginnings))

    made.order = order
    made.experts.observe([ExpertSignature(request_id="of a person", experts=((1,),))])

    async def script(call: ItemCall) -> ItemAnswer:
        told(made, call)
        await asyncio.sleep(0.001)
        return await answered(call)

    made.execution.script = script
    job = await made.submit(job_of(200))
    async with made.running():
        ended = await made.ended(job)
    assert (ended.state, ended.succeeded) == (JobState.COMPLETED, 200)
    assert len(raised) > 1
