"""Bounds how often an address may fail to sign in."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable

from gateway.doors.console.problems import Problem

BURST = 10
"""Failures of one address in a row."""
RETURN_S = 6.0
"""Time after which one of them is forgotten."""
MOST_ADDRESSES = 4096
"""Addresses that are remembered. The one that failed longest ago is forgotten first."""
_NETWORK_BITS = 64
"""Of an IPv6 address: everybody has as many addresses of one network as they like."""


class FailedSignIns:
    """Failures by address, in memory. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._clear_at: OrderedDict[str, float] = OrderedDict()
        """When all failures of an address are forgotten."""

    def check(self, remote: str | None) -> None:
        """Raises Problem if an address has failed too often."""
        after_s = self._clear_at.get(_network(remote), 0.0) - self._clock()
        wait_s = after_s - (BURST - 1) * RETURN_S
        if wait_s > 0:
            text = f"Too many tries from your address failed. Wait {wait_s:.0f} s, then try again."
            raise Problem(429, "Too many tries", text)

    def add(self, remote: str | None) -> None:
        """A try of an address has failed."""
        address = _network(remote)
        now = self._clock()
        self._clear_at[address] = max(self._clear_at.get(address, now), now) + RETURN_S
        self._clear_at.move_to_end(address)
        while len(self._clear_at) > MOST_ADDRESSES:
            self._clear_at.popitem(last=False)


def _network(remote: str | None) -> str:
    try:
        address = ipaddress.ip_address(remote or "")
    except ValueError:
        return remote or ""
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), _NETWORK_BITS), strict=False))
