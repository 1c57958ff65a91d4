"""How many replicas a pool should have, by money: replicas are paid by time, overflow by token.

The cost of n replicas over the last minutes is n times their price, plus what remotes would have
taken for the demand above n. Requests that no remote may take come first: n is never so low that
their work would not have fitted, because a refusal counts as infinitely dear. An unknown price is
no opinion: the count stays.

A count changes only if that saves more than a margin. More replicas follow from the newest minutes,
fewer only from a whole window, and never below what the newest minutes want.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_ROUNDING = 1e-9
"""Replicas by which work may exceed a whole count: an error of the sum."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandBucket:
    """Demand in one piece of time.

    Attributes:
        seconds: its length.
        bound_replicas: work that only self-hosted replicas may do, in replicas that it fills.
        movable_replicas: work that a remote may take, in the same unit, wherever it was done.
        movable_nano_usd: price of the movable work at remotes; None: unknown.
    """

    seconds: float
    bound_replicas: float
    movable_replicas: float
    movable_nano_usd: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaLimits:
    """Bounds and hysteresis.

    Attributes:
        least, most: replicas, both inclusive.
        margin: share of the present cost that a change must save.
        up_window_s: newest demand that may call for more replicas, seconds.
        down_window_s: demand that must be known before there are fewer, seconds.
    """

    least: int
    most: int
    margin: float = 0.05
    up_window_s: float = 180.0
    down_window_s: float = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedReplicas:
    """The count, and why."""

    replicas: int
    reason: str


def wanted_replicas(
    buckets: Sequence[DemandBucket],
    *,
    replicas: int,
    nano_usd_per_s: int | None,
    limits: ReplicaLimits,
    others: int = 0,
) -> WantedReplicas:
    """Returns how many replicas there should be.

    `buckets`: oldest first. `replicas`: how many there are, or are wanted so far. `nano_usd_per_s`:
    price of one; None: unknown. `others`: replicas of other pools that serve the same requests.
    """
    present = min(max(replicas, limits.least), limits.most)
    recent = _newest(buckets, limits.up_window_s)
    if not recent:
        return WantedReplicas(replicas=present, reason="no demand has been measured yet")
    floor = _bounded(_needed(recent, others), limits)
    if nano_usd_per_s is None or _unpriced(recent):
        unknown = "a remote" if nano_usd_per_s is not None else "a replica"
        return WantedReplicas(
            replicas=max(present, floor), reason=f"no opinion: the price of {unknown} is unknown"
        )
    now = _Costs(recent, nano_usd_per_s, others)
    best = now.cheapest(floor, limits.most)
    if best > present:
        if present < floor or now.saves(present, best, limits.margin):
            short = present < floor
            reason = (
                "requests that no remote may take need them" if short else "cheaper than remotes"
            )
            return WantedReplicas(replicas=best, reason=reason)
        return WantedReplicas(replicas=present, reason="more would save less than the margin")
    window = _newest(buckets, limits.down_window_s)
    if sum(bucket.seconds for bucket in window) < limits.down_window_s - _ROUNDING:
        return WantedReplicas(replicas=present, reason="the window for fewer is not over yet")
    if _unpriced(window):
        return WantedReplicas(
            replicas=present, reason="no opinion: the price of a remote is unknown"
        )
    then = _Costs(window, nano_usd_per_s, others)
    floor = max(floor, _bounded(_needed(window, others), limits))
    fewer = max(best, then.cheapest(floor, limits.most))
    if fewer < present and then.saves(present, fewer, limits.margin):
        return WantedReplicas(replicas=fewer, reason="remotes are cheaper")
    return WantedReplicas(replicas=present, reason="fewer would save less than the margin")


class _Costs:
    """Costs of counts over some buckets, nano-USD."""

    def __init__(self, buckets: Sequence[DemandBucket], nano_usd_per_s: int, others: int) -> None:
        self._buckets = buckets
        self._others = others
        self._one_more = nano_usd_per_s * sum(bucket.seconds for bucket in buckets)

    def of(self, replicas: int) -> float:
        """Replicas, and overflow beyond them."""
        return replicas * self._one_more + sum(
            _overflow(bucket, replicas + self._others) for bucket in self._buckets
        )

    def cheapest(self, least: int, most: int) -> int:
        """The cheapest count of least to most, both inclusive; of equal ones the smallest."""
        return min(range(least, most + 1), key=self.of)

    def saves(self, present: int, other: int, margin: float) -> bool:
        """Whether the other count saves more than this share of the present cost."""
        cost = self.of(present)
        return cost - self.of(other) > margin * cost


def _overflow(bucket: DemandBucket, replicas: int) -> float:
    """What remotes take for the movable work that these replicas do not do, nano-USD."""
    if bucket.movable_replicas <= 0 or bucket.movable_nano_usd is None:
        return 0.0
    room = max(0.0, replicas - bucket.bound_replicas)
    over = max(0.0, bucket.movable_replicas - room)
    return bucket.movable_nano_usd * over / bucket.movable_replicas


def _needed(buckets: Sequence[DemandBucket], others: int) -> int:
    most = max(bucket.bound_replicas for bucket in buckets)
    return math.ceil(most - others - _ROUNDING)


def _bounded(replicas: int, limits: ReplicaLimits) -> int:
    return min(max(replicas, limits.least), limits.most)


def _unpriced(buckets: Sequence[DemandBucket]) -> bool:
    return any(b.movable_replicas > 0 and b.movable_nano_usd is None for b in buckets)


def _newest(buckets: Sequence[DemandBucket], seconds: float) -> Sequence[DemandBucket]:
    """The fewest newest buckets that fill the time; all where they do not."""
    passed_s, first = 0.0, len(buckets)
    while first and passed_s < seconds - _ROUNDING:
        first -= 1
        passed_s += buckets[first].seconds
    return buckets[first:]
