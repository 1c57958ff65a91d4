"""The ledger, as the host of the fronts needs it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from gateway.accounting.accounting import Accounting
from gateway.accounting.booked import Sought
from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.link.wire.resume import AttemptKey
from scheduler.metering.settlement import SettledAttempt

log = logging.getLogger(__name__)


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
        """Returns the accounts of those attempts that are in the ledger."""
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
        try:
            return await self._accounting.booked(sought)
        except LedgerUnavailable as error:
            log.error(
                "the ledger does not answer, so that %d attempts of a front that is back may be"
                " booked twice: %s",
                *(len(keys), error),
            )
            return {}
