"""Reservations of one gateway: from the lease at once, or after the ledger has granted more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from gateway.accounting import budgets
from gateway.accounting.accounting import Accounting, open_accounting
from gateway.accounting.budgets import BudgetRefused, Budgets, BudgetUnchecked
from gateway.accounting.ledger.leases import Owner
from gateway.accounting.ledger.ledger import Ledger
from gateway.config.gateway import GatewayConfig
from gateway.config.ledger import BudgetConfig, LedgerConfig
from scheduler.budgets import budget_book
from scheduler.budgets.budget import Budget, Holder
from scheduler.budgets.budget_window import Period
from tests.gateway.scheduling.scheduling_made import MemoryLedger
from tests.ledgers import settled

CAP_NANO_USD = 1_000_000_000
HOLDER = Holder("team", "capped", None)


@contextlib.asynccontextmanager
async def opened(folder: Path, *, each_session: bool = False) -> AsyncIterator[Accounting]:
    budget = BudgetConfig(
        tenant="team", key="capped", period=Period.MONTH, cap_usd="1.0", each_session=each_session
    )
    config = msgspec.structs.replace(
        GatewayConfig(), ledger=LedgerConfig(retain_days=36_500), budgets=(budget,)
    )
    async with open_accounting(config, folder) as made:
        yield made


async def test_try_reserve_takes_from_the_lease_and_never_from_the_store(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        budgets = made.budgets
        assert not budgets.try_reserve("capped/1", HOLDER, 1000)  # there is no lease yet
        await budgets.reserve("capped/1", HOLDER, 1000)
        [lease] = budgets.book.leases
        free = lease.free_nano_usd
        assert free > 0  # 2 % of what is left, granted beside what the request needs
        assert not budgets.try_reserve("capped/2", HOLDER, free + 1)
        assert budgets.try_reserve("capped/2", HOLDER, free)
        assert lease.free_nano_usd == 0
        assert not budgets.try_reserve("capped/3", HOLDER, 1)
        budgets.release("capped/2")
        assert budgets.try_reserve("capped/3", HOLDER, 1)


async def test_try_reserve_raises_what_the_store_refused_lately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as made:
        budgets = made.budgets
        too_much = CAP_NANO_USD + 1
        assert not budgets.try_reserve("capped/1", HOLDER, too_much)
        with pytest.raises(BudgetRefused):
            await budgets.reserve("capped/1", HOLDER, too_much)
        with pytest.raises(BudgetRefused) as refused:
            budgets.try_reserve("capped/1", HOLDER, too_much)
        assert refused.value.retry_after_s is None
        assert not budgets.try_reserve("capped/1", HOLDER, 1000)  # less may be had
        monkeypatch.setattr("gateway.accounting.budgets.REFUSED_S", 0.0)
        budgets.forget_refusals()
        with pytest.raises(BudgetRefused):
            await budgets.reserve("capped/1", HOLDER, too_much)
        assert not budgets.try_reserve("capped/1", HOLDER, too_much)  # what is remembered is over


@pytest.mark.parametrize("beyond", [1, CAP_NANO_USD // 1000])
async def test_no_retry_is_offered_where_only_its_own_lease_holds_what_is_not_spent(
    tmp_path: Path, beyond: int
) -> None:
    async with opened(tmp_path) as made:
        left = CAP_NANO_USD // 10
        await made.budgets.reserve("capped/1", HOLDER, CAP_NANO_USD - left)
        made.record_attempt(settled("capped/1", charged=CAP_NANO_USD - left, key_id="capped"))
        made.budgets.release("capped/1")
        [lease] = made.budgets.book.leases
        assert lease.free_nano_usd >= beyond
        with pytest.raises(BudgetRefused) as refused:
            await made.budgets.reserve("capped/2", HOLDER, left + beyond)
        assert refused.value.retry_after_s is None
        await made.budgets.reserve("capped/2", HOLDER, left)
        with pytest.raises(BudgetRefused) as refused:
            await made.budgets.reserve("capped/3", HOLDER, left)
        assert refused.value.retry_after_s is not None, "a running request holds it"


async def test_a_burst_that_is_refused_costs_the_store_one_look(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        asked = 0
        after_rows = made.ledger.after_rows

        async def counted(*args: object) -> object:
            nonlocal asked
            asked += 1
            return await after_rows(*args)  # type: ignore[arg-type]

        made.ledger.after_rows = counted  # type: ignore[method-assign, assignment]
        burst = [made.budgets.reserve(f"capped/{i}", HOLDER, CAP_NANO_USD + 1) for i in range(20)]
        results = await asyncio.gather(*burst, return_exceptions=True)
        assert all(isinstance(result, BudgetRefused) for result in results)
        assert asked == 1


async def test_a_budget_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as made:
        made.budgets.configure(())
        assert made.budgets.try_reserve("capped/1", HOLDER, CAP_NANO_USD + 1)
        made.budgets.release("capped/1")
        assert made.budgets.book.leases == ()


async def test_one_holder_too_many_is_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, each_session=True) as made:
        monkeypatch.setattr(budget_book, "MAX_LEASES", 1)
        await made.budgets.reserve("capped/1", Holder("team", "capped", "a"), 10)
        other = Holder("team", "capped", "b")
        with pytest.raises(BudgetUnchecked, match="1 holders"):
            made.budgets.try_reserve("capped/2", other, 10)
        with pytest.raises(BudgetUnchecked, match="1 holders"):
            await made.budgets.reserve("capped/2", other, 10)


async def test_one_tenants_sessions_leave_room_for_the_holders_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, each_session=True) as made:
        other = Budget(tenant="other", period=Period.DAY, cap_nano_usd=CAP_NANO_USD)
        made.budgets.configure((*made.budgets.book.applied.budgets, other))
        monkeypatch.setattr(budget_book, "MAX_LEASES", 4)
        for session in ("a", "b"):
            await made.budgets.reserve(f"capped/{session}", Holder("team", "capped", session), 10)
        with pytest.raises(BudgetUnchecked, match="2 holders of budgets of tenant team"):
            await made.budgets.reserve("capped/c", Holder("team", "capped", "c"), 10)
        await made.budgets.reserve("k/1", Holder("other", "k", None), 10)
        made.budgets.release("capped/a")
        await made.budgets.close()  # closes what holds no request
        await made.budgets.reserve("capped/d", Holder("team", "capped", "d"), 10)


async def test_a_tenant_with_many_sessions_lets_the_leases_of_others_pass(tmp_path: Path) -> None:
    async with opened(tmp_path, each_session=True) as made:
        other = Budget(tenant="other", period=Period.DAY, cap_nano_usd=CAP_NANO_USD)
        made.budgets.configure((*made.budgets.book.applied.budgets, other))
        granted: list[str] = []
        loud = [
            asyncio.create_task(
                made.budgets.reserve(f"capped/{number}", Holder("team", "capped", str(number)), 10)
            )
            for number in range(60)
        ]
        for task in loud:
            task.add_done_callback(lambda _: granted.append("loud"))
        await asyncio.sleep(0)
        await made.budgets.reserve("k/1", Holder("other", "k", None), 10)
        assert len(granted) <= 2 * budgets.GRANTS_OF_TENANT, "few of the sixty go before it"
        await asyncio.gather(*loud)


async def test_who_waits_too_long_for_a_lease_is_unchecked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, each_session=True) as made:
        monkeypatch.setattr(budgets, "GRANTS_OF_TENANT", 1)
        monkeypatch.setattr(budgets, "GRANT_S", 0.05)
        held = asyncio.Event()
        real = made.ledger.after_rows

        async def slow(transaction: Any, timeout_s: float) -> Any:
            await held.wait()
            return await real(transaction, 5.0)

        monkeypatch.setattr(made.ledger, "after_rows", slow)
        first = asyncio.create_task(
            made.budgets.reserve("capped/1", Holder("team", "capped", "a"), 10)
        )
        await asyncio.sleep(0)
        with pytest.raises(BudgetUnchecked, match="tenant team needs more leases"):
            await made.budgets.reserve("capped/2", Holder("team", "capped", "b"), 10)
        held.set()
        await first
        await made.budgets.reserve("capped/2", Holder("team", "capped", "b"), 10)


@pytest.mark.parametrize("answer", ["none", "unanswered", "fails"])
async def test_charges_of_lost_rows_are_booked_once_where_the_ledger_fails(
    answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = MemoryLedger()
    lost = [300]
    monkeypatch.setattr(ledger, "lost", lambda _: lost.pop() if lost else 0)
    made = Budgets(cast(Ledger, ledger), Owner("gateway", "epoch"))
    made.configure(
        [Budget(tenant="team", key_id="", period=Period.MONTH, cap_nano_usd=CAP_NANO_USD)]
    )
    await made.reserve("capped/1", HOLDER, 1000)
    made.release("capped/1")
    made.configure([])  # its lease ends
    if answer != "none":
        monkeypatch.setattr(ledger, answer, True)
        await made.return_unused()
        monkeypatch.setattr(ledger, answer, False)
    await made.return_unused()
    await made.return_unused()
    found = ledger.connection.execute("SELECT settled_nano_usd, committed_nano_usd FROM account")
    assert found.fetchall() == [(300, 300)]
