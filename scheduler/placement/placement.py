"""Chooses the placement of a request among the self-hosted ones of its model.

A placement is taken only if it keeps the promise of the request and, up to a tolerated number of
expected violations, those of the streams that run (`quoting.py`). Among these the pool's objective
decides (`objectives.py`).
"""

from __future__ import annotations

import numpy as np

from scheduler.output_length import Floats
from scheduler.placement.quotes import Block, PlacementQuery, Quote
from scheduler.placement.quoting import quote_with_limits, recheck_interference
from scheduler.placement.self_hosted import CURVE_AGE_S, SelfHostedFleet
from scheduler.policy import Policy

MOST_REFRESHES = 2
"""Interference curves that one choice refreshes at most: bounds its time, whatever the number of
placements."""
# numpy takes arrays without dimensions faster than numbers and enum members.
_FREE = np.array(Block.FREE, dtype=np.int8)
_INTERFERENCE = np.array(Block.INTERFERENCE, dtype=np.int8)
_NEVER = np.array(np.inf)


def choose(
    fleet: SelfHostedFleet, query: PlacementQuery, policy: Policy, now: float, rotation: int
) -> tuple[int | None, Quote]:
    """The index of the placement to take, or None if none can take the request now; with the quote.

    `rotation`: a number that grows with each call, for ties that take turns.
    Interference curves age. The best placement is taken only on a fresh curve. Where no placement
    is free, the oldest curves of those that only interference blocks are refreshed, so that a
    recovery is noticed.
    """
    quote, limits = quote_with_limits(fleet, query, policy, now)
    oldest_s = now - CURVE_AGE_S
    best = _best(fleet, quote, rotation)
    for refreshes in range(MOST_REFRESHES + 1):
        if best is not None:
            if fleet.curve_at_s[best] >= oldest_s:
                return best, quote
            index = best
        else:
            interfering = (quote.blocked == _INTERFERENCE).nonzero()[0]
            if not len(interfering):
                break
            index = int(interfering[fleet.curve_at_s[interfering].argmin()])
            if fleet.curve_at_s[index] >= oldest_s:
                break
        if refreshes < MOST_REFRESHES:
            fleet.refresh_curve(index, now)
            is_free = recheck_interference(fleet, limits, index)
            if fleet.grouped or (best is not None and not is_free):
                best = _best(fleet, quote, rotation)
            elif is_free:
                best = index  # the best still, or the only one
    return None, quote


def _best(fleet: SelfHostedFleet, quote: Quote, rotation: int) -> int | None:
    """The free placement with the least score, ties broken by the objective; None: none is free."""
    score, objective = quote.score, fleet.objective
    if not len(score):
        return None
    if quote.blocked is not fleet.all_free:
        score = score.copy()
        np.putmask(score, quote.blocked != _FREE, _NEVER)
    best = int(score.argmin())
    least = score.item(best)
    if least == np.inf:
        return None
    near = score <= np.array(least * objective.tie_ratio)
    if np.count_nonzero(near) > 1:
        ties = objective.prefer(fleet, score, near.nonzero()[0])
        best = int(ties[rotation % len(ties)]) if objective.rotates else int(ties[0])
    return _rank(fleet, quote, score, best, rotation) if fleet.grouped else best


def _rank(fleet: SelfHostedFleet, quote: Quote, score: Floats, index: int, rotation: int) -> int:
    """The rank of the placement's group to take: of those that give the first token as soon as it,
    within half a step, the one with the fewest sequences, then the least KV. Ranks step together,
    so they cost the same; a smaller difference is that of a step in which another prompt shares the
    experts, and would send one prompt after the other to the same rank."""
    members = np.array(fleet.groups[index].members)
    latest_s = quote.ttft_s.item(index) + fleet.half_step_s.item(index)
    alike = members[(score[members] < np.inf) & (quote.ttft_s[members] <= latest_s)]
    load = fleet.sequences[alike] * 1e9 + fleet.kv_tokens[alike]
    kept = alike[load <= load.min()]
    return int(kept[rotation % len(kept)]) if fleet.objective.rotates else int(kept[0])
