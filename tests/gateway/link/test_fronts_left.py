"""What a leader's own front ran is booked by the next leader, from the copy of another front."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from msgspec import structs

from gateway.link import own_front_copy
from gateway.link.fronts_left import LEFT_S
from gateway.link.opening import ExpectedFronts, Opening
from gateway.link.own_front_copy import OwnFrontCopy
from gateway.link.remote_scheduler import RemoteScheduler
from gateway.link.wire import front_copies
from gateway.link.wire.messages import LinkError
from gateway.link.wire.resume import AttemptKey, FrontCopy, Resumed
from scheduler.budgets.budget import Budget
from scheduler.budgets.budget_window import Period
from scheduler.contract import AttemptOutcome, Progress, Usage
from scheduler.metering.settlement import SettledAttempt
from scheduler.port import Answer, RequestEnded
from tests.gateway.link.pipes import Joined, JoinedFront, turns
from tests.gateway.scheduling.scheduling_made import (
    ONE_USD,
    Clock,
    attempt_end,
    config,
    running,
    settings_of,
    submission,
)

BUDGET = Budget(tenant="team", key_id="", period=Period.MONTH, cap_nano_usd=2_000_000)


@dataclass
class Ledger:
    """Rows of all leaders. `durable_rows`: as many as there are, unless they are late."""

    rows: list[SettledAttempt] = field(default_factory=list)
    late: int = 0

    @property
    def accepted_rows(self) -> int:
        return len(self.rows)

    @property
    def durable_rows(self) -> int:
        return len(self.rows) - self.late

    def lose_late(self) -> None:
        del self.rows[self.durable_rows :]
        self.late = 0

    async def booked(self, keys: Sequence[AttemptKey]) -> dict[tuple[str, int], SettledAttempt]:
        wanted = {(key.request_id, key.attempt) for key in keys}
        return {
            (row.request_id, row.attempt): row
            for row in self.rows
            if (row.request_id, row.attempt) in wanted
        }


@dataclass
class World:
    """Leaders one after another, each with a front of its own."""

    clock: Clock = field(default_factory=Clock)
    ledger: Ledger = field(default_factory=Ledger)
    term: int = 0
    budgets: list[Budget] = field(default_factory=list)
    slots: int = 4

    def leader(
        self, own: RemoteScheduler | None = None, *, expects: int = 0, gone: bool = False
    ) -> tuple[Joined, JoinedFront]:
        """Another leader, and its own front, which has not joined it."""
        self.term += 1

        async def opened(told: Resumed | None, complete: bool) -> None:
            await joined.host.left.take()
            joined.host.settle_keys(complete=complete)

        own = own or self.remote()
        joined = Joined(
            running(
                settings_of(config(slots=self.slots), catalog=ONE_USD),
                clock=self.clock,
                budgets=self.budgets,
                sink=self.ledger.rows.append,
            ),
            bookings=self.ledger,
            opening=Opening(ExpectedFronts(expects), opened) if expects else None,
            own_copy=OwnFrontCopy(own.record, own.incarnation, self.term, self.clock),
            gone_term=self.term - 1 if gone else 0,
            forgets_unfinished=gone,
        )
        return joined, JoinedFront(own, self.term, joined.host, own=True)

    def remote(self) -> RemoteScheduler:
        return RemoteScheduler(clock=self.clock, handlers={}, on_fleet=lambda view: None)

    async def pair(self) -> tuple[Joined, JoinedFront, JoinedFront]:
        """The first leader, its own front, and another one."""
        joined, own = self.leader()
        await own.join()
        other = await joined.join(100)
        return joined, own, other


async def told(joined: Joined, *fronts: JoinedFront) -> None:
    """Everything arrives, also what is told from time to time."""
    for _ in range(2):
        for front in fronts:
            front.exchange()
        await turns()
        joined.host.tick()
    for front in fronts:
        front.exchange()
    await turns()


async def asked(
    joined: Joined, front: JoinedFront, *others: JoinedFront, name: str = "k/r", key: str = ""
) -> list[Answer]:
    answers: list[Answer] = []
    request = submission(name, idempotency_key=key)
    submitting = asyncio.ensure_future(front.remote.submit(request, answers.append))
    await turns()
    await told(joined, front, *others)
    await submitting
    return answers


def progress(tokens: int) -> Progress:
    return Progress(request_id="k/r", attempt=1, output_tokens=tokens)


async def moved(front: JoinedFront, to: Joined) -> None:
    """The front joins another scheduler, which goes on for a moment."""
    if not front.near.lost:
        front.cut()
    front.host, front.own = to.host, False
    await front.join()
    await told(to, front)


async def moved_together(to: Joined, *fronts: JoinedFront) -> None:
    """Fronts that another scheduler waits for join it."""
    for front in fronts:
        front.host = to.host
    joining = [front.connect() for front in fronts]
    for _ in range(8):
        await told(to, *fronts)
    await asyncio.gather(*joining)


@pytest.mark.parametrize("gone", [False, True])
async def test_a_stream_of_a_killed_leaders_front_is_booked_with_what_was_told(gone: bool) -> None:
    world = World()
    old, own, other = await world.pair()
    await asked(old, own, other)
    own.remote.send(progress(40))
    await told(old, own, other)
    own.remote.send(progress(50))  # of which nobody hears
    new, _ = world.leader(expects=1, gone=gone)
    await moved(other, new)
    if not gone:
        assert not world.ledger.rows, "it may come back, and tell better"
        world.clock.now_s += LEFT_S
        await told(new, other)
    [row] = world.ledger.rows
    assert row.usage is not None
    assert (row.request_id, row.attempt, row.outcome) == ("k/r", 1, AttemptOutcome.FAILED)
    assert (row.usage.completion_tokens, row.usage.estimated) == (40, True)
    assert new.made.local.active_requests == 0
    assert all(not state.residents for state in new.made.local.core.placements)
    assert own.remote.incarnation not in other.remote.copies.fronts, "it is booked"


async def test_an_end_that_was_not_durable_is_booked_as_it_was() -> None:
    world = World()
    old, own, other = await world.pair()
    world.ledger.late = 1
    await asked(old, own, other)
    usage = Usage(prompt_tokens=100, completion_tokens=77)
    own.remote.send(structs.replace(attempt_end("k/r", 1), usage=usage))
    own.remote.send(RequestEnded(request_id="k/r", used_tokens=177, keep_idempotency_key=True))
    await told(old, own, other)
    assert len(world.ledger.rows) == 1
    world.ledger.lose_late()
    new, _ = world.leader(expects=1, gone=True)
    await moved(other, new)
    [row] = world.ledger.rows
    assert row.usage == usage
    assert new.made.local.active_requests == 0


@pytest.mark.parametrize("gone", [False, True])
async def test_what_the_ledger_has_is_not_booked_again(gone: bool) -> None:
    world = World()
    old, own, other = await world.pair()
    await asked(old, own, other)
    kept = other.remote.copies
    own.remote.send(attempt_end("k/r", 1))
    own.exchange()  # booked, but the copy is not told
    new, _ = world.leader(expects=1, gone=gone)
    assert kept.fronts
    await moved(other, new)
    world.clock.now_s += LEFT_S
    await told(new, other)
    assert len(world.ledger.rows) == 1
    assert new.made.local.active_requests == 0
    assert own.remote.incarnation not in kept.fronts


async def test_once_it_is_booked_nothing_is_kept() -> None:
    world = World()
    old, own, other = await world.pair()
    await asked(old, own, other)
    [kept] = other.remote.copies.fronts.values()
    assert len(kept.requests) == 1
    own.remote.send(attempt_end("k/r", 1))
    own.remote.send(RequestEnded(request_id="k/r", used_tokens=9, keep_idempotency_key=True))
    await told(old, own, other)
    await told(old, own, other)
    assert (kept.requests, kept.progress) == ({}, {})


async def test_a_front_that_was_stopped_books_its_streams_itself() -> None:
    world = World()
    old, own, other = await world.pair()
    await asked(old, own, other)
    new, _ = world.leader(expects=1)
    await moved(other, new)
    assert other.remote.copies.fronts
    await moved(own, new)
    await told(new, own, other)
    assert own.remote.incarnation not in other.remote.copies.fronts, "it tells itself"
    world.clock.now_s += LEFT_S
    await told(new, own, other)
    assert not world.ledger.rows
    usage = Usage(prompt_tokens=100, completion_tokens=77)
    own.remote.send(structs.replace(attempt_end("k/r", 1), usage=usage))
    await told(new, own, other)
    assert [row.usage for row in world.ledger.rows] == [usage]


@pytest.mark.parametrize(("gone", "whole"), [(True, True), (True, False), (False, True)])
async def test_a_front_is_accounted_for_that_has_ended_and_left_a_whole_copy(
    gone: bool, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    old, own, other = await world.pair()
    if not whole:
        monkeypatch.setattr(own_front_copy, "PIECE", 0)
    await asked(old, own, other)
    new, _ = world.leader(expects=1, gone=gone)
    await moved(other, new)
    world.clock.now_s += LEFT_S
    await told(new, other)
    assert new.host.left.ended == ({own.remote.incarnation} if gone and whole else set())


async def test_a_front_is_not_accounted_for_whose_copy_has_fallen_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was whole before."""
    world = World()
    old, own, other = await world.pair()
    await asked(old, own, other)
    monkeypatch.setattr(own_front_copy, "PIECE", 0)
    await asked(old, own, other, name="k/later")
    new, _ = world.leader(expects=1, gone=True)
    await moved(other, new)
    assert [row.request_id for row in world.ledger.rows] == ["k/r"]
    assert not new.host.left.ended, "what the later request held is unknown"


async def test_the_leader_after_the_next_books_what_that_one_could_not() -> None:
    world = World()
    old, own, other = await world.pair()
    await asked(old, own, other)
    world.ledger.late = 1
    second, _ = world.leader(expects=1, gone=True)
    await moved(other, second)
    assert len(world.ledger.rows) == 1
    assert other.remote.copies.fronts, "its row is not durable"
    world.ledger.lose_late()
    third, _ = world.leader(expects=1)
    await moved(other, third)
    assert not world.ledger.rows, "that its leader has ended was known to the second one"
    world.clock.now_s += LEFT_S
    await told(third, other)
    assert len(world.ledger.rows) == 1


async def test_another_front_is_told_everything_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_front_copy, "PIECE", 2)
    monkeypatch.setattr(front_copies, "PIECE", 2)
    world = World(slots=8)
    old, own, other = await world.pair()
    for number in range(5):
        await asked(old, own, other, name=f"k/r{number}")
    late = await old.join(101)
    other.cut()
    for count, complete in ((2, False), (4, False), (5, True)):
        old.host.tick()
        late.exchange()
        [kept] = late.remote.copies.fronts.values()
        assert (len(kept.requests), kept.complete) == (count, complete)
    new, _ = world.leader(expects=2, gone=True)
    await moved_together(new, other, late)
    assert sorted(row.request_id for row in world.ledger.rows) == [f"k/r{i}" for i in range(5)]


async def test_the_keeper_of_a_copy_and_then_the_leader_are_killed() -> None:
    """Nothing is told between the two."""
    world = World(slots=8)
    old, own, other = await world.pair()
    third = await old.join(101)
    for number in range(3):
        await asked(old, own, other, third, name=f"k/r{number}")
    other.cut()
    new, _ = world.leader(expects=1, gone=True)
    await moved(third, new)
    assert sorted(row.request_id for row in world.ledger.rows) == [f"k/r{i}" for i in range(3)]


async def test_the_next_leader_is_killed_too_before_it_has_booked() -> None:
    """It was one of those that kept a copy."""
    world = World(slots=8)
    old, own, other = await world.pair()
    third = await old.join(101)
    await asked(old, own, other, third)
    world.ledger.late = 1
    second, its_own = world.leader(other.remote, expects=2, gone=True)
    third.host = second.host
    await moved_together(second, its_own, third)
    assert len(world.ledger.rows) == 1
    world.ledger.lose_late()
    last, _ = world.leader(expects=1, gone=True)
    await moved(third, last)
    world.clock.now_s += LEFT_S
    await told(last, third)
    assert [row.request_id for row in world.ledger.rows] == ["k/r"]


async def test_a_front_that_has_a_copy_keeps_it_when_another_one_ends() -> None:
    world = World()
    old, own, other = await world.pair()
    third = await old.join(101)
    await asked(old, own, other, third)
    [kept] = third.remote.copies.fronts.values()
    other.cut()
    late = await old.join(102)
    await told(old, own, third, late)
    assert list(third.remote.copies.fronts.values()) == [kept], "it is not told anew"
    assert [len(each.requests) for each in late.remote.copies.fronts.values()] == [1]


async def test_a_front_that_was_told_a_part_does_not_outdo_one_that_knows_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_front_copy, "PIECE", 1)
    world = World()
    old, own, other = await world.pair()
    for number in range(3):
        await asked(old, own, other, name=f"k/r{number}")
    late = await old.join(101)
    other.cut()
    old.host.tick()
    late.exchange()
    new, _ = world.leader(expects=2, gone=True)
    await moved_together(new, other, late)
    assert len(world.ledger.rows) == 3


async def test_money_that_a_killed_leaders_front_held_is_settled() -> None:
    world = World(budgets=[BUDGET])
    old, own, other = await world.pair()
    await asked(old, own, other)
    held = old.made.reserved()
    own.remote.send(progress(40))
    await told(old, own, other)
    assert held > 0
    new, _ = world.leader(expects=1, gone=True)
    await moved(other, new)
    [row] = world.ledger.rows
    assert row.charged_nano_usd is not None
    assert 0 < row.charged_nano_usd < held
    assert new.made.reserved() == 0


@pytest.mark.parametrize("started", [False, True])
async def test_the_key_of_a_request_that_waited_is_free(started: bool) -> None:
    world = World(slots=2, budgets=[BUDGET])
    old, own, other = await world.pair()
    for number in range(2):
        await asked(old, own, other, name=f"k/before{number}")
    await asked(old, own, other, key="once")
    if started:
        own.remote.send(structs.replace(attempt_end("k/before0", 1)))
        own.exchange()  # the copy is not told of the start, only the key's use
        own.exchange()
        other.exchange()
    new, _ = world.leader(expects=1, gone=True)
    await moved(other, new)
    answers = await asked(new, other, name="k/again", key="once")
    assert (type(answers[0]).__name__ == "Refuse") == started


async def test_a_copy_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_front_copy, "MAX_REQUESTS", 1)
    world = World()
    old, own, other = await world.pair()
    for number in range(3):
        await asked(old, own, other, name=f"k/r{number}")
    [kept] = other.remote.copies.fronts.values()
    assert len(kept.requests) == 1
    copies = front_copies.FrontCopies()
    for number in range(front_copies.MAX_FRONTS + 1):
        copies.keep(FrontCopy(front=f"f{number}", term=1), 0.0)
    assert list(copies.fronts) == [f"f{n}" for n in range(1, front_copies.MAX_FRONTS + 1)]
    monkeypatch.setattr(front_copies, "MAX_REQUESTS", 0)
    [state] = kept.states(0.0)
    with pytest.raises(LinkError):
        copies.keep(FrontCopy(front="f", term=1, requests=(state,)), 0.0)


async def test_a_keeper_that_does_not_read_is_told_anew_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(own_front_copy, "MAX_CHANGES", 2)
    world = World()
    old, own, other = await world.pair()
    await asked(old, own, other, name="k/first")
    other.host_side.pause_writing()
    for number in range(3):
        await asked(old, own, name=f"k/r{number}")
        old.host.tick()
    other.host_side.resume_writing()
    await told(old, own, other)
    [kept] = other.remote.copies.fronts.values()
    assert len(kept.requests) == 4
    assert kept.complete
