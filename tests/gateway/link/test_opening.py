"""A new scheduler admits requests when the fronts of the one before are back, or soon."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from gateway.link.opening import LONGEST_S, ExpectedFronts, Opening
from gateway.link.wire.resume import Resumed
from tests.gateway.link.pipes import turns


class Opened:
    """What an opening has led to."""

    def __init__(self, fronts: int, names: Iterable[str] = (), missed: str | None = None) -> None:
        self.found: list[tuple[Resumed | None, bool]] = []
        expected = ExpectedFronts(fronts, frozenset(names))
        self.opening = Opening(expected, self.on_open, missed=missed)

    async def on_open(self, told: Resumed | None, complete: bool) -> None:
        self.found.append((told, complete))

    def join(self, incarnation: str, version: int) -> asyncio.Task[None]:
        told = Resumed(reports=0, slots={}, fleet_version=version)
        return asyncio.create_task(self.opening.joined(incarnation, told))


async def test_it_waits_for_all_and_takes_the_newest_view() -> None:
    made = Opened(2)
    first = made.join("a", 7)
    again = made.join("a", 7)
    await turns()
    assert not first.done(), "the same front twice is one"
    second = made.join("b", 5)
    await asyncio.gather(first, again, second)
    [(told, complete)] = made.found
    assert told is not None
    assert (told.fleet_version, complete) == (7, True)
    await made.join("late", 9)
    assert len(made.found) == 1


async def test_it_waits_for_those_that_are_named_whoever_else_comes() -> None:
    made = Opened(0, ("a", "b"))
    joining = [made.join(name, 1) for name in ("new", "newer", "a")]
    await turns()
    assert not made.found, "two fronts that know nothing are not those that are expected"
    await asyncio.gather(made.join("b", 1), *joining)
    assert [complete for _, complete in made.found] == [True]


async def test_it_does_not_wait_for_a_front_that_does_not_come() -> None:
    made = Opened(2)
    first = made.join("a", 7)
    await turns()
    made.opening.tick(100.0)
    made.opening.tick(100.0 + LONGEST_S - 0.1)
    await turns()
    assert not first.done()
    made.opening.tick(100.0 + LONGEST_S)
    await first
    assert [complete for _, complete in made.found] == [False]


async def test_all_are_known_once_the_front_that_is_not_waited_for_has_told_too() -> None:
    made = Opened(0, ("a", "b"), missed="lost")
    first = made.join("a", 1)
    await turns()
    made.opening.tick(100.0)
    made.opening.tick(100.0 + LONGEST_S)
    await first
    for name in ("lost", "new", "a"):
        await made.join(name, 1)
        assert not made.opening.all_known.is_set()
    await made.join("b", 1)
    assert made.opening.all_known.is_set()


async def test_a_front_that_has_ended_is_accounted_for_by_its_copy() -> None:
    made = Opened(0, ("a",), missed="lost")
    made.opening.account_for("lost")
    assert not made.opening.all_known.is_set()
    await made.join("a", 1)
    assert made.opening.all_known.is_set()


async def test_fronts_that_may_be_more_are_never_all_known() -> None:
    unknown, none = Opened(0, ("a",)), Opened(0, ("a",), missed="")
    for made in (unknown, none):
        await made.join("a", 1)
    assert not unknown.opening.all_known.is_set()
    assert none.opening.all_known.is_set()


async def test_a_fault_in_what_was_told_does_not_keep_it_shut() -> None:
    made = Opened(1)

    async def fails(told: Resumed | None, complete: bool) -> None:
        raise RuntimeError("no")

    made.opening._on_open = fails
    await made.join("a", 1)
