"""Requests that tell after a takeover what they held, when it counts as spent already.

When a takeover ends before all requests of the earlier process are known, the unaccounted part of
each adopted lease is booked as spent. A request that is told later accounts for its part: each
charge is taken out of the booked amount by the store, and what it has not spent returns when it
ends, and not before. A request counts once, and one that was known when the takeover ended has no
part in the booked amount.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.budgets.lease_orders import Unspent

LATE_S = 1200.0
"""Longest time from the end of a takeover to a late request whose unspent part returns: twice the
time after which a front that does not come back is booked from a copy."""


@dataclass(slots=True)
class LateHolds:
    """The unaccounted parts of adopted leases, in nano-USD."""

    _unaccounted: dict[str, int] = field(default_factory=dict)
    """By lease id; less what late requests have told."""
    _told: set[str] | None = None
    """Requests that were told since the takeover began; None: there was none, or it is long ago."""
    _until_s: float | None = None
    _unspent: list[Unspent] = field(default_factory=list)

    def begin(self) -> None:
        """A takeover begins."""
        if self._told is None:
            self._told = set()

    def add_unaccounted(self, lease_id: str, nano_usd: int) -> None:
        """The takeover has ended, and this part of a lease is booked as spent."""
        self._unaccounted[lease_id] = nano_usd

    def end_takeover(self) -> None:
        """The takeover has ended: where nothing is booked, no request can have a part in it."""
        if not self._unaccounted:
            self._told = None

    def tell(self, request_id: str, lease_id: str, nano_usd: int) -> bool:
        """A request tells what it holds. Returns whether that is a part of what is booked."""
        if self._told is None or request_id in self._told:
            return False
        self._told.add(request_id)
        left = self._unaccounted.get(lease_id, -1) - nano_usd
        if left < 0:
            return False
        self._unaccounted[lease_id] = left
        return True

    def end(self, request_id: str, lease_id: str, unspent_nano_usd: int) -> None:
        """A late request has ended."""
        if unspent_nano_usd > 0:
            self._unspent.append(
                Unspent(lease_id=lease_id, request_id=request_id, nano_usd=unspent_nano_usd)
            )

    def take_unaccounted(self) -> dict[str, int]:
        """All requests are known: returns what none of them has told of, by lease id. It is no part
        of what is told later."""
        found = {lease_id: left for lease_id, left in self._unaccounted.items() if left > 0}
        self._unaccounted, self._told, self._until_s = {}, None, None
        return found

    def due(self, unix_s: float) -> tuple[Unspent, ...]:
        """What the store has to take back now. What is told after `LATE_S` stays spent."""
        if self._unaccounted and self._until_s is None:
            self._until_s = unix_s + LATE_S
        if self._until_s is not None and unix_s >= self._until_s:
            self._unaccounted, self._told, self._until_s = {}, None, None
        return self.take()

    def take(self) -> tuple[Unspent, ...]:
        """The same, when the process ends."""
        unspent, self._unspent = tuple(self._unspent), []
        return unspent
