"""A lease: money that the store has set aside for one holder of budgets before it is spent."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.budgets.budget import Holder, Limit


@dataclass(slots=True, kw_only=True, eq=False)
class Lease:
    """Money of one holder. The book is its only writer."""

    lease_id: str
    holder: Holder
    limits: tuple[Limit, ...]
    ends_unix_s: int
    granted_nano_usd: int = 0
    settled_nano_usd: int = 0
    reserved_nano_usd: int = 0
    left_nano_usd: int | None = None
    holds: int = 0
    durable: bool = False
    """Whether the store knows the lease; nothing is spent from it before."""
    extending: bool = False
    used_s: float = 0.0
    adopted: bool = False
    """Whether an earlier process opened it."""

    @property
    def free_nano_usd(self) -> int:
        """The amount that requests may reserve without the store."""
        return self.granted_nano_usd - self.settled_nano_usd - self.reserved_nano_usd
