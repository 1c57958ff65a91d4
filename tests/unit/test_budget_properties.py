"""Budgets under any interleaving: gateways that share a ledger, crash, fall silent and come back.

The books are real, and so is the database (SQLite in memory): transactions run as in production.
What the upstream counted is kept beside them as the truth.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.accounting.budgets import counted
from gateway.accounting.ledger_append import append
from gateway.accounting.ledger_database import SqliteTx, Tx, create_tables, run_now
from gateway.accounting.ledger_leases import (
    LeaseGone,
    Owner,
    close,
    extend,
    give_back,
    heard,
    recover_own,
    recover_silent,
)
from gateway.accounting.ledger_rows import Entry, entry
from scheduler.budget import Budget, Holder, Refusal
from scheduler.budget_book import BudgetBook, Close, GiveBack
from scheduler.budget_window import Period
from tests.ledgers import TIME_S, settled

T = TypeVar("T")
GATEWAYS = st.integers(0, 1)
KEYS = st.sampled_from(["k0", "k1"])
RARE = st.integers(0, 2)
COSTS = st.sampled_from([0, 1, 20, 100, 250, 400])
TENANT_CAP, KEY_CAP = 1_000, 600
ALWAYS = (
    Budget(tenant="team", period=Period.DAY, cap_nano_usd=TENANT_CAP),
    Budget(tenant="team", key_id="k0", period=Period.HOUR, cap_nano_usd=KEY_CAP),
)
LATER = Budget(tenant="team", key_id="k1", period=Period.MONTH, cap_nano_usd=KEY_CAP)
BOOKED = "SELECT COALESCE(SUM(budgeted_nano_usd), 0) FROM attempt"
LEASED = (
    "SELECT COALESCE(SUM(granted_nano_usd - settled_nano_usd), 0) FROM lease WHERE state = 'open'"
)


@dataclass
class Request:
    """In flight. `cost`: what the upstream has counted, whatever becomes of it."""

    request_id: str
    key_id: str
    cost: int


@dataclass
class Gateway:
    """One process: its book, the rows that it has not written, the requests that it runs."""

    number: int
    epoch: int
    budgets: tuple[Budget, ...]
    rows: list[Entry] = field(default_factory=list)
    first_seq: int = 0
    running: list[Request] = field(default_factory=list)
    jobs: deque[Callable[[bool], None]] = field(default_factory=deque)
    asking: set[Holder] = field(default_factory=set)

    def __post_init__(self) -> None:
        leases = iter(range(10_000))
        name = f"{self.number}-{self.epoch}"
        self.owner = Owner(f"g{self.number}", name)
        self.book = BudgetBook(lambda: f"{name}-{next(leases)}")
        self.book.set_budgets(self.budgets)

    @property
    def unwritten_overruns(self) -> int:
        return sum(row.overrun_nano_usd for row in self.rows)


class Budgets(RuleBasedStateMachine):
    """Two gateways, two keys of one tenant."""

    @initialize()
    def start(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.write(create_tables)
        self.budgets: tuple[Budget, ...] = ALWAYS
        self.now = TIME_S
        self.epochs = iter(range(10_000))
        self.requests = iter(range(10_000))
        self.gateways = [Gateway(n, next(self.epochs), ALWAYS) for n in range(2)]
        self.truth = 0  # that the upstream counted, of requests that were reserved for
        self.overruns = 0

    def teardown(self) -> None:
        if not hasattr(self, "connection"):
            return
        for gateway in self.gateways:
            while gateway.jobs:
                self.work(gateway.number, False)
            while gateway.running:
                self.finish(gateway, 0, gateway.running[0].cost)
            self.mind(gateway.number, idle_s=1000.0, pressed=False)
            while gateway.jobs:
                self.work(gateway.number, False)
            self.flush(gateway.number)
        self.everything_is_closed()
        self.connection.close()

    @rule(n=GATEWAYS, key_id=KEYS, worst=COSTS, share=st.integers(0, 4))
    def ask(self, n: int, key_id: str, worst: int, share: int) -> None:
        """A request comes; where its lease has too little, a job for the store is queued."""
        gateway = self.gateways[n]
        holder = gateway.book.holder("team", key_id, "")
        assert holder is not None
        if holder in gateway.asking:
            return  # the shell holds a lock
        request = Request(f"{key_id}/{next(self.requests)}", key_id, worst * share // 4)
        if gateway.book.reserve(request.request_id, holder, worst, self.now):
            self.runs(gateway, request)
            return
        step = gateway.book.extension(holder, worst, self.now)
        gateway.asking.add(holder)

        def grant(answer_lost: bool) -> None:
            gateway.asking.discard(holder)
            try:
                answer = self.write(
                    lambda tx: extend(tx, gateway.owner, step.lease, step.need_nano_usd)
                )
            except LeaseGone:
                gateway.book.gone(step.lease)
                return
            if answer_lost or isinstance(answer, Refusal):
                gateway.book.not_extended(step.lease)
                return
            gateway.book.extended(step.lease, answer.granted_nano_usd, answer.left_nano_usd)
            if gateway.book.reserve(request.request_id, holder, worst, self.now):
                self.runs(gateway, request)

        gateway.jobs.append(grant)

    def runs(self, gateway: Gateway, request: Request) -> None:
        self.truth += request.cost
        gateway.running.append(request)

    @rule(n=GATEWAYS, answer_lost=st.sampled_from([False, False, False, True]))
    def work(self, n: int, answer_lost: bool) -> None:
        """The ledger's writer: rows that were added before, then the next job."""
        gateway = self.gateways[n]
        self.flush(n)
        if gateway.jobs:
            gateway.jobs.popleft()(answer_lost)

    @rule(n=GATEWAYS, which=st.integers(0, 5), over=st.sampled_from([0, 0, 0, 40]))
    def end(self, n: int, which: int, over: int) -> None:
        gateway = self.gateways[n]
        if gateway.running:
            index = which % len(gateway.running)
            self.truth += over
            self.overruns += over
            self.finish(gateway, index, gateway.running[index].cost + over)

    @rule(n=GATEWAYS)
    def end_of_unknown_cost(self, n: int) -> None:
        gateway = self.gateways[n]
        if gateway.running:
            self.finish(gateway, 0, None)

    def finish(self, gateway: Gateway, index: int, charge: int | None) -> None:
        request = gateway.running.pop(index)
        attempt = settled(
            request.request_id, charged=charge, key_id=request.key_id, ended_unix_s=self.now
        )
        gateway.rows.append(entry(attempt, counted(gateway.book, attempt)))
        gateway.book.release(request.request_id, self.now)

    @rule(n=GATEWAYS)
    def flush(self, n: int) -> None:
        gateway = self.gateways[n]
        rows, first = list(gateway.rows), gateway.first_seq
        if rows:
            for _ in range(2):  # as after a commit whose answer was lost
                self.write(lambda tx: append(tx, gateway.owner.epoch, first, rows))
        gateway.first_seq += len(rows)
        gateway.rows.clear()

    @rule(n=GATEWAYS, idle_s=st.sampled_from([0.0, 0.0, 20.0]), pressed=st.booleans())
    def mind(self, n: int, idle_s: float, pressed: bool) -> None:
        gateway = self.gateways[n]
        self.now += idle_s
        holder = gateway.book.holder("team", "k0", "") if pressed else None
        for action in gateway.book.due(self.now, pressed=holder):
            gateway.jobs.append(partial(self.give_or_close, action))

    def give_or_close(self, action: GiveBack | Close, never_sent: bool) -> None:
        lease_id = action.lease.lease_id
        if isinstance(action, Close):
            self.write(lambda tx: close(tx, lease_id))
        elif not never_sent:
            amount = action.nano_usd
            self.write(lambda tx: give_back(tx, lease_id, amount))

    @rule(n=GATEWAYS, rare=RARE)
    def crash(self, n: int, rare: int) -> None:
        if rare:
            return
        # What an upstream counted beyond its worst case, and no row says yet, is lost for good.
        self.truth -= self.gateways[n].unwritten_overruns
        self.gateways[n] = Gateway(n, next(self.epochs), self.budgets)
        self.write(lambda tx: recover_own(tx, self.gateways[n].owner))

    @rule(n=GATEWAYS, rare=RARE)
    def take_the_other_for_dead(self, n: int, rare: int) -> None:
        if rare:
            return
        self.write(lambda tx: heard(tx, self.gateways[n].owner))
        self.write(lambda tx: recover_silent(tx, self.gateways[n].owner, -1e12))

    @precondition(lambda self: LATER not in self.budgets)
    @rule()
    def a_budget_comes_later(self) -> None:
        self.budgets = (*ALWAYS, LATER)
        for gateway in self.gateways:
            gateway.book.set_budgets(self.budgets)

    @invariant()
    def no_account_is_over_its_cap(self) -> None:
        caps = {Period.DAY: TENANT_CAP, Period.HOUR: KEY_CAP}
        for name, period, settled_, committed in self.rows(
            "SELECT account_id, period, settled_nano_usd, committed_nano_usd FROM account"
        ):
            if Period(period) in caps:
                assert committed <= caps[Period(period)] + self.overruns, name
            assert 0 <= settled_ <= committed + self.overruns, name

    @invariant()
    def accounts_are_what_their_leases_and_rows_say(self) -> None:
        [(leased,)] = self.rows(LEASED)
        [(booked,)] = self.rows(BOOKED)
        for settled_, committed in self.rows(
            "SELECT settled_nano_usd, committed_nano_usd FROM account WHERE period = 'day'"
        ):
            assert settled_ == booked
            assert committed == booked + leased

    @invariant()
    def what_upstreams_counted_is_booked_or_leased(self) -> None:
        """Whatever is lost from now on: rows in memory, requests that run."""
        [(leased,)] = self.rows(LEASED)
        [(booked,)] = self.rows(BOOKED)
        assert self.truth <= booked + leased + self.unwritten_overruns()

    @invariant()
    def reservations_are_inside_what_the_store_granted(self) -> None:
        for gateway in self.gateways:
            for lease in gateway.book.leases:
                assert lease.free_nano_usd >= 0
                for state, granted in self.rows(
                    "SELECT state, granted_nano_usd FROM lease WHERE lease_id = ?", lease.lease_id
                ):
                    if state == "open":
                        assert lease.granted_nano_usd <= granted + self.unwritten_overruns()

    def unwritten_overruns(self) -> int:
        return sum(gateway.unwritten_overruns for gateway in self.gateways)

    def everything_is_closed(self) -> None:
        [(open_leases,)] = self.rows(
            "SELECT COUNT(*) FROM lease WHERE state = 'open' AND lease_id NOT IN"
            " (SELECT lease_id FROM lease WHERE granted_nano_usd = settled_nano_usd)"
        )
        assert open_leases == 0
        for settled_, committed in self.rows(
            "SELECT settled_nano_usd, committed_nano_usd FROM account"
        ):
            assert settled_ == committed

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql, values).fetchall()

    def write(self, transaction: Callable[[Tx], Awaitable[T]]) -> T:
        self.connection.execute("BEGIN")
        try:
            return run_now(transaction(SqliteTx(self.connection)))
        finally:
            self.connection.execute("COMMIT")


Budgets.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestBudgets = Budgets.TestCase
