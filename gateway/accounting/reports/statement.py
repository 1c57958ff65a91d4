"""The whole bill of a window, and whose it is. Pure.

    GPU bill + remote bills = what groups used (own servers, remotes) + idle + the rest

The GPU bill is time x price. What groups used comes from the rows of the ledger. The rest is the
time of pools that were unavailable, that others used, or that nobody observed, and what the meter
has booked to attempts without a row in the window: those that ran over its edges or were lost.

Idle and the rest can be allotted to the groups by a rule. Amounts stay whole nano-USD, and the sum
stays the bill.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gateway.accounting.rollups.pool_bills import PoolBill

IDLE_ROW = "__idle__"
REST_ROW = "__unallocated__"
"""Names of OpenCost for rows that belong to nobody."""


class SharingRule(enum.StrEnum):
    """Who bears idle and the rest."""

    NONE = "none"
    """Nobody: groups have what they used."""
    BY_USE = "use"
    """Groups in proportion to what they used of each pool; nobody, where nobody used it."""
    BY_WEIGHT = "weight"
    """Groups by given weights, of every pool."""
    OWN_ROW = "row"
    """Rows of their own, as OpenCost has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a group used of one pool, or of remotes (`pool` is empty), in nano-USD."""

    group: tuple[str, ...]
    pool: str
    own_nano_usd: int
    remote_nano_usd: int
    charged_nano_usd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What a group costs, in nano-USD. `shared_nano_usd`: its part of idle and the rest."""

    group: tuple[str, ...]
    own_nano_usd: int = 0
    remote_nano_usd: int = 0
    shared_nano_usd: int = 0
    charged_nano_usd: int = 0

    @property
    def cost_nano_usd(self) -> int:
        """All of it."""
        return self.own_nano_usd + self.remote_nano_usd + self.shared_nano_usd


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The bill of a window, in nano-USD. `lines` and what nobody bears sum to both bills."""

    gpu_bill_nano_usd: int
    remote_bill_nano_usd: int
    idle_nano_usd: int
    unavailable_nano_usd: int
    external_nano_usd: int
    unobserved_nano_usd: int
    unsettled_nano_usd: int
    wasted_nano_usd: int
    """Part of what groups used, and of `unsettled_nano_usd`, that brought nobody anything."""
    unpriced_ns: int
    """Time of GPUs without a known price: in no sum."""
    lines: tuple[Line, ...]

    @property
    def bill_nano_usd(self) -> int:
        """Both bills."""
        return self.gpu_bill_nano_usd + self.remote_bill_nano_usd

    @property
    def rest_nano_usd(self) -> int:
        """What is neither used by a group nor idle."""
        return (
            self.unavailable_nano_usd
            + self.external_nano_usd
            + self.unobserved_nano_usd
            + self.unsettled_nano_usd
        )

    @property
    def unshared_nano_usd(self) -> int:
        """The part of idle and the rest that no line has."""
        return self.bill_nano_usd - sum(line.cost_nano_usd for line in self.lines)


def statement(
    bills: Iterable[PoolBill],
    uses: Iterable[Use],
    rule: SharingRule = SharingRule.NONE,
    weights: Mapping[tuple[str, ...], int] | None = None,
) -> Statement:
    """Closes the books of a window. `weights`: of groups, for `BY_WEIGHT`."""
    pools = list(bills)
    used = list(uses)
    own_by_pool: dict[str, dict[tuple[str, ...], int]] = defaultdict(lambda: defaultdict(int))
    sums: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
    for use in used:
        own_by_pool[use.pool][use.group] += use.own_nano_usd
        line = sums[use.group]
        line[0] += use.own_nano_usd
        line[1] += use.remote_nano_usd
        line[2] += use.charged_nano_usd
    names = ("idle", "unavailable", "external", "unobserved", "waste")
    total = {name: sum(pool.amounts[f"{name}_nano_usd"] for pool in pools) for name in names}
    gpu_bill = sum(pool.bill_nano_usd for pool in pools)
    own = sum(use.own_nano_usd for use in used)
    kept = ("idle", "unavailable", "external", "unobserved")
    unsettled = gpu_bill - own - sum(total[name] for name in kept)
    shared: dict[tuple[str, ...], int] = defaultdict(int)
    if rule is SharingRule.BY_USE:
        for pool in pools:
            users = own_by_pool[pool.pool]
            rest = pool.bill_nano_usd - sum(users.values())
            for group, part in divided(rest, users).items():
                shared[group] += part
    elif rule is SharingRule.BY_WEIGHT:
        shared.update(divided(gpu_bill - own, weights or {}))
    lines = [
        Line(
            group=group,
            own_nano_usd=sums[group][0] if group in sums else 0,
            remote_nano_usd=sums[group][1] if group in sums else 0,
            charged_nano_usd=sums[group][2] if group in sums else 0,
            shared_nano_usd=shared.get(group, 0),
        )
        for group in sorted(sums.keys() | shared.keys())
    ]
    if rule is SharingRule.OWN_ROW:
        width = max((len(line.group) for line in lines), default=1)
        for name, amount in ((IDLE_ROW, total["idle"]), (REST_ROW, gpu_bill - own - total["idle"])):
            group = (name, *[""] * (width - 1))[:width] if width else (name,)
            lines.append(Line(group=group, shared_nano_usd=amount))
    return Statement(
        gpu_bill_nano_usd=gpu_bill,
        remote_bill_nano_usd=sum(use.remote_nano_usd for use in used),
        idle_nano_usd=total["idle"],
        unavailable_nano_usd=total["unavailable"],
        external_nano_usd=total["external"],
        unobserved_nano_usd=total["unobserved"],
        unsettled_nano_usd=unsettled,
        wasted_nano_usd=total["waste"],
        unpriced_ns=sum(pool.amounts["unpriced_ns"] for pool in pools),
        lines=tuple(lines),
    )


def divided(amount: int, weights: Mapping[tuple[str, ...], int]) -> dict[tuple[str, ...], int]:
    """An amount divided in proportion to weights, exactly: what rounding leaves goes one by one to
    the largest remainders. Empty where no weight is positive."""
    positive = {group: weight for group, weight in weights.items() if weight > 0}
    whole = sum(positive.values())
    if not whole:
        return {}
    parts = {group: amount * weight // whole for group, weight in positive.items()}
    left = amount - sum(parts.values())
    order: Sequence[tuple[str, ...]] = sorted(
        positive, key=lambda group: (-(amount * positive[group] % whole), group)
    )
    for group in order[:left]:
        parts[group] += 1
    return parts
