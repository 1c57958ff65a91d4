"""The opening of a new scheduler: it admits requests once the fronts of the one before are back.

A request that is admitted before would not be checked against what these fronts run: limits,
budgets and idempotency keys. The wait is short, because a front that died with the scheduler does
not come back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass

from gateway.link.wire.resume import Resumed

log = logging.getLogger(__name__)

LONGEST_S = 3.0
"""Longest time for the fronts to come back. It is reached only if one of them died at the time when
the scheduler did."""


@dataclass(frozen=True, slots=True)
class ExpectedFronts:
    """The fronts that are waited for: `count` of them, and those that are named. A count alone
    cannot tell a front that has just started from one that knows what runs."""

    count: int = 0
    names: frozenset[str] = frozenset()

    def are_in(self, told: Collection[str]) -> bool:
        """Whether all of them have told what they have."""
        return len(told) >= self.count and self.names <= set(told)


class Opening:
    """The opening of one scheduler."""

    def __init__(
        self,
        expected: ExpectedFronts,
        on_open: Callable[[Resumed | None, bool], Awaitable[None]],
        longest_s: float = LONGEST_S,
        missed: str | None = None,
    ) -> None:
        """`on_open`: awaited before requests are admitted, with what the front told that has seen
        the newest view of the fleet (None: there is none), and whether all fronts are back.
        `missed`: the one front of before that is not waited for; "": there is none; None: there may
        be more."""
        self._expected = expected
        self._longest_s = longest_s
        self._until_s: float | None = None
        self._on_open = on_open
        self._told: dict[str, Resumed] = {}
        self._opening: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()
        self._unheard = None if missed is None else {*expected.names, missed} - {""}
        self.all_known = asyncio.Event()
        """Set when all fronts of before are accounted for, also after the opening."""

    @property
    def is_over(self) -> bool:
        """Whether requests are admitted."""
        return self._opened.is_set()

    async def joined(self, incarnation: str, told: Resumed) -> None:
        """A front is back. Returns when requests are admitted."""
        self.account_for(incarnation)
        if self._opening is None:
            self._told[incarnation] = told
            if self._expected.are_in(self._told):
                self._open(complete=True)
        await self.over()

    def account_for(self, incarnation: str) -> None:
        """What a front ran is known: it has told it, or it has ended and a copy has told it."""
        if self._unheard is not None:
            self._unheard.discard(incarnation)
            if not self._unheard:
                self.all_known.set()

    async def over(self) -> None:
        """Returns when requests are admitted."""
        await self._opened.wait()

    def tick(self, now: float) -> None:
        """Opens when the time since the first call is over. `now`: monotonic seconds."""
        if self._until_s is None:
            self._until_s = now + self._longest_s
        elif self._opening is None and now >= self._until_s:
            self._open(complete=False)

    def _open(self, *, complete: bool) -> None:
        newest = max(self._told.values(), key=lambda told: told.fleet_version, default=None)
        self._opening = asyncio.create_task(self._prepare(newest, complete))

    async def _prepare(self, newest: Resumed | None, complete: bool) -> None:
        try:
            await self._on_open(newest, complete)
        except Exception:  # requests must be admitted nevertheless
            log.exception("what fronts told could not be applied")
        finally:
            self._opened.set()


class FrontListing:
    """The fronts that the next leader will wait for: those that the row of the lease names, as the
    present leader knows it.

    A leader admits a front once its name is there, so that nothing that the front runs or is told
    can be unknown to a leader that has waited for all names. A name leaves the row with the renewal
    after the front was lost."""

    def __init__(self, named: Iterable[str], on_missing: Callable[[], None]) -> None:
        """`named`: names that the row has at the start. `on_missing`: called when a name has to be
        written soon."""
        self._named = frozenset(named)
        self._on_missing = on_missing
        self._renewed = asyncio.Event()

    def __contains__(self, name: object) -> bool:
        return name in self._named

    def writing(self, names: frozenset[str]) -> None:
        """These names are being written: the others may be gone from the row from now on."""
        self._named &= names

    def renewed(self, names: Iterable[str] | None) -> None:
        """The lease was renewed, with these names; None: the row keeps those that it had."""
        if names is not None:
            self._named = frozenset(names)
        self._renewed.set()
        self._renewed = asyncio.Event()

    async def until_named(self, name: str) -> None:
        """Returns when the row has the name."""
        while name not in self._named:
            self._on_missing()
            await self._renewed.wait()
