"""Which fronts the next leader will wait for: those that the row of the lease names.

A leader admits a front once its name is in the row, so that nothing that the front runs or is told
can be unknown to a leader that has waited for all names. A name leaves the row with the renewal
after the front was lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable


class FrontListing:
    """The names in the row, as one leader knows them."""

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
