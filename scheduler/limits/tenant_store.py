"""A bounded store that all tenants share, in which every tenant has a share.

A full store drops the oldest entry of the tenant that has most. A tenant with at most `most / n`
entries, of `n` tenants that have entries, therefore keeps all of them, whatever the others add.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class TenantStore(Generic[K, V]):
    """Entries of all tenants by key, oldest first. A key belongs to one tenant. Every operation
    takes constant time."""

    def __init__(self, most: int) -> None:
        """`most`: bound of the entries, at least 1."""
        self._most = most
        self._entries: OrderedDict[K, tuple[str, V]] = OrderedDict()
        self._by_tenant: dict[str, OrderedDict[K, None]] = {}
        self._by_count: dict[int, dict[str, None]] = {}
        """Tenants by their number of entries; empty groups are not kept."""
        self._largest = 0
        """The largest number of entries of a tenant."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def count(self, tenant: str) -> int:
        """Number of entries of a tenant."""
        return len(self._by_tenant.get(tenant, ()))

    def resize(self, most: int) -> None:
        """Changes the bound. Takes effect at the next `put`."""
        self._most = most

    def put(self, tenant: str, key: K, value: V) -> None:
        """Adds the newest entry. It replaces an entry with the same key. A full store drops other
        entries."""
        self.pop(key)
        self._entries[key] = (tenant, value)
        if (keys := self._by_tenant.get(tenant)) is None:
            keys = self._by_tenant[tenant] = OrderedDict()
        keys[key] = None
        self._recount(tenant, len(keys) - 1, len(keys))
        while len(self._entries) > self._most:
            # Of tenants with as many entries, the one that has had them longest.
            largest = next(iter(self._by_count[self._largest]))
            self.pop(next(iter(self._by_tenant[largest])))

    def get(self, key: K) -> V | None:
        """Returns the value of a key; None: there is no entry."""
        found = self._entries.get(key)
        return None if found is None else found[1]

    def pop(self, key: K) -> V | None:
        """Removes an entry and returns its value; None: there is none."""
        found = self._entries.pop(key, None)
        if found is None:
            return None
        tenant, value = found
        keys = self._by_tenant[tenant]
        del keys[key]
        self._recount(tenant, len(keys) + 1, len(keys))
        if not keys:
            del self._by_tenant[tenant]
        return value

    def items(self) -> Iterator[tuple[K, V]]:
        """All entries, oldest first."""
        return ((key, value) for key, (_, value) in self._entries.items())

    def oldest(self) -> tuple[K, V] | None:
        """Returns the oldest entry of all tenants; None: the store is empty."""
        for key, (_, value) in self._entries.items():
            return key, value
        return None

    def _recount(self, tenant: str, before: int, after: int) -> None:
        """Moves a tenant between the groups of tenants with as many entries."""
        by_count = self._by_count
        if after in by_count:
            by_count[after][tenant] = None
        elif after:
            by_count[after] = {tenant: None}
        if before:
            group = by_count[before]
            del group[tenant]
            if not group:
                del by_count[before]
        # The only tenant with most may have lost one entry.
        if after > self._largest or self._largest not in by_count:
            self._largest = after
