"""What pools cost by the hour: exact differences of the meter's sums, in whole nano-USD.

Each group's sums are cut at the end of every hour. A pool's sums are rounded down, and an hour gets
the difference of two such sums, so that hours add up to any longer time without a rounding error.
Idle takes what rounding leaves: the accounts of each hour sum to its bill.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from scheduler.metering.totals import FIELDS, HOUR_NS, UNIT, Totals

Amounts = Mapping[str, int]
"""By name of `AMOUNTS`."""
_COUNTS = (
    *("charged_nano_usd", "paid_ns", "busy_ns", "unpriced_ns", "uncached_tokens"),
    *("cached_tokens", "output_tokens", "ended", "slo_known", "slo_met"),
)
REQUEST_PARTS = ("prefill_nano_usd", "cached_nano_usd", "decode_nano_usd")
"""Of the account of requests: uncached input, cached input, output."""
_OTHERS = ("waste", "unavailable", "external", "unobserved")
AMOUNTS = (
    *REQUEST_PARTS,
    *("waste_nano_usd", "idle_nano_usd", "unavailable_nano_usd", "external_nano_usd"),
    *("unobserved_nano_usd", *_COUNTS),
)
BILLED = AMOUNTS[: AMOUNTS.index("unobserved_nano_usd") + 1]
"""Amounts that sum to the bill."""


def whole_amounts(totals: Totals) -> dict[str, int]:
    """Sums in whole nano-USD, and counts as they are."""
    found = {
        "prefill_nano_usd": (totals.prefill - totals.cached) // UNIT,
        "cached_nano_usd": totals.cached // UNIT,
        "decode_nano_usd": totals.decode // UNIT,
        **{f"{name}_nano_usd": getattr(totals, name) // UNIT for name in _OTHERS},
    }
    found["idle_nano_usd"] = totals.accrued // UNIT - sum(found.values())
    return {name: found[name] if name in found else getattr(totals, name) for name in AMOUNTS}


def difference(now: Totals, before: Totals) -> dict[str, int]:
    """What was added in whole amounts between two sums."""
    earlier = whole_amounts(before)
    return {name: value - earlier[name] for name, value in whole_amounts(now).items()}


class HourCuts:
    """Sums of one group at the ends of hours."""

    __slots__ = ("_booked", "_ended", "next_ns")

    def __init__(self, opened_ns: int, totals: Totals) -> None:
        self.next_ns = (opened_ns // HOUR_NS + 1) * HOUR_NS
        self._ended: list[tuple[int, Totals]] = []
        self._booked = totals.copy()

    def cut(self, totals: Totals) -> None:
        """Ends the hour."""
        self._ended.append((self.next_ns // HOUR_NS - 1, totals.copy()))
        self.next_ns += HOUR_NS

    def take(self, totals: Totals) -> Iterator[tuple[int, Totals]]:
        """What each hour has added since the last call, the present one included; hours count
        since 1970."""
        for hour, sums in [*self._ended, (self.next_ns // HOUR_NS - 1, totals.copy())]:
            yield hour, sums.minus(self._booked)
            self._booked = sums
        self._ended.clear()


@dataclass(slots=True)
class PoolHours:
    """What the groups of a pool have added, by hour."""

    sums: Totals = field(default_factory=Totals)
    """Everything that was taken, exact."""
    _added: dict[int, Totals] = field(default_factory=dict)

    def add(self, hours: Iterator[tuple[int, Totals]]) -> None:
        """Adds what a group's hours have added."""
        for hour, added in hours:
            self._added[hour] = plus(self._added.get(hour, Totals()), added)

    def take(self) -> Iterator[tuple[int, dict[str, int]]]:
        """Whole amounts by hour since the last call."""
        for hour in sorted(self._added):
            before, self.sums = self.sums, plus(self.sums, self._added.pop(hour))
            amounts = difference(self.sums, before)
            if any(amounts.values()):
                yield hour, amounts


def plus(first: Totals, second: Totals) -> Totals:
    """The sum of both."""
    return Totals(**{name: getattr(first, name) + getattr(second, name) for name in FIELDS})
