"""Formats of what pages show. Unknown is a dash that says so, never zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from markupsafe import Markup

MINUS = "\N{MINUS SIGN}"
UNKNOWN = Markup(
    '<span class="unknown" title="unknown">&ndash;<span class="said">unknown</span></span>'
)


def number(value: float | None, digits: int = 0) -> str | Markup:
    """A number with thousands apart."""
    return UNKNOWN if value is None else f"{value:,.{digits}f}".replace(",", "\u202f")


def short_number(value: float | None) -> str | Markup:
    """A number of at most four characters and k, M, G, T."""
    if value is None:
        return UNKNOWN
    scaled = float(value)
    for unit in ("", "k", "M", "G"):
        if abs(scaled) < 999.5:
            return f"{scaled:.3g}{unit}"
        scaled /= 1000
    return f"{scaled:.3g}T"


def counted(count: int, noun: str, nouns: str = "") -> str:
    """A count with its noun. `nouns`: of any count but one; empty: the noun with an s."""
    return f"{number(count)} {noun if count == 1 else nouns or f'{noun}s'}"


def percent(share: float | None, digits: int = 0) -> str | Markup:
    """A share of 1 in per cent."""
    return UNKNOWN if share is None else f"{share * 100:.{digits}f}\u202f%"


def usd(nano_usd: int | None, digits: int = 2) -> str | Markup:
    """An amount of nano-USD in dollars; below a cent with three digits, and the exact amount as its
    title."""
    if nano_usd is None:
        return UNKNOWN
    sign, amount = (MINUS if nano_usd < 0 else ""), Decimal(abs(nano_usd)) / 10**9
    if not amount or amount >= Decimal("0.01"):
        return f"{sign}${amount:,.{digits}f}"
    shown = f"{amount:.{2 - amount.adjusted()}f}"
    return Markup('<span title="{}${:.9f}">{}${}</span>').format(sign, amount, sign, shown)


def seconds(value: float | Duration | None) -> str | Markup:
    """A span of time in the unit that suits it."""
    if value is None:
        return UNKNOWN
    span_s = value.ToNanoseconds() / 1e9 if isinstance(value, Duration) else float(value)
    if span_s == 0:
        return "0 s"
    if abs(span_s) < 0.9995:
        return f"{span_s * 1e3:.3g} ms"
    if abs(span_s) < 99.5:
        return f"{span_s:.3g} s"
    if abs(span_s) < 5_970:
        return f"{span_s / 60:.0f} min"
    return f"{span_s / 3600:.1f} h"


def moment(value: Timestamp | None) -> str | Markup:
    """A time in UTC, to the second."""
    if value is None or (not value.seconds and not value.nanos):
        return UNKNOWN
    text = value.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}Z">{}</time>').format(text.replace(" ", "T"), text)


def clock_time(value: Timestamp) -> Markup:
    """A time in UTC, with its day below."""
    at = value.ToDatetime()
    return Markup('<time datetime="{}Z">{}<br><span class="quiet">{}</span></time>').format(
        at.strftime("%Y-%m-%dT%H:%M:%S"), at.strftime("%H:%M:%S"), at.strftime("%Y-%m-%d")
    )


def known(message: Any, field: str) -> Any:
    """A field of a message that may be absent; None: it is."""
    return getattr(message, field) if message.HasField(field) else None


FILTERS: Mapping[str, Callable[..., object]] = {
    "number": number,
    "short_number": short_number,
    "counted": counted,
    "percent": percent,
    "usd": usd,
    "seconds": seconds,
    "moment": moment,
    "clock_time": clock_time,
    "known": known,
}
GLOBALS: Mapping[str, object] = {"UNKNOWN": UNKNOWN}
