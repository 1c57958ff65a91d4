"""Budgets under any interleaving: gateways that share a ledger, crash, fall silent and come back.

The books are real, and so is the database (SQLite in memory): transactions run as in production.
What the upstream counted is kept beside them as the truth.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.accounting.budgets import settle_against_budgets
from gateway.accounting.lease_recovery import (
    recover_own_leases,
    recover_silent_gateways,
)
from gateway.accounting.ledger.append import append
from gateway.accounting.ledger.database import Tx
from gateway.accounting.ledger.leases import (
    LeaseGone,
    Owner,
    close,
    extend,
    give_back,
    record_heartbeat,
)
from gateway.accounting.ledger.rows import PendingRow, pending_row
from gateway.accounting.ledger.sqlite import SqliteTx, run_now
from scheduler.budgets.budget import MOST_FREE_DIVISOR, Budget, Holder, Refusal
from scheduler.budgets.budget_book import IDLE_S, BudgetBook, Order
from scheduler.budgets.budget_window import HOUR_S, Period
from scheduler.budgets.lease import Lease
from scheduler.budgets.lease_orders import Close, Extend, GiveBack
from tests.ledgers import TIME_S, make_tables, settled

T = TypeVar("T")
GATEWAYS = st.integers(0, 1)
KEYS = st.sampled_from(["k0", "k1"])
PRESSED = st.sampled_from(["", "k0", "k1"])
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
    """In flight. `cost`: what the upstream has counted, whatever becomes of it; `lease` and `left`:
    where it reserved, and how much of that no attempt has used."""

    request_id: str
    key_id: str
    cost: int
    lease: Lease
    left: int


@dataclass
class Gateway:
    """One process: its book, the rows that it has not written, the requests that it runs."""

    number: int
    epoch: int
    budgets: tuple[Budget, ...]
    rows: list[PendingRow] = field(default_factory=list)
    first_seq: int = 0
    running: list[Request] = field(default_factory=list)
    jobs: deque[Callable[[bool], None]] = field(default_factory=deque)
    asking: set[Holder] = field(default_factory=set)
    spent: Counter[str] = field(default_factory=Counter)
    """What was settled, by lease."""
    gone: list[Lease] = field(default_factory=list)

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

    @initialize(calm=st.booleans())
    def start(self, calm: bool) -> None:
        """`calm`: nothing dies."""
        self.calm = calm
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        make_tables(self.connection)
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
            self.mind(gateway.number, idle_s=1000.0, pressed="")
            while gateway.jobs:
                self.work(gateway.number, False)
            self.flush(gateway.number)
        self.everything_is_closed()
        self.connection.close()

    @rule(n=GATEWAYS, key_id=KEYS, worst=COSTS, share=st.integers(0, 4), wait=st.booleans())
    def ask(self, n: int, key_id: str, worst: int, share: int, wait: bool) -> None:
        """A request comes; where its lease has too little, a job for the store is queued."""
        self.asks(self.gateways[n], key_id, worst, share)
        if not wait:
            self.work(n, False)

    @rule(n=GATEWAYS, key_id=KEYS, beyond=st.sampled_from([-1, 0, 1]), wait=st.booleans())
    def ask_for_what_is_free(self, n: int, key_id: str, beyond: int, wait: bool) -> None:
        gateway = self.gateways[n]
        free = [x.free_nano_usd for x in gateway.book.leases if x.holder.key_id == key_id]
        self.asks(gateway, key_id, max(0, free[0] + beyond) if free else 1, 4)
        if not wait:
            self.work(n, False)

    def asks(self, gateway: Gateway, key_id: str, worst: int, share: int) -> None:
        holder = gateway.book.applied.holder("team", key_id, "")
        assert holder is not None
        if holder in gateway.asking:
            return  # the shell holds a lock
        request_id, cost = f"{key_id}/{next(self.requests)}", worst * share // 4
        if gateway.book.reserve(request_id, holder, worst, self.now):
            self.runs(gateway, holder, request_id, cost, worst)
            return
        step = gateway.book.extension(holder, worst, self.now)
        assert step.need_nano_usd == max(0, worst - step.lease.free_nano_usd)
        assert step.need_nano_usd + step.free_nano_usd == worst
        gateway.asking.add(holder)

        def grant(answer_lost: bool) -> None:
            gateway.asking.discard(holder)
            try:
                answer = self.write(lambda tx: extend(tx, gateway.owner, step))
            except LeaseGone:
                gateway.book.gone(step.lease)
                gateway.gone.append(step.lease)
                return
            if isinstance(answer, Refusal):
                self.is_right(answer, step)
            if answer_lost or isinstance(answer, Refusal):
                gateway.book.not_extended(step.lease)
                return
            gateway.book.extended(step.lease, answer.granted_nano_usd, answer.left_nano_usd)
            if gateway.book.reserve(request_id, holder, worst, self.now):
                self.runs(gateway, holder, request_id, cost, worst)

        gateway.jobs.append(grant)

    def is_right(self, refusal: Refusal, step: Extend) -> None:
        """The account has no room, and it may have, unless that is spent."""
        account, cap = refusal.limit.account.account_id, refusal.limit.cap_nano_usd
        [(settled_, committed)] = self.rows(
            "SELECT settled_nano_usd, committed_nano_usd FROM account WHERE account_id = ?", account
        )
        assert committed + step.need_nano_usd > cap
        worst = step.need_nano_usd + step.free_nano_usd
        assert refusal.transient == (settled_ + worst <= cap)
        assert refusal.left_nano_usd == max(0, cap - committed)

    def runs(
        self, gateway: Gateway, holder: Holder, request_id: str, cost: int, worst: int
    ) -> None:
        """Reserved: from a lease that the store knows, for the budgets and windows of now."""
        lease = next(lease for lease in gateway.book.leases if lease.holder == holder)
        assert all(lease is not gone for gone in gateway.gone)
        assert lease.limits == gateway.book.applied.accounts(holder, self.now)
        assert all(limit.ends_unix_s > self.now for limit in lease.limits)
        assert self.rows("SELECT 1 FROM lease WHERE lease_id = ?", lease.lease_id)
        self.truth += cost
        gateway.running.append(Request(request_id, holder.key_id, cost, lease, worst))

    def runs_of(self, key_id: str) -> bool:
        return any(r.key_id == key_id for gateway in self.gateways for r in gateway.running)

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

    @rule(n=GATEWAYS, which=st.integers(0, 5), part=st.integers(0, 4))
    def fail_over(self, n: int, which: int, part: int) -> None:
        """An attempt ends and is charged; the request goes on with what is left of its cost."""
        gateway = self.gateways[n]
        if gateway.running:
            request = gateway.running[which % len(gateway.running)]
            charge = request.cost * part // 4
            request.cost -= charge
            self.settle(gateway, request, charge)

    @rule(n=GATEWAYS)
    def end_of_unknown_cost(self, n: int) -> None:
        gateway = self.gateways[n]
        if gateway.running:
            self.finish(gateway, 0, None)

    def finish(self, gateway: Gateway, index: int, charge: int | None) -> None:
        request = gateway.running.pop(index)
        self.settle(gateway, request, charge)
        gateway.book.release(request.request_id, self.now)

    def settle(self, gateway: Gateway, request: Request, charge: int | None) -> None:
        """An attempt ended. What it counts with, and what of that is an overrun, is told right."""
        counts = request.left if charge is None else charge
        beyond = max(0, counts - request.left - request.lease.free_nano_usd)
        attempt = settled(
            request.request_id, charged=charge, key_id=request.key_id, ended_unix_s=self.now
        )
        row = pending_row(attempt, settle_against_budgets(gateway.book, attempt))
        assert (row.budgeted_nano_usd, row.overrun_nano_usd) == (counts, beyond)
        assert row.lease_id == request.lease.lease_id
        request.left -= min(counts, request.left)
        gateway.spent[row.lease_id] += counts
        gateway.rows.append(row)

    @rule(n=GATEWAYS)
    def flush(self, n: int) -> None:
        gateway = self.gateways[n]
        rows, first = list(gateway.rows), gateway.first_seq
        if rows:
            for _ in range(2):  # as after a commit whose answer was lost
                self.write(lambda tx: append(tx, gateway.owner.epoch, first, rows))
        gateway.first_seq += len(rows)
        gateway.rows.clear()

    @rule(n=GATEWAYS, idle_s=st.sampled_from([0.0, 0.0, 20.0]), pressed=PRESSED)
    def mind(self, n: int, idle_s: float, pressed: str) -> None:
        gateway = self.gateways[n]
        self.now += idle_s
        holder = gateway.book.applied.holder("team", pressed, "") if pressed else None
        most = {
            lease.lease_id: (lease.left_nano_usd + lease.free_nano_usd) // MOST_FREE_DIVISOR
            for lease in gateway.book.leases
            if lease.left_nano_usd is not None
        }
        for action in gateway.book.due(self.now, pressed=holder):
            if isinstance(action, Close):
                assert all(request.lease is not action.lease for request in gateway.running)
            gateway.jobs.append(partial(self.give_or_close, action))
        for lease in gateway.book.leases:
            in_use = lease.limits == gateway.book.applied.accounts(lease.holder, self.now)
            in_use = in_use and all(lease is not gone for gone in gateway.gone)
            if in_use and not lease.extending and lease.used_s + IDLE_S > self.now:
                all_of_it = pressed and lease.holder != holder
                assert lease.free_nano_usd <= (0 if all_of_it else most.get(lease.lease_id, 0))

    @rule(rare=RARE)
    def an_hour_passes(self, rare: int) -> None:
        """Not so often that the day ends, of which all rows are to be."""
        if not rare and self.now < TIME_S + 8 * HOUR_S:
            self.now += HOUR_S

    def give_or_close(self, action: Order, never_sent: bool) -> None:
        assert isinstance(action, GiveBack | Close), "there is no takeover here"
        lease_id = action.lease.lease_id
        if isinstance(action, Close):
            self.write(lambda tx: close(tx, lease_id))
        elif not never_sent:
            amount = action.nano_usd
            self.write(lambda tx: give_back(tx, lease_id, amount))

    @rule(n=GATEWAYS, rare=RARE)
    def crash(self, n: int, rare: int) -> None:
        if rare or self.calm:
            return
        # What an upstream counted beyond its worst case, and no row says yet, is lost for good.
        self.truth -= self.gateways[n].unwritten_overruns
        self.gateways[n] = Gateway(n, next(self.epochs), self.budgets)
        self.write(lambda tx: recover_own_leases(tx, self.gateways[n].owner))

    @rule(n=GATEWAYS, rare=RARE)
    def take_the_other_for_dead(self, n: int, rare: int) -> None:
        if rare or self.calm:
            return
        self.write(lambda tx: record_heartbeat(tx, self.gateways[n].owner))
        self.write(lambda tx: recover_silent_gateways(tx, self.gateways[n].owner, -1e12))

    @precondition(lambda self: LATER not in self.budgets and self.runs_of("k1"))
    @rule()
    def a_budget_comes_later(self) -> None:
        for n in range(2):
            self.flush(n)  # what is written later is not in an account that was made before
        self.budgets = (*ALWAYS, LATER)
        for n, gateway in enumerate(self.gateways):
            gateway.book.set_budgets(self.budgets)
            self.asks(gateway, "k1", 1, 0)
            self.work(n, False)

    @invariant()
    def books_are_what_their_requests_say(self) -> None:
        for gateway in self.gateways:
            for lease in gateway.book.leases:
                running = [request for request in gateway.running if request.lease is lease]
                assert lease.reserved_nano_usd == sum(request.left for request in running)
                assert lease.holds == len(running)
                assert lease.settled_nano_usd == gateway.spent[lease.lease_id]

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
    def a_later_budget_counts_what_ran_before_it(self) -> None:
        """But for what is recovered of leases that knew nothing of it."""
        if self.rows("SELECT 1 FROM attempt WHERE attempt = 0 LIMIT 1"):
            return
        [(booked,)] = self.rows(f"{BOOKED} WHERE key_id = 'k1'")
        for (settled_,) in self.rows("SELECT settled_nano_usd FROM account WHERE period = 'month'"):
            assert settled_ == booked

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


Budgets.TestCase.settings = settings(max_examples=120, stateful_step_count=60, deadline=None)
TestBudgets = Budgets.TestCase
