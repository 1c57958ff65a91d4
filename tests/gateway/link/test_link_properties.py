"""Two fronts and a scheduler: messages, broken connections, losses, restarts and take-overs in any
order.

Each branch gets one decision at a time. Each attempt is booked once, whatever breaks: the end of an
attempt of a front that lives is in the ledger in the end, with the tokens that the front counted,
and never twice. What a front ran that died is settled from its last progress. Nothing leaks. Bytes
are delivered in pieces, at any time. A scheduler that is started again has the ledger's rows that
were durable, and nothing else. One that another has taken over from lives on: fronts are still
connected to it, but it books nothing more, and no frame passes its connections.

One of the fronts may be in the scheduler's process. They end together, and what the other front was
told of its attempts is booked once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from msgspec import structs

from gateway.link.fronts_left import LEFT_S
from gateway.link.opening import LONGEST_S, ExpectedFronts, Opening
from gateway.link.own_front_copy import OwnFrontCopy
from gateway.link.remote_scheduler import RemoteScheduler
from gateway.link.wire.resume import AttemptKey, Resumed, attempt_keys
from scheduler.budgets.budget import Budget
from scheduler.budgets.budget_window import Period
from scheduler.contract import AttemptOutcome, Evict, Progress, Refuse, Request, Start, Usage
from scheduler.limits.idempotency import REMEMBERED_S
from scheduler.limits.rate_limit import RateLimits
from scheduler.metering.settlement import SettledAttempt
from scheduler.port import (
    NOT_ADMITTED,
    Answer,
    BranchKind,
    CountPrompt,
    RequestEnded,
    Settled,
    SlotFreed,
    Started,
    Submission,
    Waiting,
)
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

T = TypeVar("T")
CONCURRENT = RateLimits(concurrent_requests=6)
BUDGET = Budget(tenant="team", key_id="", period=Period.MONTH, cap_nano_usd=2_000_000)
IDS = tuple(f"r{number}" for number in range(8))


@dataclass
class Books:
    """The ledger of all schedulers: what is booked, and since when. The last `late` rows are not
    durable, and a restart loses them."""

    clock: Clock
    late: int = 0
    rows: list[tuple[float, SettledAttempt]] = field(default_factory=list)
    accepted_rows: int = 0
    kept: int = 0
    """Rows that a restart has kept: they are durable."""
    epoch: int = 0
    """Of the newest scheduler: rows of earlier ones are refused."""
    refused: int = 0

    @property
    def durable_rows(self) -> int:
        return self.accepted_rows - (len(self.rows) - self._durable)

    @property
    def _durable(self) -> int:
        return max(self.kept, len(self.rows) - self.late)

    def add(self, account: SettledAttempt, epoch: int) -> None:
        if epoch != self.epoch:
            self.refused += 1
            return
        # No two rows at one time: the clock of a test stands still.
        self.clock.now_s += 1e-6
        self.rows.append((self.clock.now_s, account))
        self.accepted_rows += 1

    def restart(self) -> None:
        del self.rows[self._durable :]
        self.kept = len(self.rows)

    async def booked(self, keys: Sequence[AttemptKey]) -> dict[tuple[str, int], SettledAttempt]:
        now = self.clock.now_s
        return {
            (key.request_id, key.attempt): account
            for key in keys
            for at_s, account in self.rows
            if (account.request_id, account.attempt) == (key.request_id, key.attempt)
            and at_s >= now - key.started_ago_s
        }

    def count(self, request_id: str, attempt: int) -> int:
        return sum((a.request_id, a.attempt) == (request_id, attempt) for _, a in self.rows)


@dataclass(eq=False, repr=False)
class Branch:
    """A branch as its front sees it. `deliver` checks that each answer is one that may come."""

    request_id: str
    front: int
    asked: Submission
    original: Branch | None = None
    task: asyncio.Task[None] | None = None
    running: int = 0
    ending: int = 0
    over: bool = False
    not_admitted: bool = False
    wants_count: bool = False
    attempts: list[int] = field(default_factory=list)
    forgotten: bool = False
    machine: LinkMachine | None = None
    started_s: float = 0.0

    def __repr__(self) -> str:
        return f"<{self.request_id} of {self.front}>"

    @property
    def submitted(self) -> bool:
        return self.task is not None and self.task.done()

    def deliver(self, answer: Answer) -> None:
        assert not self.forgotten, f"{answer} after the end"
        waits = not (self.running or self.ending or self.over)
        match answer:
            case Waiting() | CountPrompt():
                assert waits
                self.wants_count |= isinstance(answer, CountPrompt)
            case Started(start=start):
                assert waits
                assert start.attempt not in self.attempts
                assert self.machine is not None
                self.machine.check_start(self)
                self.running = start.attempt
                self.started_s = self.machine.books.clock.now_s
                self.attempts.append(start.attempt)
            case Settled(attempt=settled):
                assert settled.attempt == self.ending
                self.ending = 0
            case Refuse(reason=reason):
                assert waits
                self.over, self.not_admitted = True, reason in NOT_ADMITTED
            case Evict(attempt=attempt):
                assert attempt in self.attempts


@dataclass(frozen=True)
class Told:
    """An attempt of a front that has ended with its scheduler, as another front, `holder`, was
    told of it."""

    holder: str
    original_id: str
    attempt: int
    started_s: float


@dataclass
class Mark:
    """An attempt that has ended at its front, with as many tokens beyond 1000."""

    number: int
    incarnation: str
    original_id: str
    attempt: int
    started_s: float


class LinkMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.fronts: list[JoinedFront]
        self.branches: list[Branch] = []
        self.slots = [0, 0]
        self.number = 0
        self.marks = 0
        self.sent_marks: list[Mark] = []
        self.told: list[Told] = []
        self.own: int | None = None
        """The front in the scheduler's process."""
        self.kept: dict[str, tuple[str, float]] = {}
        """Incarnation of the front, and the end, of requests whose key stays in use, by name."""
        self.begun: Counter[tuple[str, int]] = Counter()
        """Attempts that schedulers have started, by request and number."""
        self.joining: list[asyncio.Future[bytes] | None] = [None, None]

    def run_now(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize(
        slots=st.integers(1, 3),
        budgeted=st.booleans(),
        late=st.integers(0, 2),
        own=st.sampled_from([None, 0, 1]),
    )
    def begin(self, slots: int, budgeted: bool, late: int, own: int | None) -> None:
        self.settings = settings_of(config(replicas=2, slots=slots, hedges=1.0), catalog=ONE_USD)
        self.budgeted = budgeted

        async def start() -> None:
            self.books = Books(Clock(), late)
            self.own = own
            remotes = [self.new_remote(), self.new_remote()]
            self.start_scheduler(None, remotes)
            self.fronts = [
                JoinedFront(remote, number + 1, self.joined.host, number == own)
                for number, remote in enumerate(remotes)
            ]
            for front in self.fronts:
                front.may_act = self.joined.may_act
                await front.join()

        self.run_now(start())

    def new_remote(self) -> RemoteScheduler:
        return RemoteScheduler(clock=self.books.clock, handlers={}, on_fleet=lambda view: None)

    def start_next(self, *, gone: bool = False) -> None:
        """Starts the scheduler after another one. `gone`: the process of that one has ended, with
        its front; else the process of the other front leads, if the first one led."""
        expected = ExpectedFronts(2)
        if self.own is not None:
            self.own = 1 - self.own
            incarnation = self.fronts[self.own].remote.incarnation
            expected = ExpectedFronts(names=frozenset({incarnation}))
            self.kept = {n: kept for n, kept in self.kept.items() if kept[0] == incarnation}
        self.start_scheduler(
            Opening(expected, self.opened), [f.remote for f in self.fronts], gone=gone
        )

    def start_scheduler(
        self, opening: Opening | None, remotes: list[RemoteScheduler], *, gone: bool = False
    ) -> None:
        """Starts a scheduler on the ledger that there is."""
        budgets = [BUDGET] if self.budgeted else []
        self.books.epoch = epoch = self.books.epoch + 1
        made = running(
            self.settings,
            budgets=budgets,
            clock=self.books.clock,
            sink=lambda account: self.books.add(account, epoch),
        )
        begin = made.local._recorder.begin

        def counted(request: Request, start: Start, *args: Any) -> Any:
            if len(args) < 3 or args[2] is None:  # it is not taken over
                self.begun[request.request_id, start.attempt] += 1
            return begin(request, start, *args)

        made.local._recorder.begin = counted  # type: ignore[method-assign, assignment]
        own_copy = None
        if self.own is not None:
            own = remotes[self.own]
            own_copy = OwnFrontCopy(own.record, own.incarnation, epoch, self.books.clock)
        self.joined = Joined(
            made,
            bookings=self.books,
            opening=opening,
            may_act=lambda: self.books.epoch == epoch,
            own_copy=own_copy,
            gone_term=epoch - 1 if gone else 0,
        )

    def check_start(self, branch: Branch) -> None:
        """No request runs under an idempotency key that is in use."""
        kept = self.kept.get(branch.request_id)
        if branch.original is None and not branch.attempts and kept is not None:
            incarnation, at_s = kept
            lives = incarnation in {front.remote.incarnation for front in self.fronts}
            assert not lives or self.books.clock.now_s >= at_s + REMEMBERED_S - 1.0

    def mine(self) -> list[Branch]:
        return [b for b in self.branches if not b.forgotten and b.submitted and not b.not_admitted]

    def some(self, data: st.DataObject, found: list[Branch]) -> Branch:
        return data.draw(st.sampled_from(found))

    @rule(
        front=st.integers(0, 1),
        name=st.sampled_from(IDS),
        bound=st.sampled_from([100, 5000]),
        at_once=st.booleans(),
    )
    def submit(self, front: int, name: str, bound: int, at_once: bool) -> None:
        asked = submission(
            name,
            idempotency_key=f"key-{name}",
            key_limits=CONCURRENT,
            prompt_tokens_bound=bound,
            arrival_s=self.books.clock.now_s,
            deadline_s=self.books.clock.now_s + 60.0,
        )
        self._submit(Branch(name, front, asked, machine=self))
        if at_once:
            self.exchange()

    @precondition(lambda self: bool(self.originals()))
    @rule(data=st.data(), kind=st.sampled_from([BranchKind.HEDGE, BranchKind.CONTINUATION]))
    def submit_branch(self, data: st.DataObject, kind: BranchKind) -> None:
        original = self.some(data, self.originals())
        self.number += 1
        name = f"{original.request_id}~{self.number}"
        asked = submission(
            name,
            kind,
            original_id=original.request_id,
            beside="own/a",
            arrival_s=self.books.clock.now_s,
            deadline_s=self.books.clock.now_s + 60.0,
        )
        self._submit(Branch(name, original.front, asked, original, machine=self))

    def originals(self) -> list[Branch]:
        return [b for b in self.mine() if b.original is None and not b.wants_count]

    def _submit(self, branch: Branch) -> None:
        remote = self.fronts[branch.front].remote

        async def start() -> None:
            branch.task = asyncio.ensure_future(remote.submit(branch.asked, branch.deliver))
            await turns()

        self.branches.append(branch)
        self.run_now(start())

    @rule(front=st.integers(0, 1), back=st.booleans(), most=st.sampled_from([1, 30, 700, 1 << 20]))
    def deliver(self, front: int, back: bool, most: int) -> None:
        joined = self.fronts[front]

        async def some() -> None:
            joined.flush()
            (joined.back if back else joined.there).deliver(most)
            await turns()

        self.run_now(some())

    @rule()
    def exchange(self) -> None:
        async def everything() -> None:
            for _ in range(3):
                for front in self.fronts:
                    front.exchange()
                await turns()

        self.run_now(everything())

    @precondition(lambda self: bool([b for b in self.mine() if b.wants_count]))
    @rule(data=st.data(), tokens=st.sampled_from([None, 10, 5000]))
    def prompt_counted(self, data: st.DataObject, tokens: int | None) -> None:
        branch = self.some(data, [b for b in self.mine() if b.wants_count])
        branch.wants_count = False
        remote = self.fronts[branch.front].remote
        self.run_now(remote.prompt_counted(branch.request_id, tokens))

    @precondition(lambda self: bool([b for b in self.mine() if b.running]))
    @rule(data=st.data(), tokens=st.integers(1, 50), at_once=st.booleans())
    def progress(self, data: st.DataObject, tokens: int, at_once: bool) -> None:
        branch = self.some(data, [b for b in self.mine() if b.running])
        told = Progress(request_id=branch.request_id, attempt=branch.running, output_tokens=tokens)
        self._send(branch.front, told)
        if at_once:
            self.exchange()

    @precondition(lambda self: bool([b for b in self.mine() if b.running]))
    @rule(data=st.data(), outcome=st.sampled_from(AttemptOutcome))
    def end_attempt(self, data: st.DataObject, outcome: AttemptOutcome) -> None:
        self._end(self.some(data, [b for b in self.mine() if b.running]), outcome)

    def _end(self, branch: Branch, outcome: AttemptOutcome) -> None:
        branch.ending, branch.running = branch.running, 0
        self.marks += 1
        self.sent_marks.append(
            Mark(
                self.marks,
                self.fronts[branch.front].remote.incarnation,
                branch.asked.original_id,
                branch.ending,
                branch.started_s,
            )
        )
        end = attempt_end(branch.request_id, branch.ending, outcome)
        # The tokens tell in the ledger which end was booked.
        usage = Usage(prompt_tokens=100, completion_tokens=1000 + self.marks)
        self._send(branch.front, structs.replace(end, usage=usage))

    @precondition(lambda self: bool(self.originals()))
    @rule(data=st.data(), keep=st.booleans())
    def end_request(self, data: st.DataObject, keep: bool) -> None:
        original = self.some(data, self.originals())
        self._forget(original)
        if keep:
            incarnation = self.fronts[original.front].remote.incarnation
            self.kept[original.request_id] = incarnation, self.books.clock.now_s
        ended = RequestEnded(
            request_id=original.request_id, used_tokens=20, keep_idempotency_key=keep
        )
        self._send(original.front, ended)

    @precondition(lambda self: bool([b for b in self.branches if b.task and not b.task.done()]))
    @rule(data=st.data())
    def cancel_submission(self, data: st.DataObject) -> None:
        found = [b for b in self.branches if b.task is not None and not b.task.done()]
        branch = self.some(data, found)

        async def cancel() -> None:
            assert branch.task is not None
            branch.task.cancel()
            await turns()

        if branch.original is None:
            self._forget(branch)
        branch.forgotten = True
        self.run_now(cancel())

    @precondition(lambda self: bool(self.connected()))
    @rule(data=st.data())
    def take_slot(self, data: st.DataObject) -> None:
        front = data.draw(st.sampled_from(self.connected()))

        async def take() -> None:
            remote = self.fronts[front].remote
            taking = asyncio.ensure_future(remote.take_slot("other", RateLimits()))
            await turns()
            self.fronts[front].exchange()
            await turns()
            assert await taking is None

        self.run_now(take())
        self.slots[front] += 1

    @precondition(lambda self: any(self.slots))
    @rule(data=st.data())
    def free_slot(self, data: st.DataObject) -> None:
        front = data.draw(st.sampled_from([i for i in (0, 1) if self.slots[i]]))
        self.slots[front] -= 1
        self._send(front, SlotFreed(key_id="other"))

    def connected(self) -> list[int]:
        return [
            i
            for i, front in enumerate(self.fronts)
            if front.remote.joined.is_set() and front.host is self.joined.host
        ]

    def broken(self) -> list[int]:
        return [i for i in (0, 1) if self.fronts[i].near.lost]

    @rule(front=st.integers(0, 1))
    def cut(self, front: int) -> None:
        """The connection breaks, with what is on its way. The front goes on."""

        async def cut() -> None:
            self.fronts[front].cut()
            await self.forget_joining(front)

        self.run_now(cut())

    @precondition(lambda self: bool(self.broken()))
    @rule(data=st.data(), at_once=st.booleans())
    def join_again(self, data: st.DataObject, at_once: bool) -> None:
        front = data.draw(st.sampled_from(self.broken()))

        async def join() -> None:
            self.fronts[front].host = self.joined.host
            self.fronts[front].own = front == self.own
            self.fronts[front].may_act = self.joined.may_act
            self.joining[front] = self.fronts[front].connect()
            await turns()

        self.run_now(join())
        if at_once:
            self.exchange()

    @rule()
    def restart_scheduler(self) -> None:
        """The scheduler is killed, and another one is started on its ledger."""

        async def restart() -> None:
            for number, front in enumerate(self.fronts):
                if not front.near.lost:
                    front.cut()
                await self.forget_joining(number)
            self.books.restart()
            self.start_next()

        self.run_now(restart())

    @rule()
    def take_over(self) -> None:
        """Another scheduler leads, while the one before runs on, stopped or cut off. Its rows that
        were not durable are refused."""

        async def take_over() -> None:
            self.books.restart()
            self.start_next()
            await turns()

        self.run_now(take_over())

    @precondition(lambda self: any(f.host is not self.joined.host for f in self.fronts))
    @rule(data=st.data())
    def notice_take_over(self, data: st.DataObject) -> None:
        """A front hears that another scheduler leads."""
        behind = [i for i in (0, 1) if self.fronts[i].host is not self.joined.host]
        self.cut(data.draw(st.sampled_from(behind)))

    async def opened(self, told: Resumed | None, complete: bool) -> None:
        await self.joined.host.left.take()
        if complete:
            return
        # Requests were admitted before these fronts were back: their keys may be used again.
        away = {f.remote.incarnation for i, f in enumerate(self.fronts) if i in self.broken()}
        away |= {f.remote.incarnation for f in self.fronts if f.host is not self.joined.host}
        away |= {f.remote.incarnation for f in self.fronts if not f.remote.joined.is_set()}
        self.kept = {n: kept for n, kept in self.kept.items() if kept[0] not in away}

    @rule(front=st.integers(0, 1), told=st.booleans())
    def kill(self, front: int, told: bool) -> None:
        """A front's process ends, with its scheduler if it has one, and another one takes its
        place. `told`: its parent has told the scheduler before, or the process of the scheduler is
        known to have ended."""

        async def kill() -> None:
            old = self.fronts[front]
            ends = front == self.own
            if ends:
                other = self.fronts[1 - front]
                if not other.near.lost:
                    other.cut()
                await self.forget_joining(1 - front)
                self.note_told(old.remote.incarnation, other.remote)
            self.told = [
                each
                for each in self.told
                if each.holder != old.remote.incarnation
                or self.is_booked(each, self.books.rows[: self.books._durable])
            ]
            if not old.near.lost:
                old.cut()
            await self.forget_joining(front)
            self.slots[front] = 0
            for branch in self.branches:
                if branch.front == front:
                    branch.forgotten = True
                    if branch.task is not None:
                        branch.task.cancel()
            if ends:
                self.books.restart()
                self.start_next(gone=told)
            elif told:
                self.joined.host.lose(front + 1)
            self.fronts[front] = JoinedFront(
                self.new_remote(), front + 1, self.joined.host, may_act=self.joined.may_act
            )
            self.joining[front] = self.fronts[front].connect()
            await turns()

        self.run_now(kill())

    @precondition(lambda self: self.own is not None)
    @rule(gone=st.booleans(), heard=st.booleans(), ends=st.booleans(), name=st.sampled_from(IDS))
    def kill_leader(self, gone: bool, heard: bool, ends: bool, name: str) -> None:
        """`heard`: its front has had a request since, of which the other one was told. `ends`: but
        not of its end, which the ledger has."""
        assert self.own is not None
        if heard:
            self.settle_down()
            self.submit(self.own, name, 100, True)
            self.tick(0.01)
            self.exchange()
            running = [b for b in self.mine() if b.running and b.front == self.own]
            if ends and running:
                self._end(running[-1], AttemptOutcome.OK)
                self.exchange()
        self.kill(self.own, gone)

    def note_told(self, incarnation: str, holder: RemoteScheduler) -> None:
        """A front ends, of which another one keeps a copy."""
        now = self.books.clock.now_s
        kept = holder.copies.fronts.get(incarnation)
        for state in () if kept is None else kept.states(now):
            # With the end of its request an attempt that runs is over, and is booked by nobody.
            ended = {each.start.attempt for branch in state.branches for each in branch.ended}
            self.told += [
                Told(holder.incarnation, key.request_id, key.attempt, now - key.started_ago_s)
                for key in attempt_keys(state)
                if state.ended is None or key.attempt in ended
            ]

    def is_booked(self, told: Told, rows: list[tuple[float, SettledAttempt]]) -> bool:
        return any(
            (account.request_id, account.attempt) == (told.original_id, told.attempt)
            and at_s >= told.started_s - 1e-7
            for at_s, account in rows
        )

    async def forget_joining(self, front: int) -> None:
        joining, self.joining[front] = self.joining[front], None
        if joining is not None:
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
        await turns()

    @rule(passed_s=st.sampled_from([0.01, 2.0, 40.0]))
    def tick(self, passed_s: float) -> None:
        made = self.joined.made

        async def tick() -> None:
            made.clock.now_s += passed_s
            made.local._branches.perform(made.local.core.tick(made.clock.now_s).actions)
            self.joined.host.tick()
            for front in self.fronts:
                if not front.remote.joined.is_set():
                    front.remote.expire()
            await turns()

        self.run_now(tick())

    def _send(self, front: int, message: Any) -> None:
        async def send() -> None:
            self.fronts[front].remote.send(message)
            await turns()

        self.run_now(send())

    def _forget(self, original: Branch) -> None:
        for branch in self.branches:
            if branch is original or branch.original is original:
                branch.forgotten = True

    def teardown(self) -> None:
        try:
            if hasattr(self, "joined") and hasattr(self, "fronts"):
                self.check_the_end()
        finally:
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.run_now(self.gathered(tasks))
            self.loop.close()

    async def gathered(self, tasks: set[asyncio.Task[Any]]) -> None:
        await asyncio.gather(*tasks, return_exceptions=True)

    def settle_down(self) -> None:
        """All fronts are joined, and everything has arrived."""
        for number, joined in enumerate(self.fronts):
            if joined.host is not self.joined.host:
                self.cut(number)
        for front in self.broken():

            async def join(front: int = front) -> None:
                self.fronts[front].host = self.joined.host
                self.fronts[front].own = front == self.own
                self.fronts[front].may_act = self.joined.may_act
                self.joining[front] = self.fronts[front].connect()
                await turns()

            self.run_now(join())
        for _ in range(6):
            self.exchange()
        self.tick(0.0)
        self.tick(LONGEST_S)  # a scheduler opens at the latest then
        for _ in range(6):
            self.exchange()
        self.tick(0.0)  # what fronts left behind that have ended
        self.tick(0.0)
        assert self.connected() == [0, 1]

    def check_the_end(self) -> None:
        self.settle_down()
        self.tick(LEFT_S)
        self.settle_down()
        made = self.joined.made
        local = made.local
        owned = sum(len(front.session.requests) for front in self.joined.host.fronts)
        strays = sum(
            each.stray for f in self.joined.host.fronts for each in f.session.requests.values()
        )
        assert local.active_requests == owned - strays, "each request has a front that knows it"
        assert local.claims._limiter.running("other") == sum(self.slots)
        for branch in list(self.branches):
            if branch.running and not branch.forgotten:
                branch.ending, branch.running = branch.running, 0
                self._send(branch.front, attempt_end(branch.request_id, branch.ending))
        self.books.late = 0
        for front in self.fronts:
            for original in list(front.remote.record.requests):
                ended = RequestEnded(request_id=original, used_tokens=0, keep_idempotency_key=False)
                front.remote.send(ended)
        for branch in self.branches:
            branch.forgotten = True
        self.settle_down()
        assert not any(front.remote.record.reports for front in self.fronts)
        assert not any(front.remote.record.by_number for front in self.fronts)
        assert local.active_requests == 0
        assert local.claims._limiter.running("k") == 0
        assert not local.claims._idempotency._running
        assert made.reserved() == 0
        assert all(not state.residents for state in local.core.placements)
        assert local.core.queued_requests == 0
        self.check_books()

    def check_books(self) -> None:
        assert not self.books.refused, "a front was heard by a scheduler whose term was over"
        marks = Counter(
            account.usage.completion_tokens - 1000
            for _, account in self.books.rows
            if account.usage is not None and account.usage.completion_tokens > 1000
        )
        living = {front.remote.incarnation for front in self.fronts}
        for mark in self.sent_marks:
            assert marks[mark.number] <= 1, f"{mark} was booked {marks[mark.number]} times"
            if mark.incarnation in living and not marks[mark.number]:
                # A scheduler has given up the front, which was away for too long, and has booked
                # what it ran from the last progress.
                assert any(
                    (account.request_id, account.attempt) == (mark.original_id, mark.attempt)
                    and account.usage is not None
                    and account.usage.estimated
                    and at_s >= mark.started_s
                    for at_s, account in self.books.rows
                ), f"{mark} is lost"
        for each in self.told:
            assert self.is_booked(each, self.books.rows), f"{each} is lost"
        found = Counter((a.request_id, a.attempt) for _, a in self.books.rows)
        for key, rows in found.items():
            assert rows <= self.begun[key], f"{key} ran {self.begun[key]} times, booked {rows}"


TestLink = LinkMachine.TestCase
TestLink.settings = settings(
    report_multiple_bugs=False, max_examples=40, stateful_step_count=50, deadline=None
)
