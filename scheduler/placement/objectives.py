"""What each pool objective minimises, and how it treats ties, idle groups and running streams.

One frozen `ObjectiveRule` per objective. A new objective is one more rule here, under its word of
`contract.Objective`; quotes and the choice of a placement read the rule's fields and never ask
which objective it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scheduler.contract import Objective
from scheduler.output_length import Floats
from scheduler.placement.quotes import QuoteBuffers
from scheduler.policy import Policy

Indices = npt.NDArray[np.intp]
EQUAL = 1.0 + 1e-9
"""Scores within this ratio differ by rounding alone."""
ALIKE = 1.25
"""Scores within this ratio may differ by chance: fits of identical groups are that noisy, and no
reason to power another group."""


class GroupArrays(Protocol):
    """The arrays of `SelfHostedFleet` that an objective reads, each of shape (placements,)."""

    batch: Floats
    idle_since_s: Floats
    serving: npt.NDArray[np.bool_]
    warm: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveRule:
    """How one objective compares the placements that keep every promise.

    Attributes:
        write_score: writes `QuoteBuffers.score`, the figure to minimise, from the other buffers;
            called while `next_step_s` still is the step time.
        tie_ratio: placements whose scores are within this ratio of the least one are ties.
        prefer: the ties to keep, given the groups, all scores and the indices of the ties.
        rotates: the remaining ties take turns; otherwise the first one is taken.
        violations_tolerated: SLO violations that one start may be expected to cause.
        holds_idle: an idle group is opened for a request only once it has waited a while, if
            another group runs.
        releases_idle: replicas that stay idle are reported as releasable.
    """

    write_score: Callable[[GroupArrays, QuoteBuffers], None]
    tie_ratio: float
    prefer: Callable[[GroupArrays, Floats, Indices], Indices]
    rotates: bool
    violations_tolerated: Callable[[GroupArrays, Policy], float]
    holds_idle: bool
    releases_idle: bool


def _marginal_cost(groups: GroupArrays, buffers: QuoteBuffers) -> None:
    """Marginal cost of the request, see `Quote.marginal_nano_usd`."""
    quote, score = buffers.quote, buffers.score
    np.multiply(quote.steps, buffers.step_added_s, score)
    score += buffers.stall_added_s
    score *= quote.nano_usd_per_s


def _added_latency(groups: GroupArrays, buffers: QuoteBuffers) -> None:
    """B (T(B + 1) - T(B)) + T(B + 1) + TTFT: time added to a step of all, and the request's own."""
    score = buffers.score
    np.multiply(groups.batch, buffers.step_added_s, score)
    score += buffers.next_step_s
    score += buffers.ttft_s


def _fullest(groups: GroupArrays, score: Floats, ties: Indices) -> Indices:
    """The fullest groups, of these the cheapest; of idle groups the last one to become idle, which
    may still be powered."""
    fill = groups.batch[ties]
    if not np.count_nonzero(fill):
        fill = groups.idle_since_s[ties]
    ties = ties[fill == fill.max()]
    costs = score[ties]
    cheapest: Indices = ties[costs <= costs.min() * EQUAL]
    return cheapest


def _all(groups: GroupArrays, score: Floats, ties: Indices) -> Indices:
    return ties


def _fewer_while_spare(groups: GroupArrays, policy: Policy) -> float:
    """Fewer violations while a group stands idle: packing should not cost more of the SLO than it
    must."""
    if np.count_nonzero(groups.serving > groups.warm):
        return policy.spare_violations
    return policy.max_violations


def _always_the_same(groups: GroupArrays, policy: Policy) -> float:
    return policy.max_violations


PACKED = ObjectiveRule(
    write_score=_marginal_cost,
    tie_ratio=ALIKE,
    prefer=_fullest,
    rotates=False,
    violations_tolerated=_fewer_while_spare,
    holds_idle=True,
    releases_idle=True,
)
SPREAD = ObjectiveRule(
    write_score=_added_latency,
    tie_ratio=EQUAL,
    prefer=_all,
    rotates=True,
    violations_tolerated=_always_the_same,
    holds_idle=False,
    releases_idle=False,
)
OBJECTIVE_RULES = {Objective.COST: PACKED, Objective.LATENCY: SPREAD}
