"""Amounts of money, as HTTP doors tell them."""

from __future__ import annotations

NANO = 1_000_000_000


def usd_text(nano_usd: int) -> str:
    """Nano-USD as a decimal number of US dollars, exactly."""
    whole, rest = divmod(nano_usd, NANO)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")
