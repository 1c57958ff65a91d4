"""What the host of the fronts asks the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.accounting.accounting import Accounting, open_accounting
from gateway.accounting.booked import Sought
from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.fronts import bookings
from gateway.fronts.bookings import LedgerBookings
from gateway.link.wire.resume import AttemptKey
from scheduler.metering.settlement import SettledAttempt
from tests import serving
from tests.ledgers import settled

KEY = AttemptKey(request_id="r", key_id="k", attempt=1, started_ago_s=5.0)


async def test_a_front_waits_for_a_ledger_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bookings, "AGAIN_S", 0.01)
    asked = asyncio.Queue[int]()
    away = True
    booked = Accounting.booked

    async def ask(
        accounting: Accounting, sought: Sequence[Sought]
    ) -> dict[tuple[str, int], SettledAttempt]:
        asked.put_nowait(len(sought))
        if away:
            raise LedgerUnavailable("connection refused")
        return await booked(accounting, sought)

    monkeypatch.setattr(Accounting, "booked", ask)
    async with open_accounting(serving.config(), tmp_path) as accounting:
        accounting.record_attempt(settled("r", key_id="k"))
        front = asyncio.create_task(LedgerBookings(accounting).booked([KEY]))
        for _ in range(3):
            assert await asyncio.wait_for(asked.get(), 10.0) == 1
        assert not front.done(), "it goes on without an answer"
        away = False
        assert list(await asyncio.wait_for(front, 10.0)) == [("r", 1)]
