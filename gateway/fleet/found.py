"""What a look-up of a pool's servers found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address


class LookupFailed(Exception):
    """There was no answer, so that the addresses are unknown. The text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Addresses in order, without duplicates; empty: there is no server now. `ttl_s` None: unknown.
    `is_certain`: an empty answer means that there is none, not that nothing is known yet."""

    addresses: tuple[str, ...]
    ttl_s: float | None
    is_certain: bool = False


def in_order(addresses: Iterable[str]) -> tuple[str, ...]:
    """IP addresses in the order of their numbers, without duplicates."""
    return tuple(sorted(set(addresses), key=lambda address: int(ip_address(address))))


def url_of(address: str, port: int) -> str:
    """Address of the API of a replica."""
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port}"
