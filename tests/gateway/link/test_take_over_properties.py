"""Gateways of a cluster that start, fail and lead one after another, in any order of what arrives.

A leader that admits requests knows every idempotency key that a front knows which it has to wait
for, whoever else has joined it. One that fails once all have heard of each other takes no key with
it, also not those of its own front. One that holds all fronts of before for known has been told by
each of them what it runs, whatever failed in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.cluster.leading import expected
from gateway.leadership.lease_row import LeaderBefore
from gateway.link.opening import FrontListing, Opening
from gateway.link.remote_scheduler import RemoteScheduler
from gateway.link.wire.resume import Resumed
from scheduler.port import Answer, RequestEnded, Started
from tests.gateway.link.pipes import Joined, JoinedFront, turns
from tests.gateway.scheduling.scheduling_made import (
    ONE_USD,
    Clock,
    config,
    running,
    settings_of,
    submission,
)

T = TypeVar("T")
KEYS = tuple(f"key{number}" for number in range(2))
MOST = 4
"""Gateways at once."""


@dataclass
class LeaseNames:
    """What the row of the lease says: the leader, and the fronts that the next one waits for."""

    term: int = 0
    leader: str = ""
    names: frozenset[str] = frozenset()
    are_its_own: bool = False
    """Whether the leader has written the names."""

    def take(self, name: str) -> LeaderBefore:
        """Another process leads; the one before has not given its lease back."""
        names = self.names - {self.leader}
        missed = self.leader if self.are_its_own else None
        self.term, self.leader, self.names = self.term + 1, name, names
        self.are_its_own = False
        return LeaderBefore(len(names), complete=False, names=names, missed=missed)


@dataclass(eq=False)
class Gateway:
    """A process. `stopped`: it does nothing now. `awaited`: the leader has to wait for it."""

    name: str
    front: JoinedFront
    stopped: bool = False
    awaited: bool = True
    joining: asyncio.Future[bytes] | None = None
    running: dict[str, str] = field(default_factory=dict)
    """Requests that it runs, and their keys."""

    def __repr__(self) -> str:
        return self.name

    def uses(self) -> dict[str, str]:
        """The keys that it knows of, and the requests that have them."""
        told = self.front.remote.record.resumed(0.0).remembered
        known = {each.idempotency_key: each.client_id for each in told}
        return known | {key: name for name, key in self.running.items()}


def ignored(done: asyncio.Future[Any]) -> None:
    """A submission ends with its gateway."""
    if not done.cancelled():
        done.exception()


class TakeOvers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.row = LeaseNames()
        self.gateways: list[Gateway] = []
        self.started = 0
        self.asked = 0
        self.wrong: list[str] = []
        self.leader: Gateway
        self.joined: Joined

    def run_now(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        async def begin() -> None:
            await self.start()
            await self.lead(self.gateways[0])
            await self.start()
            await self.start()
            await self.settle()

        self.run_now(begin())

    # What gateways do.

    async def start(self) -> None:
        self.started += 1
        name = f"g{self.started}"
        remote = RemoteScheduler(
            clock=self.clock, handlers={}, on_fleet=lambda view: None, incarnation=name
        )
        host = self.joined.host if hasattr(self, "joined") else None
        front = JoinedFront(remote, self.started, host)  # type: ignore[arg-type]
        self.gateways.append(Gateway(name, front))
        if host is not None:
            await self.connect(self.gateways[-1])

    async def lead(self, gateway: Gateway) -> None:
        """A gateway takes the lease."""
        before = self.row.take(gateway.name)
        term = self.row.term

        async def opened(told: Resumed | None, complete: bool) -> None:
            assert complete

        self.leader = gateway
        self.joined = Joined(
            running(settings_of(config(slots=64), catalog=ONE_USD), clock=self.clock),
            opening=Opening(expected(before, gateway.name), opened, missed=before.missed)
            if term > 1
            else None,
            listing=FrontListing(before.names or (), lambda: None),
            may_act=lambda: self.row.term == term,
        )
        await self.connect(gateway)

    async def connect(self, gateway: Gateway) -> None:
        """A front joins the leader."""
        front = gateway.front
        if front.remote.connection is not None and not front.near.lost:
            front.cut()
        await self.forget_joining(gateway)
        front.host, front.may_act = self.joined.host, self.joined.may_act
        front.own = gateway is self.leader
        gateway.joining = front.connect()
        await turns()

    async def forget_joining(self, gateway: Gateway) -> None:
        joining, gateway.joining = gateway.joining, None
        if joining is not None:
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)

    async def arrive(self, gateway: Gateway) -> None:
        """What is on its way between a front and the leader arrives."""
        if gateway.front.host is not self.joined.host:
            return
        for _ in range(4):
            gateway.front.exchange()
            await turns()
        gateway.awaited |= gateway.front.remote.joined.is_set()

    async def renew(self, *, answered: bool = True) -> None:
        """The leader renews its lease. `answered`: it hears of that."""
        host, listing = self.joined.host, self.joined.listing
        assert listing is not None
        names = host.incarnations if host.is_open else None
        if names is not None:
            listing.writing(names)
            self.row.names, self.row.are_its_own = names, True
        if answered:
            listing.renewed(names)
        await turns()

    async def fail(self, gateway: Gateway, *, killed: bool) -> None:
        """A gateway is killed or stopped."""
        if killed:
            self.gateways.remove(gateway)
            if not gateway.front.near.lost:
                gateway.front.cut()
            await self.forget_joining(gateway)
        else:
            gateway.stopped = True
            gateway.awaited = gateway is not self.leader

    async def ask(self, gateway: Gateway, key: str, *, ends: bool = False) -> None:
        """A client asks a gateway, under a key. `ends`: the answer is short."""
        self.asked += 1
        name, remote = f"r{self.asked}", gateway.front.remote

        def deliver(answer: Answer) -> None:
            if not isinstance(answer, Started):
                return
            for each in self.gateways:
                used = each.uses().get(key, name)
                if each.awaited and not each.stopped and used != name:
                    self.wrong.append(f"{name} runs under {key} of {used}, as {each} knows")
            gateway.running[name] = key
            if ends:
                del gateway.running[name]
                end = RequestEnded(request_id=name, used_tokens=9, keep_idempotency_key=True)
                self.loop.call_soon(remote.send, end)

        asked = submission(name, idempotency_key=key)
        asyncio.ensure_future(remote.submit(asked, deliver)).add_done_callback(ignored)
        await turns()
        await self.arrive(gateway)

    async def settle(self) -> None:
        """All that run have joined, and have been told everything."""
        for gateway in self.well():
            if gateway.front.host is not self.joined.host or gateway.front.near.lost:
                await self.connect(gateway)
        for _ in range(4):
            for gateway in self.well():
                await self.arrive(gateway)
            await self.renew()
            self.joined.host.tick()

    def well(self) -> list[Gateway]:
        return [gateway for gateway in self.gateways if not gateway.stopped]

    # The rules.

    @invariant()
    def no_key_runs_twice(self) -> None:
        assert not self.wrong

    @invariant()
    def who_is_accounted_for_has_told(self) -> None:
        opening = self.joined.opening
        if opening is None or not opening.all_known.is_set():
            return
        for gateway in self.gateways:
            if gateway.running:
                kept = self.joined.host._kept.get(gateway.name)
                assert kept is not None, gateway
                assert kept.session.has_resumed, gateway

    @precondition(lambda self: len(self.gateways) < MOST)
    @rule(at_once=st.booleans())
    def another_one_starts(self, at_once: bool) -> None:
        async def start() -> None:
            await self.start()
            if at_once:
                await self.arrive(self.gateways[-1])

        self.run_now(start())

    @rule(data=st.data(), at_once=st.booleans())
    def it_joins(self, data: st.DataObject, at_once: bool) -> None:
        gateway = data.draw(st.sampled_from(self.well()))

        async def join() -> None:
            await self.connect(gateway)
            if at_once:
                await self.arrive(gateway)

        self.run_now(join())

    @rule(data=st.data())
    def it_hears(self, data: st.DataObject) -> None:
        self.run_now(self.arrive(data.draw(st.sampled_from(self.well()))))

    @rule(answered=st.booleans())
    def the_leader_renews(self, answered: bool) -> None:
        self.run_now(self.renew(answered=answered))

    @rule()
    def time_passes(self) -> None:
        async def tick() -> None:
            self.joined.host.tick()
            await turns()

        self.run_now(tick())

    @precondition(lambda self: len(self.well()) > 1)
    @rule(data=st.data(), killed=st.booleans(), key=st.sampled_from((*KEYS, "")))
    def the_leader_fails(self, data: st.DataObject, killed: bool, key: str) -> None:
        """`key`: asked for at a gateway that has just started, and whose front comes first."""

        async def fail() -> None:
            await self.fail(self.leader, killed=killed)
            await self.lead(data.draw(st.sampled_from(self.well())))
            if key and len(self.gateways) <= MOST:
                await self.arrive(self.leader)
                await self.start()
                await self.arrive(self.gateways[-1])
                await self.renew()
                await self.ask(self.gateways[-1], key)

        self.run_now(fail())

    @precondition(lambda self: len(self.well()) > 1)
    @rule(data=st.data())
    def it_is_killed(self, data: st.DataObject) -> None:
        others = [gateway for gateway in self.well() if gateway is not self.leader]
        killed = data.draw(st.sampled_from(others))

        async def fail() -> None:
            await self.fail(killed, killed=True)
            # The next leader would wait for it as long as it may.
            self.joined.host.lose(killed.front.number)
            self.row.names -= {killed.name}
            await turns()

        if self.joined.host.is_open:
            self.run_now(fail())

    @precondition(lambda self: any(gateway.stopped for gateway in self.gateways))
    @rule(data=st.data())
    def it_goes_on(self, data: st.DataObject) -> None:
        stopped = [gateway for gateway in self.gateways if gateway.stopped]
        gateway = data.draw(st.sampled_from(stopped))
        gateway.stopped = False
        self.run_now(self.connect(gateway))

    @rule(data=st.data(), key=st.sampled_from(KEYS), ends=st.booleans())
    def a_client_asks(self, data: st.DataObject, key: str, ends: bool) -> None:
        self.run_now(self.ask(data.draw(st.sampled_from(self.well())), key, ends=ends))

    @precondition(lambda self: len(self.well()) > 1)
    @rule(data=st.data())
    def one_failure_takes_no_key_with_it(self, data: st.DataObject) -> None:
        async def fail() -> None:
            await self.settle()
            claims = self.joined.made.local.claims
            used = set(claims.idempotency_keys())
            await self.fail(self.leader, killed=True)
            await self.lead(data.draw(st.sampled_from(self.well())))
            await self.settle()
            assert used <= set(self.joined.made.local.claims.idempotency_keys())

        self.run_now(fail())

    def teardown(self) -> None:
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()

        async def gathered() -> None:
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run_now(gathered())
        self.loop.close()


TestTakeOvers = TakeOvers.TestCase
TestTakeOvers.settings = settings(
    report_multiple_bugs=False, max_examples=60, stateful_step_count=40, deadline=None
)
