"""Amounts of money: integers of nano-USD, and decimal texts of US dollars."""

from __future__ import annotations

from decimal import Decimal

NANO_USD = 1_000_000_000
"""Of one US dollar."""


def nano_usd(usd: str) -> int:
    """A quoted amount in nano-USD; exact, it has at most nine decimals."""
    return int(Decimal(usd) * NANO_USD)


def usd_text(nano_usd: int) -> str:
    """Nano-USD as a decimal number of US dollars: exact, without zeros at its end."""
    sign, (whole, rest) = "-" if nano_usd < 0 else "", divmod(abs(nano_usd), NANO_USD)
    return f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".")
