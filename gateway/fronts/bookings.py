"""The ledger, as the host of the fronts needs it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from gateway.accounting.accounting import Accounting
from gateway.accounting.booked import Sought
from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.link.wire.resume import AttemptKey
from scheduler.metering.settlement import SettledAttempt

log = logging.getLogger(__name__)

AGAIN_S = 0.5
"""Time between two questions to a ledger that does not answer."""


class LedgerBookings:
    """Implements `gateway.link.host.Bookings`."""

    def __init__(self, accounting: Accounting) -> None:
        self._accounting = accounting

    @property
    def accepted_rows(self) -> int:
        """Rows that were accepted since the start."""
        return self._accounting.ledger.accepted_rows

    @property
    def durable_rows(self) -> int:
        """Those of them that a kill of this process does not lose."""
        return self._accounting.ledger.durable_rows

    async def booked(self, keys: Sequence[AttemptKey]) -> Mapping[tuple[str, int], SettledAttempt]:
        """Returns the accounts of those attempts that are in the ledger. Asks until it answers: a
        front that went on without them would have attempts booked twice."""
        now_us = round(time.time() * 1e6)
        sought = [
            Sought(
                request_id=key.request_id,
                key_id=key.key_id,
                attempt=key.attempt,
                since_unix_us=now_us - round(key.started_ago_s * 1e6),
            )
            for key in keys
        ]
        while True:
            try:
                return await self._accounting.booked(sought)
            except LedgerUnavailable as error:
                log.warning(
                    "the ledger does not tell which of %d attempts of a front are booked already;"
                    " the front waits for it: %s",
                    *(len(keys), error),
                )
                await asyncio.sleep(AGAIN_S)
