"""Work in slices: the event loop gets its turns, results and errors arrive."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from gateway.domain import slices
from gateway.domain.slices import SLICE_S, Steps, finish, in_one_slice, in_slices


def spend(steps: int, step_s: float) -> Steps[str]:
    for _ in range(steps):
        ends_s = time.perf_counter() + step_s
        while time.perf_counter() < ends_s:
            pass
        yield
    return "done"


def fails() -> Steps[str]:
    yield
    raise ValueError("at a step")


def test_finish_returns_the_result() -> None:
    assert finish(spend(3, 0)) == "done"


async def test_the_loop_turns_between_slices() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    try:
        assert await in_slices(spend(20, SLICE_S)) == "done"
    finally:
        task.cancel()
    assert turns >= 20  # each step fills a slice


async def test_short_work_does_not_wait_for_the_loop() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        turns += 1

    task = asyncio.create_task(other())
    assert await in_slices(spend(0, 0)) == "done"
    assert turns == 0
    await task


async def test_an_error_of_a_step_arrives() -> None:
    with pytest.raises(ValueError, match="at a step"):
        await in_slices(fails())


@pytest.mark.parametrize(("step_s", "turns"), [(SLICE_S, 1), (0, 0)])
async def test_long_work_at_the_end_is_followed_by_a_turn(
    step_s: float, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, now_s = 0, 1.0
    monkeypatch.setattr(slices, "time", SimpleNamespace(perf_counter=lambda: now_s))

    async def other() -> None:
        nonlocal taken
        taken += 1

    def work() -> str:
        nonlocal now_s
        now_s += step_s
        return "done"

    def last() -> Steps[str]:
        return work()
        yield

    task = asyncio.create_task(other())
    assert await in_slices(last()) == "done"
    assert taken == turns
    await task
    taken = 0
    task = asyncio.create_task(other())
    assert await in_one_slice(work) == "done"
    assert taken == turns
    await task


async def test_pieces_of_work_in_a_row_share_a_slice() -> None:
    taken = 0

    async def other() -> None:
        nonlocal taken
        taken += 1

    task = asyncio.create_task(other())
    for _ in range(4):
        await in_slices(spend(1, SLICE_S / 3))
    assert taken == 1
    await task
