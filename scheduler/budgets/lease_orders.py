"""What the book of budgets has the store do. `budget_book.py` makes these orders."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.budgets.lease import Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Extend:
    """Order to the store: grant this amount to the lease. `free_nano_usd`: the amount that the
    lease has already for the same request."""

    lease: Lease
    need_nano_usd: int
    free_nano_usd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveBack:
    """Order to the store: take this amount back from the lease. The book has already subtracted
    it."""

    lease: Lease
    nano_usd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Order to the store: end the lease. The unused amount returns once its rows are written."""

    lease: Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class Unspent:
    """Order to the store: this part of a lease was booked as spent, and its request has ended
    without spending it. Once for each request."""

    lease_id: str
    request_id: str
    nano_usd: int
