"""What an answer cost, as HTTP doors tell it."""

from __future__ import annotations

from gateway.domain.outcomes import Finished

NANO = 1_000_000_000


def charged_nano_usd(finished: Finished) -> int | None:
    """The charge of an answer, earlier attempts that broke off included; None: unknown."""
    parts = [part.charged_nano_usd for part in (finished.settled, *finished.broken)]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


def usd_text(nano_usd: int) -> str:
    """Nano-USD as a decimal number of US dollars, exactly."""
    whole, rest = divmod(nano_usd, NANO)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")
