"""The standings of budgets that doors know: read apart from requests, kept for seconds, bounded."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from gateway.auth.authenticator import Caller
from gateway.doors.entry import budget_standings
from gateway.doors.entry.budget_standings import KEPT_S, READS_AT_ONCE, BudgetStandings
from scheduler.budgets.budget_window import Period
from scheduler.budgets.standing import BudgetStanding
from scheduler.port import SchedulerPort
from tests.gateway.link.pipes import turns

STANDING = BudgetStanding(
    of_key=True, period=Period.DAY, cap_nano_usd=2, spent_nano_usd=1, hard=True, ends_unix_s=3
)


class Port:
    """Counts the reads, and answers once `answers` is set."""

    def __init__(self) -> None:
        self.reads: list[tuple[str, str]] = []
        self.answers = asyncio.Event()
        self.found: Any = (STANDING,)

    async def budget_standings(self, tenant: str, key_id: str) -> Any:
        self.reads.append((tenant, key_id))
        await self.answers.wait()
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def caller(tenant: str = "team", key_id: str = "k") -> Caller:
    return cast(Caller, SimpleNamespace(tenant=tenant, key_id=key_id))


class Made:
    def __init__(self) -> None:
        self.port, self.now_s = Port(), 100.0
        self.standings = BudgetStandings(cast(SchedulerPort, self.port), lambda: self.now_s)


async def test_a_read_runs_once_beside_the_requests_and_is_kept() -> None:
    made = Made()
    made.standings.refresh(caller())
    made.standings.refresh(caller())
    await turns()
    assert made.port.reads == [("team", "k")]
    assert made.standings.known(caller()) == ()
    made.port.answers.set()
    await turns()
    assert made.standings.known(caller()) == (STANDING,)
    made.standings.refresh(caller())
    await turns()
    assert len(made.port.reads) == 1
    made.now_s += KEPT_S
    made.standings.refresh(caller())
    await turns()
    assert len(made.port.reads) == 2


async def test_what_cannot_be_read_is_unknown() -> None:
    made = Made()
    made.port.answers.set()
    for found in (None, ConnectionError("the link is lost")):
        made.port.found = (STANDING,)
        made.standings.refresh(caller())
        await turns()
        assert made.standings.known(caller()) == (STANDING,)
        made.port.found, made.now_s = found, made.now_s + KEPT_S
        made.standings.refresh(caller())
        await turns()
        assert made.standings.known(caller()) == ()


async def test_reads_are_bounded_by_tenant_and_in_all() -> None:
    made = Made()
    for n in range(9):
        made.standings.refresh(caller(key_id=f"k{n}"))
    await turns()
    assert len(made.port.reads) == budget_standings.READS_OF_TENANT
    for n in range(2 * READS_AT_ONCE):
        made.standings.refresh(caller(tenant=f"t{n}"))
    await turns()
    assert len(made.port.reads) == READS_AT_ONCE
    made.port.answers.set()
    await turns()
    made.standings.refresh(caller(key_id="k8"))
    await turns()
    assert made.port.reads[-1] == ("team", "k8")
