"""Tasks by key: only the difference starts and ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.fleet.keyed_tasks import Difference, KeyedTasks


class Recorded:
    """Keyed tasks that record their starts and ends."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.live: dict[str, int] = {}
        self.tasks: KeyedTasks[str, int] = KeyedTasks("test", self._work)

    async def _work(self, key: str, settings: int) -> None:
        self.events.append(f"{key}{settings} starts")
        assert key not in self.live, "the old task of the key still runs"
        self.live[key] = settings
        try:
            await asyncio.Event().wait()
        finally:
            del self.live[key]
            self.events.append(f"{key}{settings} ends")

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        run = asyncio.create_task(self.tasks.run())
        await settled()
        try:
            yield
        finally:
            run.cancel()
            await asyncio.wait([run])


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_only_the_difference_starts_and_ends() -> None:
    recorded = Recorded()
    first = recorded.tasks.apply({"a": 1, "b": 1})
    assert first == Difference(added=("a", "b"), changed=(), removed=())
    assert not recorded.events, "nothing runs before run does"
    async with recorded.running():
        assert recorded.events == ["a1 starts", "b1 starts"]
        recorded.events.clear()
        second = recorded.tasks.apply({"c": 1, "b": 2, "a": 1})
        assert second == Difference(added=("c",), changed=("b",), removed=())
        await settled()
        assert recorded.events == ["b1 ends", "b2 starts", "c1 starts"]
        recorded.events.clear()
        assert recorded.tasks.apply({"a": 1}).removed == ("c", "b")
        await settled()
        assert recorded.events == ["c1 ends", "b2 ends"]
    assert recorded.live == {}


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)), max_size=8))
def test_after_each_change_exactly_the_wanted_tasks_run(rounds: list[dict[str, int]]) -> None:
    async def check() -> None:
        recorded = Recorded()
        async with recorded.running():
            before: dict[str, int] = {}
            for wanted in rounds:
                recorded.events.clear()
                recorded.tasks.apply(wanted)
                await settled()
                assert recorded.live == wanted
                starts = {f"{k}{s} starts" for k, s in wanted.items() if before.get(k) != s}
                assert {event for event in recorded.events if "starts" in event} == starts
                before = wanted

    asyncio.run(check())


async def test_a_task_that_fails_ends_the_run() -> None:
    async def fails(key: str, settings: int) -> None:
        raise RuntimeError(key)

    tasks: KeyedTasks[str, int] = KeyedTasks("test", fails)
    tasks.apply({"a": 1})
    with pytest.raises(ExceptionGroup) as caught:
        await tasks.run()
    assert [str(error) for error in caught.value.exceptions] == ["a"]
    assert not tasks.running
