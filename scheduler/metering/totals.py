"""Sums of the meter: exact integers, and their conversion to nano-USD.

Money accrues as (nano-USD per hour) x nanoseconds x weights of 2^-60, all integers, so that nothing
is rounded on the way: `UNIT` of these is one nano-USD. Amounts become whole nano-USD only when an
account is read or a request is settled, and the rounding remainder is booked to idle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

SCALE_BITS = 60
SCALE = 1 << SCALE_BITS
"""The denominator of weights."""
SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
UNIT = HOUR_NS << SCALE_BITS
"""Accrued amount that equals one nano-USD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSegment:
    """What a group costs from `start_ns` until the next segment; None: unknown."""

    start_ns: int
    nano_usd_per_hour: int | None


def bill_nano_usd(plan: Sequence[RateSegment], start_ns: int, end_ns: int) -> int:
    """The bill of a time, from paid time and dated prices alone, without the accounts.

    Time at an unknown price is in no bill; see `unpriced_ns`.
    """
    parts = _priced_parts(plan, start_ns, end_ns)
    return sum(rate * ns for rate, ns in parts if rate is not None) // HOUR_NS


def unpriced_ns(plan: Sequence[RateSegment], start_ns: int, end_ns: int) -> int:
    """Part of a time for which no price is known."""
    return sum(ns for rate, ns in _priced_parts(plan, start_ns, end_ns) if rate is None)


def _priced_parts(
    plan: Sequence[RateSegment], start_ns: int, end_ns: int
) -> Iterator[tuple[int | None, int]]:
    """Rate and length of every part of a time; before the first segment it is unknown."""
    edges = [RateSegment(start_ns=start_ns, nano_usd_per_hour=None), *plan]
    ends = [*(segment.start_ns for segment in plan), end_ns]
    for segment, until_ns in zip(edges, ends, strict=True):
        ns = min(until_ns, end_ns) - max(segment.start_ns, start_ns)
        if ns > 0:
            yield segment.nano_usd_per_hour, ns


@dataclass(slots=True, kw_only=True)
class Totals:
    """Everything that a group has accrued since it was opened. Amounts count in 1/UNIT nano-USD.

    Attributes:
        prefill, decode: of requests, by phase; waste is taken out again.
        cached: of `prefill`, attention to cached input.
        waste: attempts that failed or were evicted.
        idle, unavailable, external, unobserved: the other accounts.
        paid_ns, busy_ns: time, and of it the time in which something ran.
        prefill_busy_ns: of it, the time in which a prompt was computed.
        unpriced_ns: time without a known price; nothing accrues in it.
        uncached_tokens, cached_tokens, output_tokens: of requests.
        ended, slo_known, slo_met: requests that ended well; of how many it is known whether they
            kept their SLO; how many did.
        charged_nano_usd: what tenants were charged.
    """

    prefill: int = 0
    decode: int = 0
    cached: int = 0
    waste: int = 0
    idle: int = 0
    unavailable: int = 0
    external: int = 0
    unobserved: int = 0
    paid_ns: int = 0
    busy_ns: int = 0
    prefill_busy_ns: int = 0
    unpriced_ns: int = 0
    uncached_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    ended: int = 0
    slo_known: int = 0
    slo_met: int = 0
    charged_nano_usd: int = 0

    @property
    def requests(self) -> int:
        """Accrued by requests, those in flight included."""
        return self.prefill + self.decode

    @property
    def accrued(self) -> int:
        """All accounts."""
        return (
            self.prefill
            + self.decode
            + self.waste
            + self.idle
            + self.unavailable
            + self.external
            + self.unobserved
        )

    def copy(self) -> Totals:
        """A copy that later events do not change."""
        return replace(self)

    def minus(self, earlier: Totals) -> Totals:
        """The sums accrued since `earlier`."""
        return Totals(**{f: getattr(self, f) - getattr(earlier, f) for f in FIELDS})


FIELDS = tuple(field.name for field in fields(Totals))


def summed(totals: Iterable[Totals]) -> Totals:
    """The sum of several groups."""
    rows = list(totals)
    return Totals(**{f: sum(getattr(row, f) for row in rows) for f in FIELDS})


ACCOUNTS = ("requests", "waste", "idle", "unavailable", "external", "unobserved")


def accounts_nano_usd(totals: Totals) -> dict[str, int]:
    """The accounts in whole nano-USD; they sum to the bill, since idle takes the remainder."""
    rounded = {name: getattr(totals, name) // UNIT for name in ACCOUNTS if name != "idle"}
    bill = totals.accrued // UNIT
    return {name: rounded.get(name, bill - sum(rounded.values())) for name in ACCOUNTS}
