"""Demand for one model over the last hour, in replicas that it fills.

Work is counted in seconds of a full group, as the queue counts it. What a replica really does of it
in a second, with the SLO kept, is learnt from the buckets in which much went to remotes although
replicas served: they were full then. Memory: at most `MOST_BUCKETS` small buckets.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from scheduler.overflow.replica_count import DemandBucket

BUCKET_S = 30.0
MOST_BUCKETS = 240
"""Buckets that are kept: two hours."""
USABLE_SHARE = 0.9
"""Seconds of work that a replica does in a second, before it was ever full: the queue's prior of
one, less what the SLO leaves unused."""
FULL_SHARE = 0.1
"""Share of the movable work that went to remotes from which on the replicas count as full."""
LEARN_WEIGHT = 0.2
"""Weight of a full bucket in the running mean."""
LEAST_USABLE, MOST_USABLE = 0.1, 4.0
"""Bounds of what is learnt: predictions are not wrong by more."""


@dataclass(slots=True, kw_only=True)
class _Bucket:
    number: int
    bound_s: float = 0.0
    movable_s: float = 0.0
    overflow_s: float = 0.0
    movable_nano_usd: int | None = 0
    groups: int | None = None
    """Fewest groups seen in service; None: never looked."""
    steady: bool = True
    """The same number of groups was seen each time."""
    late: bool = False


class DemandWindow:
    """Work of one model by time. All times are seconds of one clock."""

    def __init__(self, began_s: float) -> None:
        self._first = int(began_s // BUCKET_S) + 1
        self._buckets: deque[_Bucket] = deque(maxlen=MOST_BUCKETS)
        self._learnt_up_to = self._first
        self.usable_per_s = USABLE_SHARE
        """Seconds of work that one replica does in a second."""

    def add_self_hosted(self, at_s: float, work_s: float, remote_nano_usd: int | None) -> None:
        """Counts work that a replica did. `remote_nano_usd`: its price at the cheapest remote that
        may take it; None: none may, or its price is unknown, so that it is bound to replicas."""
        bucket = self._at(at_s)
        if remote_nano_usd is None:
            bucket.bound_s += work_s
        else:
            bucket.movable_s += work_s
            if bucket.movable_nano_usd is not None:
                bucket.movable_nano_usd += remote_nano_usd

    def add_overflow(self, at_s: float, work_s: float, nano_usd: int | None) -> None:
        """Counts work that a remote did. `nano_usd`: what it took; None: unknown."""
        bucket = self._at(at_s)
        bucket.movable_s += work_s
        bucket.overflow_s += work_s
        if nano_usd is None or bucket.movable_nano_usd is None:
            bucket.movable_nano_usd = None
        else:
            bucket.movable_nano_usd += nano_usd

    def observe(self, at_s: float, groups: int, *, late: bool) -> None:
        """Records how many groups serve. `late`: requests wait that will miss their time to first
        token, so that no remote takes them either."""
        bucket = self._at(at_s)
        bucket.steady = bucket.steady and bucket.groups in (None, groups)
        bucket.groups = groups if bucket.groups is None else min(groups, bucket.groups)
        bucket.late = bucket.late or late

    def buckets(self, now_s: float) -> tuple[DemandBucket, ...]:
        """The whole buckets up to now, oldest first; empty ones count as no demand."""
        current = int(now_s // BUCKET_S)
        self._learn(current)
        known = {bucket.number: bucket for bucket in self._buckets}
        numbers = range(max(self._first, current - MOST_BUCKETS + 1), current)
        return tuple(self._shown(known.get(number)) for number in numbers)

    def _shown(self, bucket: _Bucket | None) -> DemandBucket:
        if bucket is None:
            return DemandBucket(
                seconds=BUCKET_S, bound_replicas=0.0, movable_replicas=0.0, movable_nano_usd=0
            )
        capacity_s = self.usable_per_s * BUCKET_S
        bound = bucket.bound_s / capacity_s
        if bucket.late:
            bound = max(bound, (bucket.groups or 0) + 1.0)
        return DemandBucket(
            seconds=BUCKET_S,
            bound_replicas=bound,
            movable_replicas=bucket.movable_s / capacity_s,
            movable_nano_usd=bucket.movable_nano_usd,
        )

    def _at(self, at_s: float) -> _Bucket:
        """The bucket of this time. Attempts end in order, so it is the newest or a new one; what
        comes late is counted in the newest."""
        number = int(at_s // BUCKET_S)
        if not self._buckets or number > self._buckets[-1].number:
            self._buckets.append(_Bucket(number=number))
        return self._buckets[-1]

    def _learn(self, current: int) -> None:
        for bucket in self._buckets:
            if not self._learnt_up_to <= bucket.number < current:
                continue
            full = bucket.overflow_s > FULL_SHARE * bucket.movable_s
            if full and bucket.groups and bucket.steady:
                done_s = bucket.bound_s + bucket.movable_s - bucket.overflow_s
                seen = done_s / (bucket.groups * BUCKET_S)
                seen = min(max(seen, LEAST_USABLE), MOST_USABLE)
                self.usable_per_s += LEARN_WEIGHT * (seen - self.usable_per_s)
        self._learnt_up_to = max(self._learnt_up_to, current)
