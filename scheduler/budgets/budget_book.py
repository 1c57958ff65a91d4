"""The leases and reservations of one process; `budget.py` defines them.

The shell (`gateway/accounting/budgets.py`) asks for a reservation. If the free part of the lease is
too small, the shell passes an `Extend` to the store and the answer back to the book, one at a time
for each holder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from scheduler.budgets.applied_budgets import AppliedBudgets
from scheduler.budgets.budget import MOST_FREE_DIVISOR, Budget, BudgetAccount, Holder
from scheduler.budgets.late_holds import LateHolds
from scheduler.budgets.lease import Lease
from scheduler.budgets.lease_orders import Close, Extend, GiveBack, Unspent

IDLE_S = 10.0
"""An unused lease is closed after this time, and its unused amount returns to the store."""
MAX_LEASES = 50_000
"""Most leases of one process, some 50 MB; beyond, a new holder is asked to try again later."""
TENANT_DIVISOR = 2
"""One tenant holds at most `MAX_LEASES` over this, because its callers choose its sessions."""
FIRST_HOLD_S = 2.0
HOLD_WEIGHT = 0.05
"""Weight of a new duration in the mean time that requests hold a reservation, the retry hint."""


Order = GiveBack | Close | Unspent


class NoBudget(Exception):
    """The budgets of the holder were removed, so there is nothing to reserve from."""


@dataclass(slots=True, kw_only=True)
class _Hold:
    lease: Lease
    reserved_nano_usd: int
    since_s: float
    late: bool = False
    """Whether the lease counts it as spent, see `late_holds.py`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettlement:
    """The amount that an attempt counts with in its budgets.

    `overrun_nano_usd`: the part of it that exceeds the free amount of the lease. `others`: accounts
    that the lease does not cover, because their budget was added later.
    """

    lease_id: str | None
    budgeted_nano_usd: int
    overrun_nano_usd: int
    others: tuple[BudgetAccount, ...]


@dataclass(slots=True)
class BudgetBook:
    """The leases and reservations of one process. `new_lease_id` gives unique names."""

    new_lease_id: Callable[[], str]
    hold_s: float = FIRST_HOLD_S
    applied: AppliedBudgets = field(default_factory=AppliedBudgets)
    _leases: dict[Holder, Lease] = field(default_factory=dict)
    _ending: dict[str, Lease] = field(default_factory=dict)
    _holds: dict[str, _Hold] = field(default_factory=dict)
    _late: LateHolds = field(default_factory=LateHolds)
    _of_tenant: Counter[str] = field(default_factory=Counter)
    """Number of leases of each tenant."""

    def __repr__(self) -> str:
        return f"<BudgetBook: {len(self._leases)} leases, {len(self._holds)} reservations>"

    @property
    def leases(self) -> tuple[Lease, ...]:
        """Every open lease, for reading."""
        return (*self._leases.values(), *self._ending.values())

    def set_budgets(self, budgets: Iterable[Budget]) -> None:
        """Puts budgets into force; leases of earlier budgets end with their last request."""
        before, self.applied = self.applied, AppliedBudgets(budgets)
        for holder in list(self._leases):
            name = holder.tenant, holder.key_id
            if self.applied.of_key(*name) != before.of_key(*name):
                self._end(holder)

    def reserve(self, request_id: str, holder: Holder, worst_nano_usd: int, unix_s: float) -> bool:
        """Reserves the amount and returns True, if the holder's lease has as much free.

        `request_id` must hold no reservation yet.

        Raises NoBudget, and OverflowError when there are too many leases for one more.
        """
        if request_id in self._holds:
            raise ValueError(f"request {request_id!r} has its reservation")
        lease = self._lease(holder, unix_s)
        lease.used_s = unix_s
        if not lease.durable or lease.free_nano_usd < worst_nano_usd:
            return False
        lease.reserved_nano_usd += worst_nano_usd
        lease.holds += 1
        self._holds[request_id] = _Hold(
            lease=lease, reserved_nano_usd=worst_nano_usd, since_s=unix_s
        )
        return True

    def extension(self, holder: Holder, worst_nano_usd: int, unix_s: float) -> Extend:
        """The amount that the store has to grant before `reserve` can succeed.

        A holder has one extension at a time. The caller must then call `extended` or
        `not_extended`. Raises the errors of `reserve`.
        """
        lease = self._lease(holder, unix_s)
        lease.extending = True
        need = max(0, worst_nano_usd - lease.free_nano_usd)
        return Extend(lease=lease, need_nano_usd=need, free_nano_usd=max(0, worst_nano_usd - need))

    def extended(self, lease: Lease, granted_nano_usd: int, left_nano_usd: int | None) -> None:
        """Records the total that the store has granted to the lease."""
        lease.granted_nano_usd = granted_nano_usd
        lease.left_nano_usd = left_nano_usd
        lease.durable = True
        lease.extending = False

    def not_extended(self, lease: Lease) -> None:
        """Records that the store refused or did not answer. An amount that it granted nevertheless
        shows in the answer to the next extension."""
        lease.extending = False

    def gone(self, lease: Lease) -> None:
        """Records that the store closed the lease, because it took this process for dead.

        The whole lease then counts as spent. Running requests go on, and their rows correct the
        amount spent. New requests need another lease.
        """
        lease.extending = False
        if self._leases.get(lease.holder) is lease:
            self._end(lease.holder)

    def settle(self, request_id: str, charge_nano_usd: int | None) -> BudgetSettlement | None:
        """Settles the charge of an ended attempt against its reservation.

        `charge_nano_usd` is None if the charge is unknown; the whole reservation then counts.
        Returns None if no budget applied to the request.
        """
        hold = self._holds.get(request_id)
        if hold is None:
            return None
        lease = hold.lease
        budgeted = hold.reserved_nano_usd if charge_nano_usd is None else charge_nano_usd
        used = min(budgeted, hold.reserved_nano_usd)
        hold.reserved_nano_usd -= used
        lease.settled_nano_usd += budgeted
        if hold.late:
            overrun = budgeted
        else:
            lease.reserved_nano_usd -= used
            overrun = max(0, -lease.free_nano_usd)
        lease.granted_nano_usd += overrun
        return BudgetSettlement(
            lease_id=lease.lease_id,
            budgeted_nano_usd=budgeted,
            overrun_nano_usd=overrun,
            others=self.later_accounts(lease, hold.since_s),
        )

    def later_accounts(self, lease: Lease, unix_s: float) -> tuple[BudgetAccount, ...]:
        """Accounts of the holder that the lease does not cover."""
        if self._leases.get(lease.holder) is lease:
            return ()  # the lease covers all budgets in force
        known = {limit.account for limit in lease.limits}
        limits = self.applied.accounts(lease.holder, unix_s)
        return tuple(limit.account for limit in limits if limit.account not in known)

    def release(self, request_id: str, unix_s: float) -> None:
        """Ends a request; the unused part of its reservation is free again."""
        hold = self._holds.pop(request_id, None)
        if hold is None:
            return
        if hold.late:
            self._late.end(request_id, hold.lease.lease_id, hold.reserved_nano_usd)
        else:
            hold.lease.reserved_nano_usd -= hold.reserved_nano_usd
        hold.lease.holds -= 1
        held_s = max(0.0, unix_s - hold.since_s)
        self.hold_s += HOLD_WEIGHT * (held_s - self.hold_s)

    def held(self, request_id: str) -> tuple[str, int]:
        """The lease and the amount that a request has reserved; ("", 0): no budget applies."""
        hold = self._holds.get(request_id)
        return ("", 0) if hold is None else (hold.lease.lease_id, hold.reserved_nano_usd)

    def adopt(self, leases: Iterable[Lease]) -> None:
        """Takes over leases of an earlier process. No new request spends from them: each ends with
        its last request, but not before `end_adoption`."""
        self._late.begin()
        for lease in leases:
            lease.durable = lease.extending = lease.adopted = True
            self._ending[lease.lease_id] = lease
            self._of_tenant[lease.holder.tenant] += 1

    def hold_again(
        self, request_id: str, lease_id: str, holder: Holder, nano_usd: int, unix_s: float
    ) -> None:
        """Reserves what a request has reserved in an earlier process. `holder`: of the request.

        A front that comes back after `end_adoption` may hold money that counts as spent meanwhile.
        Its charge is then an overrun of its lease, of which the store takes back what it has booked
        as lost, and it takes back what the request has not spent at its end. So it does where the
        lease is not known any more, because it is closed.
        """
        if request_id in self._holds:
            return
        lease = self._ending.get(lease_id) or self._leases.get(holder)
        if lease is None or lease.lease_id != lease_id:
            limits = self.applied.accounts(holder, unix_s)
            lease = Lease(lease_id=lease_id, holder=holder, limits=limits, ends_unix_s=0)
        late = self._late.tell(request_id, lease_id, nano_usd)
        if not late:
            lease.reserved_nano_usd += nano_usd
        lease.holds += 1
        self._holds[request_id] = _Hold(
            lease=lease, reserved_nano_usd=nano_usd, since_s=unix_s, late=late
        )

    def end_adoption(self, *, complete: bool) -> tuple[tuple[Lease, int], ...]:
        """Lets adopted leases end with their last request. `complete`: all requests that hold them
        are known. Returns the leases of which a part is unaccounted for otherwise, and that part,
        which the caller must book; it counts as spent."""
        unaccounted = []
        for lease in self._ending.values():
            if lease.extending and lease.adopted:
                lease.extending = False
                free = lease.free_nano_usd
                if not complete and free > 0:
                    lease.settled_nano_usd += free
                    unaccounted.append((lease, free))
                    self._late.add_unaccounted(lease.lease_id, free)
        self._late.end_takeover()
        return tuple(unaccounted)

    def take_unaccounted(self) -> dict[str, int]:
        """All requests of the earlier process are known by now. Returns the parts of adopted leases
        that no request has told of, by lease id: they are booked as spent, and return."""
        return self._late.take_unaccounted()

    def due(self, unix_s: float, *, pressed: Holder | None = None) -> tuple[Order, ...]:
        """Amounts that return to the store now: ended and idle leases, and free amounts above 2 %,
        and what late requests have not spent.

        `pressed`: a holder that found no room. All other leases then give back their whole free
        amount.
        """
        for holder, lease in list(self._leases.items()):
            idle = unix_s - lease.used_s >= IDLE_S and lease.holds == 0 and not lease.extending
            if idle or unix_s >= lease.ends_unix_s:
                self._end(holder)
        actions: list[Order] = list(self._late.due(unix_s))
        for lease in list(self._ending.values()):
            if lease.holds == 0 and not lease.extending:
                actions.append(self._close(lease))
        for holder, lease in self._leases.items():
            excess = _excess(lease, all_of_it=pressed is not None and holder != pressed)
            if excess > 0:
                lease.granted_nano_usd -= excess
                actions.append(GiveBack(lease=lease, nano_usd=excess))
        return tuple(actions)

    def close_all(self) -> tuple[Order, ...]:
        """Ends all leases because the process stops; returns those that hold no request."""
        for holder in list(self._leases):
            self._end(holder)
        ended = [
            lease for lease in self._ending.values() if lease.holds == 0 and not lease.extending
        ]
        return (*self._late.take(), *map(self._close, ended))

    def _lease(self, holder: Holder, unix_s: float) -> Lease:
        lease = self._leases.get(holder)
        if lease is not None and unix_s < lease.ends_unix_s:
            return lease
        if lease is not None:
            self._end(holder)
        limits = self.applied.accounts(holder, unix_s)
        if not limits:
            raise NoBudget
        if len(self._leases) + len(self._ending) >= MAX_LEASES:
            raise OverflowError(f"{MAX_LEASES} holders of budgets are active")
        most = max(1, MAX_LEASES // TENANT_DIVISOR)
        if self._of_tenant[holder.tenant] >= most:
            raise OverflowError(f"{most} holders of budgets of tenant {holder.tenant} are active")
        lease = Lease(
            lease_id=self.new_lease_id(),
            holder=holder,
            limits=limits,
            ends_unix_s=min(limit.ends_unix_s for limit in limits),
            used_s=unix_s,
        )
        self._leases[holder] = lease
        self._of_tenant[holder.tenant] += 1
        return lease

    def _end(self, holder: Holder) -> None:
        lease = self._leases.pop(holder)
        self._ending[lease.lease_id] = lease

    def _close(self, lease: Lease) -> Close:
        del self._ending[lease.lease_id]
        tenant = lease.holder.tenant
        self._of_tenant[tenant] -= 1
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant]
        return Close(lease=lease)


def _excess(lease: Lease, *, all_of_it: bool) -> int:
    """The free amount above 2 % of the amount that the accounts have left."""
    if lease.extending:
        return 0  # the pending answer of the store states the whole grant
    free = lease.free_nano_usd
    if all_of_it:
        return free
    if lease.left_nano_usd is None:
        return 0
    return free - (lease.left_nano_usd + free) // MOST_FREE_DIVISOR
