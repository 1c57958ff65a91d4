"""Budgets in the gateway: reserves before a request runs, settles each attempt, returns leases.

`BudgetBook` keeps the figures. Its requests to the database go through the ledger's writer, in
order with the rows. While the database does not answer, a holder spends what it has leased and is
refused afterwards, so that a cap that cannot be checked is never exceeded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
import weakref
from collections.abc import AsyncIterator, Iterable

from gateway.accounting.adopted_leases import AdoptedLeases
from gateway.accounting.lease_recovery import record_lost_rows, return_unspent
from gateway.accounting.ledger.database import LedgerUnavailable
from gateway.accounting.ledger.leases import (
    LeaseGone,
    Owner,
    close,
    extend,
    give_back,
    owned_by,
)
from gateway.accounting.ledger.ledger import Ledger
from scheduler.budgets.budget import Budget, BudgetAccount, Holder, Limit, Refusal, Scope
from scheduler.budgets.budget_book import (
    BudgetBook,
    BudgetSettlement,
    NoBudget,
    Order,
)
from scheduler.budgets.lease import Lease
from scheduler.budgets.lease_orders import Extend, GiveBack, Unspent
from scheduler.metering.settlement import SettledAttempt

log = logging.getLogger(__name__)

GRANT_S = 5.0
"""Longest wait of a request for an extension of its lease."""
GRANTS_OF_TENANT = 4
"""Most extensions of one tenant at once: its callers choose its sessions, each with a lease, and
the extensions of others wait behind them in the ledger."""
MAX_GRANTS = 100
"""Most extensions for one request, while other requests of its holder use up each grant."""
REFUSED_S = 1.0
"""How long a lasting refusal is remembered, so that a client that retries at once costs the
database nothing."""
MAX_REFUSED = 10_000
LATE_NOTE = "was alive: it has not spent this part of the lease's recovery"
LOST_NOTE = "the ledger's backlog was full: rows that were lost"


class BudgetRefused(Exception):
    """A budget has no room. `retry_after_s` is None where a retry cannot succeed in this window."""

    def __init__(self, refusal: Refusal, retry_after_s: float | None) -> None:
        super().__init__(f"budget of {account_name(refusal.limit)}")
        self.refusal = refusal
        self.retry_after_s = retry_after_s


class BudgetUnchecked(Exception):
    """The database does not answer, so that the cap cannot be checked; the text says why."""


class Budgets:
    """Reservations of one gateway. Leases survive a change of the configured budgets."""

    def __init__(self, ledger: Ledger, owner: Owner) -> None:
        self._ledger = ledger
        self._owner = owner
        self._book = BudgetBook(lambda: f"{owner.epoch}-{secrets.token_hex(6)}")
        self.adopted = AdoptedLeases(ledger, self._book, owner)
        self._locks: weakref.WeakValueDictionary[Holder, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._turns: weakref.WeakValueDictionary[str, asyncio.Semaphore] = (
            weakref.WeakValueDictionary()
        )
        """Extensions of each tenant that may still begin."""
        self._undone: list[Order] = []
        self._lost: dict[str, int] = {}
        """Charges of lost rows that are not booked yet, by the id of a lease that ends."""
        self._refused: dict[Holder, tuple[float, int, BudgetRefused]] = {}
        self._configured: tuple[Budget, ...] = ()
        self._overrides: dict[Scope, Budget | None] = {}

    @property
    def book(self) -> BudgetBook:
        """The figures, for reading only."""
        return self._book

    def configure(self, budgets: Iterable[Budget]) -> None:
        """Puts the configuration file's budgets into force."""
        self._configured = tuple(budgets)
        self._apply()

    def override(self, overrides: dict[Scope, Budget | None]) -> None:
        """Applies the budgets that were set at run time over the configured ones; None deletes."""
        self._overrides = overrides
        self._apply()

    def forget_refusals(self) -> None:
        """Drops remembered refusals, because a correction may have made room."""
        self._refused.clear()

    def was_set(self, scope: Scope) -> bool:
        """Whether the budget of this scope was set at run time."""
        return scope in self._overrides

    def holder(self, tenant: str, key_id: str, session_id: str) -> Holder | None:
        """The holder whose lease pays for a request; None where no budget applies."""
        return self._book.applied.holder(tenant, key_id, session_id)

    def accounts_of(
        self, tenant: str, key_id: str, session_id: str, unix_s: float
    ) -> list[BudgetAccount]:
        """Returns the budget accounts that count an attempt of a moment."""
        holder = Holder(tenant, key_id, session_id)
        return [limit.account for limit in self._book.applied.accounts(holder, unix_s)]

    def try_reserve(self, request_id: str, holder: Holder, worst_nano_usd: int) -> bool:
        """Reserves the worst case if the holder's lease has room, or if no budget applies any more.

        False: the lease has to be extended first, by `reserve`. Raises BudgetRefused where the
        store refused this holder as much within the last `REFUSED_S`, and BudgetUnchecked where
        this process holds too many leases for one more.
        """
        try:
            if self._book.reserve(request_id, holder, worst_nano_usd, time.time()):
                return True
        except NoBudget:
            return True
        except OverflowError as error:
            raise BudgetUnchecked(str(error)) from None
        self._refuse_again(holder, worst_nano_usd)
        return False

    async def reserve(self, request_id: str, holder: Holder, worst_nano_usd: int) -> None:
        """Reserves the worst case, and extends the holder's lease in the store where it has no
        room. Raises BudgetRefused or BudgetUnchecked."""
        if self.try_reserve(request_id, holder, worst_nano_usd):
            return
        lock = self._locks.get(holder)
        if lock is None:
            self._locks[holder] = lock = asyncio.Lock()
        turns = self._turns.get(holder.tenant)
        if turns is None:
            self._turns[holder.tenant] = turns = asyncio.Semaphore(GRANTS_OF_TENANT)
        async with lock:
            # The requests that held the lock before may have extended the lease far enough, or may
            # have been refused; others of this holder may take what this request was granted.
            for _ in range(MAX_GRANTS):
                if self.try_reserve(request_id, holder, worst_nano_usd):
                    return
                try:
                    async with _turn(turns, holder.tenant):
                        await self._extend(holder, worst_nano_usd)
                except NoBudget:
                    return
                except OverflowError as error:
                    raise BudgetUnchecked(str(error)) from None
        raise BudgetUnchecked("too many requests of one holder compete for its lease")

    def settle(self, settled: SettledAttempt) -> BudgetSettlement | None:
        """How an ended attempt counts in its budgets; None where no budget applies."""
        return settle_against_budgets(self._book, settled)

    def release(self, request_id: str) -> None:
        """Frees the rest of a reservation, after the request ended and its attempts were
        settled."""
        self._book.release(request_id, time.time())

    async def return_unused(self, *, pressed: Holder | None = None) -> None:
        """Closes idle leases and returns what leases hold above 2 %; a later call repeats what
        failed.

        `pressed`: a holder that found no room, for which other leases return all that is free.
        """
        due, self._undone = (*self._undone, *self._book.due(time.time(), pressed=pressed)), []
        await self._perform(due)

    async def close(self) -> None:
        """Closes the leases when the process stops. What a running request holds counts as
        spent."""
        due, self._undone = (*self._undone, *self._book.close_all()), []
        await self._perform(due)

    async def _perform(self, actions: tuple[Order, ...]) -> None:
        done = 0
        try:
            await self.adopted.write_pending()
            for action in actions:
                await self._to_store(action)
                done += 1
        except LedgerUnavailable:
            # A return may have been committed and must not happen twice: the next grant, or the end
            # of the lease, corrects the figures. Doing the others twice is harmless.
            self._undone.extend(a for a in actions[done:] if not isinstance(a, GiveBack))

    async def _to_store(self, action: Order) -> None:
        if isinstance(action, Unspent):
            unspent = {action.lease_id: action.nano_usd}
            note = f"{action.request_id} {LATE_NOTE}"
            await self._ledger.after_rows(lambda tx: return_unspent(tx, unspent, note), GRANT_S)
            return
        lease_id = action.lease.lease_id
        if isinstance(action, GiveBack):
            amount = action.nano_usd
            await self._ledger.after_rows(lambda tx: give_back(tx, lease_id, amount), GRANT_S)
            return
        lost = self._lost.get(lease_id, 0) + self._ledger.lost(lease_id)
        if lost:
            self._lost[lease_id] = lost  # until it is known to be booked
            note = f"{LOST_NOTE} of {self._owner.epoch}"
            await self._ledger.after_rows(
                lambda tx: record_lost_rows(tx, {lease_id: lost}, note), GRANT_S
            )
            del self._lost[lease_id]
        await self._ledger.after_rows(lambda tx: close(tx, lease_id), GRANT_S)

    async def _extend(self, holder: Holder, worst_nano_usd: int) -> None:
        """Has the database grant the missing amount, or raises."""
        refusal = await self._grant(self._book.extension(holder, worst_nano_usd, time.time()))
        if refusal is not None and refusal.transient:
            # Other leases of this process may hold money that no request needs.
            await self.return_unused(pressed=holder)
            refusal = await self._grant(self._book.extension(holder, worst_nano_usd, time.time()))
        if refusal is None:
            return
        if refusal.transient:
            raise BudgetRefused(refusal, min(30.0, max(0.2, self._book.hold_s)))
        if len(self._refused) >= MAX_REFUSED:
            self._refused.clear()
        error = BudgetRefused(refusal, None)
        self._refused[holder] = (time.monotonic() + REFUSED_S, worst_nano_usd, error)
        raise error

    def _refuse_again(self, holder: Holder, worst_nano_usd: int) -> None:
        known = self._refused.get(holder)
        if known is None:
            return
        until_s, refused_nano_usd, error = known
        if time.monotonic() >= until_s:
            del self._refused[holder]
        elif worst_nano_usd >= refused_nano_usd:
            raise BudgetRefused(error.refusal, None)

    async def _grant(self, step: Extend) -> Refusal | None:
        lease: Lease = step.lease
        try:
            answer = await self._ledger.after_rows(
                lambda tx: extend(tx, self._owner, step), GRANT_S
            )
        except LeaseGone:
            log.error(
                "the lease of %s was recovered as that of a dead gateway", owned_by(lease.holder)
            )
            self._book.gone(lease)
            return None
        except LedgerUnavailable as error:
            self._book.not_extended(lease)
            raise BudgetUnchecked(str(error)) from error
        except BaseException:
            self._book.not_extended(lease)
            raise
        if isinstance(answer, Refusal):
            self._book.not_extended(lease)
            return answer
        self._book.extended(lease, answer.granted_nano_usd, answer.left_nano_usd)
        return None

    def _apply(self) -> None:
        budgets: dict[Scope, Budget | None] = {b.scope: b for b in self._configured}
        budgets |= self._overrides
        self._refused.clear()
        self._book.set_budgets(budget for budget in budgets.values() if budget is not None)


@contextlib.asynccontextmanager
async def _turn(turns: asyncio.Semaphore, tenant: str) -> AsyncIterator[None]:
    """Waits for an extension of the tenant to end, if too many run. Raises BudgetUnchecked."""
    if not turns.locked():
        await turns.acquire()  # at once
    else:
        try:
            async with asyncio.timeout(GRANT_S):
                await turns.acquire()
        except TimeoutError:
            text = f"tenant {tenant} needs more leases than the ledger grants in {GRANT_S:g} s"
            raise BudgetUnchecked(text) from None
    try:
        yield
    finally:
        turns.release()


def account_name(limit: Limit) -> str:
    """The name of a budget account in messages."""
    account = limit.account
    key = f", key {account.key_id}" if account.key_id else ""
    session = "" if account.session_id is None else f", session {account.session_id[:40]!r}"
    return f"tenant {account.tenant}{key}{session}, a {account.period}"


def settle_against_budgets(book: BudgetBook, settled: SettledAttempt) -> BudgetSettlement | None:
    """Settles an attempt in the book; None where no budget applies to it."""
    found = book.settle(settled.request_id, settled.charged_nano_usd)
    if found is not None:
        return found
    holder = book.applied.holder(settled.tenant, settled.key_id, settled.session_id)
    if holder is None:
        return None
    # The budget was set while the request ran: nothing was reserved, but the charge counts.
    limits = book.applied.accounts(holder, settled.started_unix_s)
    return BudgetSettlement(
        lease_id=None,
        budgeted_nano_usd=settled.charged_nano_usd or 0,
        overrun_nano_usd=0,
        others=tuple(limit.account for limit in limits),
    )
