"""Requests, their ends and reloads in any order: every answer in its place, every claim freed once.

A freed claim that was not held raises by itself: the limiter and the idempotency keys refuse it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.accounting.ledger.sqlite import run_now
from gateway.config.limits import LimitsConfig
from gateway.scheduling.settings import SchedulingSettings
from scheduler.budgets.budget import Budget
from scheduler.budgets.budget_window import Period
from scheduler.contract import (
    AttemptOutcome,
    EngineReport,
    Evict,
    Progress,
    RefusalReason,
    Refuse,
    ServingChanged,
    SloClass,
)
from scheduler.limits.rate_limit import RateLimits
from scheduler.port import (
    NOT_ADMITTED,
    Answer,
    BranchKind,
    CountPrompt,
    Settled,
    Started,
    Submission,
    Waiting,
)
from tests import serving
from tests.gateway.scheduling.scheduling_made import (
    EU,
    ONE_USD,
    Hosted,
    attempt_end,
    config,
    hosted,
    settings_of,
    submission,
)

IDS = tuple(f"r{number}" for number in range(12))
KEYS = ("", "", "once", "twice")
CONCURRENT = RateLimits(concurrent_requests=5)
GOES_ON = (AttemptOutcome.RETRYABLE, AttemptOutcome.EVICTED)
BUDGET = Budget(tenant="team", key_id="", period=Period.MONTH, cap_nano_usd=2_000_000)
"""Some eight requests of 100 prompt and 100 output tokens hold all of it."""


@st.composite
def made_settings(draw: st.DrawFn) -> SchedulingSettings:
    """Pools of one to three replicas, perhaps of ranks, perhaps moved, perhaps with a remote."""
    urls = [f"http://own-{i}" for i in range(draw(st.integers(1, 3)))]
    pool = serving.pool(urls, max_num_seqs=draw(st.integers(1, 3)))
    if draw(st.booleans()):
        replicas = tuple(
            msgspec.structs.replace(replica, url=f"{replica.url}-moved")
            for replica in pool.replicas
        )
        pool = msgspec.structs.replace(pool, replicas=replicas)
    if draw(st.integers(0, 3)) == 0:
        pool = msgspec.structs.replace(pool, data_parallel_ranks=2, pin_ranks=True)
    if draw(st.integers(0, 5)) == 0:
        pool = msgspec.structs.replace(pool, model="other")
    remotes = [serving.remote("http://far", max_concurrency=2)] if draw(st.booleans()) else []
    limits = LimitsConfig(queue_requests=draw(st.integers(1, 6)), attempts=draw(st.integers(1, 3)))
    made = config(pools=[pool], remotes=remotes, limits=limits, hedges=draw(st.sampled_from([1.0])))
    return settings_of(made, catalog=ONE_USD.replace("one", draw(st.sampled_from(["one", "two"]))))


@dataclass(eq=False)
class Client:
    """A client's request. `admitted`: it has to be ended."""

    asked: Submission
    attempts: int = 0
    admitted: bool = True
    ended: bool = False
    wants_count: bool = False
    branches: list[Branch] = field(default_factory=list)


@dataclass(eq=False)
class Branch:
    """A branch as its caller sees it; `deliver` checks that each answer is one that may come."""

    client: Client
    request_id: str
    running: int = 0
    """The attempt that runs; 0: none."""
    ending: int = 0
    """The attempt that was told to have ended and is not settled."""
    over: bool = False
    refused: RefusalReason | None = None
    last: int = 0
    """The newest attempt."""

    @property
    def waits(self) -> bool:
        """Whether a start or a refusal may come."""
        return not (self.running or self.ending or self.over)

    def deliver(self, answer: Answer) -> None:
        assert not self.client.ended, f"{answer} after the request's end"
        match answer:
            case Waiting():
                assert self.waits
                assert answer.request_id == self.request_id
                assert answer.position >= 1
            case Started(start=start):
                assert self.waits
                assert start.request_id == self.request_id
                self.client.attempts += 1
                assert start.attempt == self.client.attempts
                self.running = self.last = start.attempt
            case Settled(attempt=account):
                assert (account.attempt, account.request_id) == (
                    self.ending,
                    self.client.asked.original_id,
                )
                self.ending = 0
            case Refuse():
                assert self.waits
                self.over, self.refused = True, answer.reason
            case Evict():
                assert answer.attempt == self.running
            case CountPrompt():
                assert self.waits
                assert not self.client.wants_count
                self.client.wants_count = True


class InProcessSchedulerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.made: Hosted
        self.clients: dict[str, Client] = {}
        """Those that have not ended, by id."""
        self.branch_number = self.ended_attempts = 0
        self.stale: list[tuple[str, int]] = []
        """Attempts that are over, or whose request is."""

    @initialize(made=made_settings(), budgeted=st.booleans())
    def begin(self, made: SchedulingSettings, budgeted: bool) -> None:
        self.made = hosted(made, budgets=[BUDGET] if budgeted else [])
        self.made.serve(*(placement.name for placement in made.placements))

    def open(self, data: st.DataObject) -> Client:
        return self.clients[data.draw(st.sampled_from(sorted(self.clients)))]

    def running(self, data: st.DataObject) -> Branch:
        return data.draw(st.sampled_from(self.all_running()))

    def all_running(self) -> list[Branch]:
        return [b for client in self.clients.values() for b in client.branches if b.running]

    def uncounted(self) -> list[Client]:
        return [client for client in self.clients.values() if client.wants_count]

    @rule(
        request_id=st.sampled_from(IDS),
        idempotency_key=st.sampled_from(KEYS),
        slo_class=st.sampled_from(SloClass),
        remote=st.booleans(),
        bound=st.sampled_from([100, 100, 5000]),
        max_output_tokens=st.sampled_from([1, 100]),
        max_queue_s=st.sampled_from([0.5, 20.0]),
    )
    def submit(
        self, request_id: str, idempotency_key: str, remote: bool, bound: int, **facts: Any
    ) -> None:
        asked = submission(
            request_id,
            idempotency_key=idempotency_key,
            key_limits=CONCURRENT,
            prompt_tokens_bound=bound,
            remote_classes=EU if remote else frozenset(),
            arrival_s=self.made.clock.now_s,
            deadline_s=self.made.clock.now_s + 30.0,
            **facts,
        )
        client = Client(asked)
        branch = Branch(client, request_id)
        client.branches.append(branch)
        before = self.clients.get(request_id)
        taken = idempotency_key in {c.asked.idempotency_key for c in self.clients.values()} - {""}
        full = len(self.clients) >= 5
        run_now(self.made.local.submit(asked, branch.deliver))
        if before is not None:
            assert branch.refused is RefusalReason.REQUEST_IN_FLIGHT
        elif taken:
            assert branch.refused is RefusalReason.IDEMPOTENCY_KEY_USED
        elif full:
            assert branch.refused in (
                RefusalReason.KEY_LIMIT,
                RefusalReason.IDEMPOTENCY_KEY_USED,  # of a request that has ended
            )
        if branch.refused not in NOT_ADMITTED:
            self.clients[request_id] = client

    @precondition(lambda self: self.uncounted())
    @rule(data=st.data(), tokens=st.sampled_from([None, 10, 100, 5000]))
    def prompt_counted(self, data: st.DataObject, tokens: int | None) -> None:
        client = data.draw(st.sampled_from(self.uncounted()))
        client.wants_count = False
        [branch] = client.branches
        run_now(self.made.local.prompt_counted(branch.request_id, tokens))
        assert not client.wants_count
        if branch.refused in NOT_ADMITTED:
            del self.clients[branch.request_id]

    @precondition(lambda self: len(self.clients) > len(self.uncounted()))
    @rule(data=st.data(), kind=st.sampled_from([BranchKind.HEDGE, BranchKind.CONTINUATION]))
    def submit_branch(self, data: st.DataObject, kind: BranchKind) -> None:
        admitted = [client for client in self.clients.values() if not client.wants_count]
        client = data.draw(st.sampled_from(admitted))
        self.branch_number += 1
        branch = Branch(client, f"{client.asked.original_id}~{self.branch_number}")
        facts: dict[str, Any] = {
            "remote_classes": client.asked.request.remote_classes,
            "arrival_s": client.asked.request.arrival_s,
            "deadline_s": client.asked.request.deadline_s,
        }
        asked = submission(
            branch.request_id,
            kind,
            original_id=client.asked.original_id,
            beside="own/a",
            **facts,
        )
        client.branches.append(branch)
        run_now(self.made.local.submit(asked, branch.deliver))
        if kind is BranchKind.HEDGE:
            assert branch.running or branch.over, "a hedge never waits"
            if branch.running:
                starts = [b for b in client.branches if b.running]
                assert branch in starts

    @precondition(lambda self: self.all_running())
    @rule(data=st.data(), outcome=st.sampled_from(AttemptOutcome), abandoned=st.booleans())
    def end_attempt(self, data: st.DataObject, outcome: AttemptOutcome, abandoned: bool) -> None:
        branch = self.running(data)
        branch.ending, branch.running = branch.running, 0
        self.ended_attempts += 1
        if outcome not in GOES_ON or abandoned:
            branch.over = True
        self.stale.append((branch.request_id, branch.ending))
        end = attempt_end(branch.request_id, branch.ending, outcome, abandoned=abandoned)
        self.made.local.send(end)
        assert branch.ending == 0, "it is settled at once"

    @precondition(lambda self: self.all_running())
    @rule(data=st.data())
    def progress(self, data: st.DataObject) -> None:
        branch = self.running(data)
        tokens = data.draw(st.integers(1, 50))
        message = Progress(
            request_id=branch.request_id, attempt=branch.running, output_tokens=tokens
        )
        self.made.local.send(message)

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def stale_message(self, data: st.DataObject) -> None:
        request_id, attempt = data.draw(st.sampled_from(self.stale))
        if any((b.request_id, b.running) == (request_id, attempt) for b in self.all_running()):
            return  # a later request has the id
        accounts = len(self.made.accounts)
        self.made.local.send(Progress(request_id=request_id, attempt=attempt, output_tokens=9))
        self.made.local.send(attempt_end(request_id, attempt))
        assert len(self.made.accounts) == accounts

    @precondition(lambda self: self.clients)
    @rule(data=st.data(), keep_key=st.booleans(), again=st.booleans())
    def end_request(self, data: st.DataObject, keep_key: bool, again: bool) -> None:
        client = self.open(data)
        self.finish(client, keep_key=keep_key)
        if again:
            self.made.ended(client.asked.original_id)

    def finish(self, client: Client, *, keep_key: bool = False) -> None:
        client.ended = True
        self.stale += [(b.request_id, b.running) for b in client.branches if b.running]
        del self.clients[client.asked.original_id]
        self.made.ended(client.asked.original_id, used_tokens=150, keep_key=keep_key)

    @rule(made=made_settings(), serve=st.booleans())
    def reload(self, made: SchedulingSettings, serve: bool) -> None:
        self.made.local.apply(made)
        self.made.targets.clear()
        self.made.targets.update({p.name: ("http://x", "m") for p in made.placements})
        self.made.local.refresh_fleet()
        names = [view.name for view in self.made.local.fleet.placements]
        assert names == [placement.name for placement in made.placements]
        if serve:
            self.made.serve(*names)

    @rule(name=st.sampled_from(["own/a", "own/b", "far", "own/z"]), serving=st.booleans())
    def service(self, name: str, serving: bool) -> None:
        self.made.local.report(ServingChanged(placement=name, serving=serving, reason="test"))

    @rule(name=st.sampled_from(["own/a", "own/b", "far"]), drained=st.booleans())
    def drain(self, name: str, drained: bool) -> None:
        local = self.made.local
        if not drained:
            run_now(local.undrain(name))
            return
        counted = sum(
            len(state.residents)
            for state in local.core.placements
            if name in (state.facts.name, state.facts.group)
        )
        assert run_now(local.drain(name)) == counted

    @rule(name=st.sampled_from(["own/a", "own/b", "own/z"]), waiting=st.integers(0, 3))
    def engine_report(self, name: str, waiting: int) -> None:
        report = EngineReport(
            placement=name,
            at_s=self.made.clock.now_s,
            running=1,
            waiting=waiting,
            kv_usage=0.1,
            prompt_tokens_total=0,
            generation_tokens_total=0,
            kv_capacity_tokens=10_000,
            context_tokens=4096,
        )
        self.made.local.report(report)

    @rule(passed_s=st.sampled_from([0.01, 0.3, 2.0, 40.0]))
    def tick(self, passed_s: float) -> None:
        self.made.clock.now_s += passed_s
        local = self.made.local
        local._branches.perform(local.core.tick(self.made.clock.now_s).actions)

    @invariant()
    def everything_is_held_by_open_requests_only(self) -> None:
        if not hasattr(self, "made"):
            return
        local = self.made.local
        assert local.active_requests == len(self.clients)
        assert local.claims._limiter.running("k") == len(self.clients)
        keys = {client.asked.idempotency_key for client in self.clients.values()} - {""}
        assert {key for _, key in local.claims._idempotency._running} == keys
        holds = set(self.made.budgets.book._holds)
        assert holds <= set(self.clients)
        if self.made.budgets.book.applied.budgets:
            assert holds == {i for i, c in self.clients.items() if not c.wants_count}
        branches = [b for client in self.clients.values() for b in client.branches]
        assert sum(bool(b.running) for b in branches) == sum(
            tracked.placement is not None for tracked in local.core._tracked.values()
        )
        waiting = [b for b in branches if b.waits and not b.client.wants_count]
        assert local.core.queued_requests == len(waiting)

    @invariant()
    def every_ended_attempt_is_settled_once(self) -> None:
        if hasattr(self, "made"):
            assert len(self.made.accounts) == self.ended_attempts

    def teardown(self) -> None:
        if not hasattr(self, "made"):
            return
        for client in list(self.clients.values()):
            self.finish(client)
        self.everything_is_held_by_open_requests_only()
        local = self.made.local
        assert repr(local.core) == "<Scheduler: 0 queued, 0 running>"
        assert not local.core._tracked
        assert not local.core._leaving
        assert not local._branches._by_id
        assert all(not state.residents for state in local.core.placements)
        assert self.made.reserved() == 0
        for name in self.made.metering.meter.groups:
            group = self.made.metering.group(name)
            assert group is not None
            assert group.running == 0


InProcessSchedulerMachine.TestCase.settings = settings(
    max_examples=80, stateful_step_count=40, deadline=None
)
TestInProcessScheduler = InProcessSchedulerMachine.TestCase
