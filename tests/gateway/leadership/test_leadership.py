"""Leadership asks the database for the candidate, tells of changes, and watches the clock."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest

from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.leadership import leadership as module
from gateway.leadership.candidate import Leader, Row
from gateway.leadership.leadership import Leadership, lease_clock

LEASE_S = 3.0
WAIT_S = 30.0
NOBODY = Leader(term=0, name="", address="", wire_version=0)


@dataclass
class MemoryLease:
    """The row in memory, by one clock. `hung`: questions find no answer while it is set."""

    leader: Leader = NOBODY
    expires_s: float = float("-inf")
    hung: asyncio.Event = field(default_factory=asyncio.Event)
    broken: bool = False
    ended: set[int] = field(default_factory=set)
    on_warning: list[Callable[[], None]] = field(default_factory=list)

    async def _begin(self) -> float:
        if self.broken:
            raise LedgerUnavailable("broken")
        while self.hung.is_set():
            await asyncio.sleep(0.01)
        return lease_clock()

    async def look(self) -> Row:
        now_s = await self._begin()
        return Row(leader=self.leader, left_s=self.expires_s - now_s)

    async def take(self, address: str, wire_version: int, gone: int) -> Leader | None:
        now_s = await self._begin()
        if self.expires_s > now_s and gone not in self.ended:
            return None
        term = self.leader.term + 1
        self.leader = Leader(
            term=term, name=f"leader-{term}", address=address, wire_version=wire_version
        )
        self.expires_s = now_s + LEASE_S
        return self.leader

    async def renew(self, term: int, lease_s: float) -> bool:
        now_s = await self._begin()
        if term != self.leader.term or now_s >= self.expires_s:
            return False
        self.expires_s = max(self.expires_s, now_s + lease_s)
        return True

    async def release(self, term: int) -> None:
        await self._begin()
        if term == self.leader.term:
            self.expires_s = float("-inf")

    async def warn(self) -> None:
        await self._begin()
        for told in self.on_warning:
            told()


@contextlib.asynccontextmanager
async def member(
    lease: MemoryLease,
    name: str,
    address: str = "127.0.0.1:1",
    on_change: Callable[[], None] = lambda: None,
) -> AsyncIterator[Leadership]:
    found = Leadership(
        name=name, address=address, wire_version=1, lease_s=LEASE_S, on_change=on_change
    )
    running = asyncio.create_task(found.run(lease))
    try:
        yield found
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_one_leads_and_the_other_follows() -> None:
    lease = MemoryLease()
    changes: list[tuple[Leader | None, int]] = []

    def changed() -> None:
        changes.append((one.leader, one.term))

    async with member(lease, "one", on_change=changed) as one:
        await until(lambda: one.term)
        async with member(lease, "two") as two:
            await until(lambda: two.leader is not None)
            assert two.leader == one.leader == lease.leader
            assert (one.term, two.term) == (1, 0)
    assert changes == [(lease.leader, 1)], "told once"


async def test_the_next_one_takes_over_at_once_when_it_is_given_back() -> None:
    lease = MemoryLease()
    async with member(lease, "one") as one:
        await until(lambda: one.term)
        async with member(lease, "two") as two:
            await until(lambda: two.leader is not None)
            one.withdraw()
            assert one.term == 0, "at once"
            await one.withdrawn(WAIT_S)
            two.notify_changed()
            await until(lambda: two.term == 2)
            await until(lambda: one.leader == two.leader)


async def test_a_leader_that_gets_no_answer_stops_before_its_lease_ends_in_the_database() -> None:
    lease = MemoryLease()
    told: list[float] = []

    def changed() -> None:
        if not one.term and one.leader is None:
            told.append(lease.expires_s - lease_clock())

    async with member(lease, "one", on_change=changed) as one:
        await until(lambda: one.term)
        lease.hung.set()
        await until(lambda: told)
        assert told[0] > 0, "another process could have led already"
        assert one.term == 0
        lease.hung.clear()
        await until(lambda: one.term == 2)


async def test_a_database_that_fails_for_a_moment_ends_no_term() -> None:
    lease = MemoryLease()
    async with member(lease, "one") as one:
        await until(lambda: one.term)
        lease.broken = True
        await until(lambda: lease.expires_s - lease_clock() < LEASE_S - 1.2)
        lease.broken = False
        await until(lambda: lease.expires_s - lease_clock() > LEASE_S - 0.9)
        assert one.term == 1


async def test_a_clock_that_has_passed_the_end_unseen_ends_the_term() -> None:
    """As after a stop of the process: no task has run, and `term` says it nevertheless."""
    ahead_s = 0.0
    lease = MemoryLease()
    found = Leadership(
        name="one",
        address="",
        wire_version=1,
        lease_s=LEASE_S,
        on_change=lambda: None,
        clock=lambda: lease_clock() + ahead_s,
    )
    running = asyncio.create_task(found.run(lease))
    await until(lambda: found.term)
    ahead_s = LEASE_S
    assert found.term == 0
    assert found.leader is None
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_closed_port_lets_another_take_over_where_the_database_agrees() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"  # bound, but nothing listens
        lease = MemoryLease()
        lease.leader = Leader(term=1, name="dead", address=address, wire_version=1)
        lease.expires_s = lease_clock() + 3600.0
        async with member(lease, "two") as two:
            await until(lambda: two.leader is not None)
            assert two.leader is not None
            two.suspect(two.leader)
            assert two._probing is not None
            await asyncio.wait({two._probing})
            await asyncio.sleep(0.05)
            assert two.term == 0, "its connection to the database stands"
            lease.ended.add(1)
            two.suspect(lease.leader)
            await until(lambda: two.term == 2)


async def test_an_open_port_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    async with await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()[:2]
        lease = MemoryLease(ended={1})
        lease.leader = Leader(term=1, name="x", address=f"{host}:{port}", wire_version=1)
        lease.expires_s = lease_clock() + 3600.0
        looks = 0

        async def look() -> Row:
            nonlocal looks
            looks += 1
            return Row(leader=lease.leader, left_s=lease.expires_s - lease_clock())

        monkeypatch.setattr(lease, "look", look)
        async with member(lease, "two") as two:
            await until(lambda: two.leader is not None)
            before = looks
            two.suspect(lease.leader)
            await until(lambda: looks > before)
            assert two.term == 0


async def test_who_cannot_lead_lets_others_try(monkeypatch: pytest.MonkeyPatch) -> None:
    lease = MemoryLease()
    async with member(lease, "one") as one:
        await until(lambda: one.term)
        one.resign(0.2)
        assert one.term == 0
        await until(lambda: one.term == 2)


async def test_another_leader_ends_the_term() -> None:
    lease = MemoryLease()
    async with member(lease, "one") as one:
        await until(lambda: one.term)
        lease.leader = Leader(term=9, name="two", address="", wire_version=1)
        one.notify_changed()
        await until(lambda: one.leader == lease.leader)
        assert one.term == 0


def test_the_clock_goes_on() -> None:
    before = lease_clock()
    assert lease_clock() >= before
    assert module.PROBE_S < LEASE_S
