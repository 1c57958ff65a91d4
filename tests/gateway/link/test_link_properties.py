"""Two fronts, their messages, losses and returns in any order.

Each branch gets one decision at a time, each attempt ends once, what a lost front ran is settled
from its last progress, and nothing leaks. Bytes are delivered in pieces, at any time. A front that
is lost comes back as a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from gateway.scheduling.attempt_recorder import OpenAttempt
from scheduler.budgets.budget import Budget
from scheduler.budgets.budget_window import Period
from scheduler.contract import AttemptOutcome, Evict, Progress, Refuse
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


class Watched:
    """An attempt's record, of which each must end once."""

    def __init__(self, record: OpenAttempt) -> None:
        self._record = record
        self.ends: list[str] = []

    def record_progress(self, *args: Any) -> None:
        self._record.record_progress(*args)

    def settle(self, *args: Any, **kwargs: Any) -> SettledAttempt:
        self.ends.append("settled")
        return self._record.settle(*args, **kwargs)

    def discard(self, *args: Any) -> None:
        self.ends.append("discarded")
        self._record.discard(*args)


@dataclass(eq=False)
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
                self.running = start.attempt
                self.attempts.append(start.attempt)
            case Settled(attempt=settled):
                assert settled.attempt == self.ending
                self.ending = 0
            case Refuse(reason=reason):
                assert waits
                self.over, self.not_admitted = True, reason in NOT_ADMITTED
            case Evict(attempt=attempt):
                assert attempt in self.attempts


class LinkMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.fronts: list[JoinedFront]
        self.branches: list[Branch] = []
        self.slots = [0, 0]
        self.number = 0
        self.records: list[Watched] = []

    def run_now(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize(slots=st.integers(1, 3), budgeted=st.booleans())
    def begin(self, slots: int, budgeted: bool) -> None:
        made = settings_of(config(replicas=2, slots=slots, hedges=1.0), catalog=ONE_USD)

        self.budgeted = budgeted

        async def start() -> None:
            self.joined = Joined(running(made, budgets=[BUDGET] if budgeted else []))
            recorder = self.joined.made.local._recorder
            begin = recorder.begin

            def watched(*args: Any) -> Any:
                self.records.append(Watched(begin(*args)))
                return self.records[-1]

            recorder.begin = watched  # type: ignore[method-assign, assignment]
            self.fronts = [await self.joined.join(1), await self.joined.join(2)]

        self.run_now(start())

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
            arrival_s=self.joined.made.clock.now_s,
            deadline_s=self.joined.made.clock.now_s + 60.0,
        )
        self._submit(Branch(name, front, asked))
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
            arrival_s=self.joined.made.clock.now_s,
            deadline_s=self.joined.made.clock.now_s + 60.0,
        )
        self._submit(Branch(name, original.front, asked, original))

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
        branch = self.some(data, [b for b in self.mine() if b.running])
        branch.ending, branch.running = branch.running, 0
        self._send(branch.front, attempt_end(branch.request_id, branch.ending, outcome))

    @precondition(lambda self: bool(self.originals()))
    @rule(data=st.data(), keep=st.booleans())
    def end_request(self, data: st.DataObject, keep: bool) -> None:
        original = self.some(data, self.originals())
        self._forget(original)
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

    @rule(front=st.integers(0, 1))
    def take_slot(self, front: int) -> None:
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

    @rule(front=st.integers(0, 1))
    def lose(self, front: int) -> None:
        """The connection breaks, and the front comes back as a new one."""
        for branch in self.branches:
            branch.forgotten |= branch.front == front and branch.running > 0
        gone = [b for b in self.branches if b.front == front]
        self.slots[front] = 0

        made = self.joined.made
        before = len(made.accounts)
        [hosted] = [h for h in self.joined.host.fronts if h.number == front + 1]
        ran = {
            (branch.owned.submission.request.request_id, branch.attempt): branch.output_tokens
            for branch in hosted.session._branches.values()
            if branch.attempt
        }

        async def lose() -> None:
            self.fronts[front].cut()
            await turns()
            self.check_lost(ran, made.accounts[before:])
            for branch in gone:
                assert branch.submitted, "nobody waits for ever"
                branch.forgotten = True
            self.fronts[front] = await self.joined.join(front + 1)

        self.run_now(lose())

    def check_lost(self, ran: dict[tuple[str, int], int], accounts: list[SettledAttempt]) -> None:
        """What ran is settled, from the last progress, and charged where the client has output."""
        assert {(a.request_id, a.attempt) for a in accounts} == ran.keys()
        assert len(accounts) == len(ran)
        for account in accounts:
            tokens = ran[account.request_id, account.attempt]
            assert account.usage is not None
            assert account.usage.estimated
            assert account.usage.completion_tokens == tokens
            charged = (account.usage.prompt_tokens + tokens) * 1000 if tokens else 0
            assert account.charged_nano_usd is not None
            if self.budgeted:  # what was reserved bounds the charge
                assert account.charged_nano_usd <= charged
            else:
                assert account.charged_nano_usd == charged

    @rule(passed_s=st.sampled_from([0.01, 2.0, 40.0]))
    def tick(self, passed_s: float) -> None:
        made = self.joined.made
        made.clock.now_s += passed_s
        made.local._branches.perform(made.local.core.tick(made.clock.now_s).actions)

    def _send(self, front: int, message: Any) -> None:
        async def send() -> None:
            self.fronts[front].remote.send(message)
            await turns()

        self.run_now(send())

    def _forget(self, original: Branch) -> None:
        for branch in self.branches:
            if branch is original or branch.original is original:
                branch.forgotten = True

    def check(self) -> None:
        made = self.joined.made
        local = made.local
        owned = sum(front.session.requests for front in self.joined.host.fronts)
        assert local.active_requests == owned, "each request has a front that knows it"
        assert local.claims._limiter.running("other") == sum(self.slots)

    def teardown(self) -> None:
        try:
            if hasattr(self, "joined") and len(self.joined.host.fronts) == 2:
                self.check_the_end()
        finally:
            self.loop.close()

    def check_the_end(self) -> None:
        """Nothing is left of fronts that are lost."""
        self.exchange()
        self.exchange()
        self.check()
        self.lose(0)
        self.lose(1)
        made = self.joined.made
        assert made.local.active_requests == 0
        assert made.local.claims._limiter.running("k") == 0
        assert made.local.claims._limiter.running("other") == 0
        assert not made.local.claims._idempotency._running
        assert made.reserved() == 0
        assert all(not state.residents for state in made.local.core.placements)
        assert made.local.core.queued_requests == 0
        assert all(len(record.ends) == 1 for record in self.records), "each attempt ends once"
        assert len(made.accounts) == sum(r.ends == ["settled"] for r in self.records)


TestLink = LinkMachine.TestCase
TestLink.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
