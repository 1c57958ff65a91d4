"""The pace that batch-class requests keep free for requests of higher classes.

Batch work runs in what is free. If it filled a group up to its own promise (a second a token), a
request of a higher class would find no group that keeps its promise, and evictions would throw away
work that is half done. So a batch-class request starts only where the step with it takes at most a
share of the tightest promise that higher classes have had lately: the room above is theirs.
"""

from __future__ import annotations

import math

from scheduler.contract import Request, SloClass
from scheduler.policy import Policy

KEPT_S = 600.0
"""How long a promise counts after the last request that had it. Later, batch work has all."""


class UrgentPace:
    """The tightest promised time per token of higher classes."""

    def __init__(self) -> None:
        self._tpot_s = math.inf
        self._until_s = -math.inf

    def record(self, request: Request, now: float) -> None:
        """Records the promise of a new request. One that generates nothing has none."""
        if request.slo.slo_class is SloClass.BATCH or not request.max_output_tokens:
            return
        if request.slo.tpot_s <= self._tpot_s or now >= self._until_s:
            self._tpot_s = request.slo.tpot_s
            self._until_s = now + KEPT_S

    def most_step_s(self, request: Request, policy: Policy, now: float) -> float:
        """Longest step, in seconds per token, with which the request may start; infinite: its own
        promise alone bounds it."""
        if request.slo.slo_class is not SloClass.BATCH or now >= self._until_s:
            return math.inf
        return policy.batch_pace_share * self._tpot_s
