"""Amounts of money as the command line shows them."""

from __future__ import annotations

from decimal import Decimal

from gateway.config.money import NANO_USD, usd_text


def usd(nano_usd: int) -> str:
    """Formats dollars to the cent; amounts below one dollar with all their decimals."""
    dollars = Decimal(nano_usd) / NANO_USD
    if nano_usd == 0 or abs(dollars) >= 1:
        return f"{dollars:,.2f}"
    return usd_text(nano_usd)


def exact_usd(nano_usd: int) -> str:
    """Formats dollars with all their decimals, two at least."""
    whole, _, rest = usd_text(nano_usd).partition(".")
    return f"{whole}.{rest:0<2}"
