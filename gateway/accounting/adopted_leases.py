"""Leases that this process has taken over from an earlier one, whose requests go on.

What is free of them when the takeover ends counts as spent where a request may be unknown that
holds it. It returns once all requests are known: the fronts of before have told what they have, no
row of the earlier process can come any more because the ledger refuses its term, and so nobody is
left who could spend it. What is reserved for a request that has come back late stays booked until
that request ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from gateway.accounting.lease_recovery import record_lost_rows, return_unspent
from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.accounting.ledger.leases import OpenLease, Owner
from gateway.accounting.ledger.ledger import Ledger
from scheduler.budgets.budget import Holder
from scheduler.budgets.budget_book import BudgetBook
from scheduler.budgets.lease import Lease

WRITE_S = 5.0
"""Longest wait for the ledger."""
UNKNOWN_NOTE = "the scheduler was killed: requests that held it are not known"


class AdoptedLeases:
    """The leases of a `BudgetBook` that an earlier process has opened."""

    def __init__(self, ledger: Ledger, book: BudgetBook, owner: Owner) -> None:
        self._ledger = ledger
        self._book = book
        self._unknown_note = f"{UNKNOWN_NOTE} at {owner.epoch}"
        self._known_note = (
            f"all requests are known at {owner.epoch}: they have not spent this part of the"
            " lease's recovery"
        )
        self._unbooked: dict[str, int] = {}
        """Amounts that count as spent and are not in the ledger yet, by lease id."""
        self._unreturned: dict[str, int] = {}
        """Amounts that were booked as spent and return, by lease id."""
        self._writing = asyncio.Lock()

    @property
    def are_booked(self) -> bool:
        """Whether the ledger has all that counts as spent."""
        return not self._unbooked

    def begin(self, leases: Iterable[OpenLease]) -> None:
        """Takes over leases of the process before this one."""
        self._book.adopt(map(self._adopted, leases))

    async def end(self, *, complete: bool) -> None:
        """Ends the takeover: what is free of an adopted lease returns with its end. `complete`: all
        requests that the earlier process ran are known; otherwise what they have not accounted for
        counts as spent. Raises LedgerUnavailable; it is booked later then."""
        self._unbooked |= {
            lease.lease_id: nano_usd
            for lease, nano_usd in self._book.end_adoption(complete=complete)
        }
        # At once, so that it is booked before any row of a front that comes back late.
        await self.write_pending()

    async def return_unaccounted(self) -> None:
        """All requests of the earlier process are known by now: what none of them has told of was
        not spent, and returns, now or as soon as the ledger answers."""
        self._unreturned |= self._book.take_unaccounted()
        with contextlib.suppress(LedgerUnavailable):
            await self.write_pending()

    async def write_pending(self) -> None:
        """Books what is not booked yet, and returns what is to return. Raises LedgerUnavailable."""
        async with self._writing:
            if self._unbooked:
                unbooked = dict(self._unbooked)
                await self._ledger.after_rows(
                    lambda tx: record_lost_rows(tx, unbooked, self._unknown_note), WRITE_S
                )
                self._unbooked.clear()
            if self._unreturned:
                unreturned = dict(self._unreturned)
                await self._ledger.after_rows(
                    lambda tx: return_unspent(tx, unreturned, self._known_note), WRITE_S
                )
                self._unreturned.clear()

    def _adopted(self, found: OpenLease) -> Lease:
        holder = self._book.applied.holder(found.tenant, found.key_id, found.session_id)
        if holder is None:  # its budget was taken away meanwhile
            holder = Holder(found.tenant, found.key_id, None)
        limits = self._book.applied.accounts(holder, found.opened_unix_s)
        limits = tuple(each for each in limits if each.account.account_id in found.account_ids)
        return Lease(
            lease_id=found.lease_id,
            holder=holder,
            limits=limits,
            ends_unix_s=min((limit.ends_unix_s for limit in limits), default=0),
            granted_nano_usd=found.granted_nano_usd,
            settled_nano_usd=found.settled_nano_usd,
        )
