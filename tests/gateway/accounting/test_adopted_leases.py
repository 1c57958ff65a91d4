"""Leases of a killed scheduler: what its requests hold stays held, the rest is free or spent."""

from __future__ import annotations

import random
import sqlite3
import time
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.accounting.budgets import BudgetRefused, Budgets
from gateway.accounting.ledger.append import append
from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.accounting.ledger.leases import Owner, adopt_own_leases
from gateway.accounting.ledger.ledger import Ledger
from gateway.accounting.ledger.rows import pending_row
from gateway.accounting.ledger.sqlite import SqliteTx, run_now
from scheduler.budgets.budget import Budget, Holder
from scheduler.budgets.budget_window import Period
from tests.gateway.scheduling.scheduling_made import MemoryLedger
from tests.ledgers import settled

CAP = 1_000_000
BUDGET = Budget(tenant="team", key_id="", period=Period.MONTH, cap_nano_usd=CAP)
HOLDER = Holder("team", "key", None)


async def killed() -> MemoryLedger:
    """A ledger whose process was killed while a request held 600,000."""
    ledger = MemoryLedger()
    before = Budgets(cast(Ledger, ledger), Owner("gateway", "before"))
    before.configure([BUDGET])
    await before.reserve("key/1", HOLDER, 600_000)
    return ledger


async def adopted(ledger: MemoryLedger, epoch: str = "after") -> Budgets:
    owner = Owner("gateway", epoch)
    made = Budgets(cast(Ledger, ledger), owner)
    made.configure([BUDGET])
    made.adopted.begin(run_now(adopt_own_leases(SqliteTx(ledger.connection), owner)))
    return made


def account(connection: sqlite3.Connection) -> tuple[int, int]:
    """Settled and committed."""
    return tuple(
        connection.execute("SELECT settled_nano_usd, committed_nano_usd FROM account").fetchone()
    )


async def test_what_runs_is_settled_in_the_lease_that_it_held() -> None:
    ledger = await killed()
    made = await adopted(ledger)
    [lease] = made.book.leases
    made.book.hold_again("key/1", lease.lease_id, HOLDER, 600_000, time.time())
    await made.adopted.end(complete=True)
    await made.return_unused()
    assert account(ledger.connection)[1] >= 600_000, "the request holds it"
    found = made.settle(settled(charged=400_000))
    assert found is not None
    assert (found.lease_id, found.budgeted_nano_usd, found.overrun_nano_usd) == (
        lease.lease_id,
        400_000,
        0,
    )
    made.release("key/1")
    ledger.connection.execute(
        "UPDATE lease SET settled_nano_usd = 400000 WHERE lease_id = ?", (lease.lease_id,)
    )  # as its row does
    await made.return_unused()
    assert account(ledger.connection)[1] == 400_000
    assert not made.book.leases


async def test_nothing_returns_before_the_fronts_have_told_what_they_hold() -> None:
    ledger = await killed()
    made = await adopted(ledger)
    await made.return_unused()
    assert account(ledger.connection)[1] >= 600_000
    await made.adopted.end(complete=True)
    await made.return_unused()
    assert account(ledger.connection)[1] == 0, "nobody holds it"


async def test_what_a_lost_front_held_counts_as_spent() -> None:
    ledger = await killed()
    granted = account(ledger.connection)[1]
    made = await adopted(ledger)
    await made.adopted.end(complete=False)
    await made.return_unused()
    assert account(ledger.connection) == (granted, granted)
    states = ledger.connection.execute("SELECT state, charged_nano_usd FROM attempt").fetchall()
    assert states == [("lease_recovery", granted)]


def book(
    ledger: MemoryLedger, made: Budgets, request_id: str, charged: int, epoch: str = "after"
) -> None:
    """An attempt of a request ends, and then the request."""
    append_attempt(ledger, made, request_id, charged, epoch)
    made.release(request_id)


def append_attempt(
    ledger: MemoryLedger, made: Budgets, request_id: str, charged: int, epoch: str
) -> None:
    """An attempt of a request ends."""
    attempt = settled(request_id, charged=charged)
    row = pending_row(attempt, made.settle(attempt))
    tx = SqliteTx(ledger.connection)
    [(seq,)] = run_now(
        tx.rows("SELECT COALESCE(MAX(seq) + 1, 0) FROM attempt WHERE epoch = $1", epoch)
    )
    assert run_now(append(tx, epoch, seq, [row])) == 1


def charges(ledger: MemoryLedger) -> int:
    """All that is booked, with recoveries and their corrections."""
    [(charged,)] = ledger.connection.execute("SELECT SUM(charged_nano_usd) FROM attempt")
    return int(charged)


async def spend_all(ledger: MemoryLedger, made: Budgets, epoch: str = "after") -> None:
    """Others spend all that the cap leaves."""
    need = CAP
    number = 1
    while need:
        number += 1
        try:
            await made.reserve(f"key/{number}", HOLDER, need)
        except BudgetRefused:
            need //= 2
        else:
            book(ledger, made, f"key/{number}", need, epoch)


@pytest.mark.parametrize("closed", [True, False])
async def test_a_front_that_comes_late_is_not_charged_for_what_counts_as_spent(
    closed: bool,
) -> None:
    """Its leader was stopped and counted as dead with it; others spend the rest of the budget."""
    ledger = await killed()
    made = await adopted(ledger)
    [lease] = made.book.leases
    await made.adopted.end(complete=False)
    if closed:
        await made.return_unused()
        assert not made.book.leases
    await spend_all(ledger, made)
    made.book.hold_again("key/1", lease.lease_id, HOLDER, 600_000, time.time())
    book(ledger, made, "key/1", 400_000)
    await made.return_unused()
    assert charges(ledger) == CAP - 200_000, "what it has not spent is not charged"
    assert account(ledger.connection) == (CAP - 200_000, CAP - 200_000)
    made.forget_refusals()
    await spend_all(ledger, made)
    assert account(ledger.connection) == (CAP, CAP)
    assert charges(ledger) == CAP


@pytest.mark.parametrize("closed", [True, False])
async def test_what_a_late_request_holds_returns_once_and_at_its_end(closed: bool) -> None:
    """Another request of the lease is never heard of again, and counts as spent."""
    ledger = MemoryLedger()
    before = Budgets(cast(Ledger, ledger), Owner("gateway", "before"))
    before.configure([BUDGET])
    await before.reserve("key/1", HOLDER, 300_000)
    await before.reserve("key/2", HOLDER, 300_000)
    granted = account(ledger.connection)[1]
    made = await adopted(ledger)
    [lease] = made.book.leases
    await made.adopted.end(complete=False)
    if closed:
        await made.return_unused()
    made.book.hold_again("key/1", lease.lease_id, HOLDER, 300_000, time.time())
    append_attempt(ledger, made, "key/1", 100_000, "after")
    await made.return_unused()
    assert account(ledger.connection) == (granted, granted), "another attempt may follow"
    book(ledger, made, "key/1", 50_000)
    ledger.fails = True
    await made.return_unused()
    ledger.fails = False
    for _ in range(2):
        await made.return_unused()
        assert account(ledger.connection) == (granted - 150_000, granted - 150_000)
        assert charges(ledger) == granted - 150_000
        made.book.hold_again("key/1", lease.lease_id, HOLDER, 150_000, time.time())
        made.release("key/1")  # its front tells it again, and it is over


async def test_a_request_that_was_known_takes_nothing_of_what_others_hold() -> None:
    """Its front is given up for lost after the takeover, and comes back later."""
    ledger = MemoryLedger()
    before = Budgets(cast(Ledger, ledger), Owner("gateway", "before"))
    before.configure([BUDGET])
    await before.reserve("key/1", HOLDER, 300_000)
    await before.reserve("key/2", HOLDER, 300_000)
    made = await adopted(ledger)
    [lease] = made.book.leases
    made.book.hold_again("key/1", lease.lease_id, HOLDER, 300_000, time.time())
    await made.adopted.end(complete=False)
    unknown = charges(ledger)
    made.release("key/1")
    await made.return_unused()
    made.book.hold_again("key/1", lease.lease_id, HOLDER, 300_000, time.time())
    made.release("key/1")
    await made.return_unused()
    assert account(ledger.connection) == (unknown, unknown)


REQUESTS = st.lists(
    st.tuples(
        st.integers(1, 100_000),  # reserved
        st.lists(st.integers(0, 100), max_size=3),  # percent of it, that attempts are charged
        st.sampled_from(["known", "late", "late", "never"]),
    ),
    min_size=1,
    max_size=6,
)


async def taken_over(
    requests: list[tuple[int, list[int], str]],
) -> tuple[MemoryLedger, Budgets]:
    """A process reserves for all of them and is killed; the next one has its lease."""
    ledger = MemoryLedger()
    before = Budgets(cast(Ledger, ledger), Owner("gateway", "before"))
    before.configure([BUDGET])
    for number, (reserved, _, _) in enumerate(requests):
        await before.reserve(f"key/{number}", HOLDER, reserved)
    return ledger, await adopted(ledger)


def take_step(
    ledger: MemoryLedger,
    made: Budgets,
    request_id: str,
    steps: dict[str, list[int | None]],
    held: dict[str, int],
) -> int:
    """The next attempt of a request, or its end. Returns what it is charged."""
    charged = steps[request_id].pop(0)
    if charged is None:
        made.release(request_id)
        del held[request_id], steps[request_id]
        return 0
    append_attempt(ledger, made, request_id, charged, "after")
    held[request_id] -= charged
    return charged


def check_account(ledger: MemoryLedger, spent: int, held: dict[str, int]) -> int:
    """What is charged and what is held is committed. Returns that."""
    booked, committed = account(ledger.connection)
    assert booked == charges(ledger)
    assert committed >= booked
    assert committed >= spent + sum(held.values())
    return committed


@given(requests=REQUESTS, order=st.randoms(use_true_random=False))
async def test_nothing_returns_that_may_still_be_spent(
    requests: list[tuple[int, list[int], str]], order: random.Random
) -> None:
    """In any order of fronts, attempts and returns, what is charged and what running and unknown
    requests hold is committed. In the end nothing else is, but the spare part of the lease."""
    ledger, made = await taken_over(requests)
    [lease] = made.book.leases
    granted = lease.granted_nano_usd
    spare = granted - sum(reserved for reserved, _, _ in requests)
    held = {f"key/{number}": reserved for number, (reserved, _, _) in enumerate(requests)}
    steps: dict[str, list[int | None]] = {}
    for number, (reserved, shares, told) in enumerate(requests):
        attempts = [reserved * share // 100 // max(1, len(shares)) for share in shares]
        if told != "never":
            steps[f"key/{number}"] = [*attempts, None]
        if told == "known":
            made.book.hold_again(f"key/{number}", lease.lease_id, HOLDER, reserved, time.time())
    await made.adopted.end(complete=False)
    spent = 0
    while steps:
        request_id = order.choice(sorted(steps))
        if order.random() < 0.3:
            await made.return_unused()
        made.book.hold_again(request_id, lease.lease_id, HOLDER, held[request_id], time.time())
        spent += take_step(ledger, made, request_id, steps, held)
        check_account(ledger, spent, held)
    await made.return_unused()
    await made.return_unused()
    left = spent + sum(held.values())
    assert account(ledger.connection) == (charges(ledger),) * 2
    assert left <= charges(ledger) <= left + spare


@given(requests=REQUESTS, order=st.randoms(use_true_random=False), fails=st.booleans())
async def test_nothing_stays_spent_for_nobody_once_all_requests_are_known(
    requests: list[tuple[int, list[int], str]], order: random.Random, fails: bool
) -> None:
    """The rest of the lease returns when the last front has told, amid attempts and ends of others;
    rows of requests that have told come in any order. `fails`: the ledger does not answer then."""
    ledger, made = await taken_over(requests)
    [lease] = made.book.leases
    held = {f"key/{number}": reserved for number, (reserved, _, _) in enumerate(requests)}
    steps: dict[str, list[int | None]] = {}
    untold = set()
    for number, (reserved, shares, told) in enumerate(requests):
        attempts = [reserved * share // 100 // max(1, len(shares)) for share in shares]
        steps[f"key/{number}"] = [*attempts, None]
        if told == "known":
            made.book.hold_again(f"key/{number}", lease.lease_id, HOLDER, reserved, time.time())
        else:
            untold.add(f"key/{number}")
    await made.adopted.end(complete=False)
    spent, returned = 0, False
    while steps:
        request_id = order.choice(sorted(steps))
        if order.random() < 0.3:
            await made.return_unused()
        if request_id in untold:
            made.book.hold_again(request_id, lease.lease_id, HOLDER, held[request_id], time.time())
            untold.remove(request_id)
        if not untold and not returned and order.random() < 0.5:
            ledger.fails, returned = fails, True
            await made.adopted.return_unaccounted()
            ledger.fails = False
        spent += take_step(ledger, made, request_id, steps, held)
        committed = check_account(ledger, spent, held)
        assert committed <= CAP
    await made.adopted.return_unaccounted()
    for _ in range(2):
        await made.return_unused()
    assert charges(ledger) == spent
    assert account(ledger.connection) == (spent, spent)


async def test_what_all_requests_are_known_not_to_have_spent_returns_once() -> None:
    ledger = await killed()
    made = await adopted(ledger)
    await made.adopted.end(complete=False)
    ledger.fails = True
    await made.adopted.return_unaccounted()
    ledger.fails = False
    assert charges(ledger) > 0
    for _ in range(2):
        await made.return_unused()
        assert charges(ledger) == 0
        assert account(ledger.connection) == (0, 0)


async def test_what_was_booked_without_an_answer_is_not_booked_again() -> None:
    """The ledger is slow at the takeover: the transaction is committed after the wait for it."""
    ledger = MemoryLedger()
    before = Budgets(cast(Ledger, ledger), Owner("gateway", "before"))
    before.configure([BUDGET])
    for number in (1, 2):
        await before.reserve(f"key/{number}", HOLDER, 300_000)
    made = await adopted(ledger)
    [lease] = made.book.leases
    made.book.hold_again("key/1", lease.lease_id, HOLDER, 300_000, time.time())
    ledger.unanswered = True
    with pytest.raises(LedgerUnavailable):
        await made.adopted.end(complete=False)
    ledger.unanswered = False
    booked = charges(ledger)
    await made.return_unused()
    assert charges(ledger) == booked, "the known request has not spent what it holds"
    made.book.hold_again("key/2", lease.lease_id, HOLDER, 300_000, time.time())
    await made.adopted.return_unaccounted()
    for number in (1, 2):
        book(ledger, made, f"key/{number}", 300_000)
    await made.return_unused()
    assert charges(ledger) == 600_000
    assert account(ledger.connection) == (600_000, 600_000)


async def test_what_is_not_booked_yet_is_known() -> None:
    """Until then the next leader must take the fronts of before for unknown."""
    ledger = await killed()
    made = await adopted(ledger)
    ledger.fails = True
    with pytest.raises(LedgerUnavailable):
        await made.adopted.end(complete=False)
    assert not made.adopted.are_booked
    ledger.fails = False
    await made.return_unused()
    assert made.adopted.are_booked


async def test_two_fronts_of_one_lease_of_which_one_comes_late() -> None:
    ledger = MemoryLedger()
    before = Budgets(cast(Ledger, ledger), Owner("gateway", "before"))
    before.configure([BUDGET])
    for number in (1, 2, 3):
        await before.reserve(f"key/{number}", HOLDER, 300_000)
    granted = account(ledger.connection)[1]
    made = await adopted(ledger)
    [lease] = made.book.leases
    made.book.hold_again("key/1", lease.lease_id, HOLDER, 300_000, time.time())
    await made.adopted.end(complete=False)
    assert charges(ledger) == granted - 300_000
    made.book.hold_again("key/2", lease.lease_id, HOLDER, 300_000, time.time())
    book(ledger, made, "key/1", 300_000)
    book(ledger, made, "key/2", 300_000)
    assert charges(ledger) == granted, "the third has come back to nobody"
    await made.return_unused()
    assert account(ledger.connection) == (granted, granted)


async def test_the_leader_after_the_next_one_takes_back_too() -> None:
    ledger = await killed()
    granted = account(ledger.connection)[1]
    made = await adopted(ledger)
    [lease] = made.book.leases
    await made.adopted.end(complete=False)
    later = await adopted(ledger, "later")
    later.book.hold_again("key/1", lease.lease_id, HOLDER, 600_000, time.time())
    await later.adopted.end(complete=True)
    book(ledger, later, "key/1", 600_000, "later")
    await later.return_unused()
    assert account(ledger.connection) == (granted, granted)
    assert charges(ledger) == granted


async def test_what_could_not_be_booked_as_lost_is_booked_before_its_lease_ends() -> None:
    ledger = await killed()
    granted = account(ledger.connection)[1]
    made = await adopted(ledger)
    ledger.fails = True
    with pytest.raises(LedgerUnavailable):
        await made.adopted.end(complete=False)
    ledger.fails = False
    await made.return_unused()
    assert account(ledger.connection) == (granted, granted)
    assert charges(ledger) == granted


async def test_a_request_of_a_lease_that_goes_on_holds_it_again() -> None:
    """Its front was given up for lost, and has come back to the same scheduler."""
    ledger = MemoryLedger()
    made = Budgets(cast(Ledger, ledger), Owner("gateway", "same"))
    made.configure([BUDGET])
    await made.reserve("key/1", HOLDER, 600_000)
    [lease] = made.book.leases
    made.release("key/1")
    made.book.hold_again("key/1", lease.lease_id, HOLDER, 600_000, time.time())
    assert made.book.held("key/1") == (lease.lease_id, 600_000)
    book(ledger, made, "key/1", 600_000, "same")
    await spend_all(ledger, made, "same")
    assert account(ledger.connection) == (CAP, CAP)
    assert charges(ledger) == CAP
