"""Phases of overflow and their reasons, from the results of the clients."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from moegate.demo.client_results import Outcome, RequestResult

APART_S = 6.0
"""Longest time between two overflows of one phase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A period of overflow, in seconds from the start of the load."""

    from_s: float
    to_s: float
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overflows:
    """All phases. `reasons`: requests by the reason of their overflow, without its figures."""

    phases: tuple[Phase, ...]
    reasons: Counter[str]


def overflows(ended: Sequence[RequestResult], start_s: float) -> Overflows:
    """Finds the phases of the requests that a remote answered, by the time at which they were
    sent."""
    remote = [one for one in ended if one.outcome is Outcome.OK_REMOTE]
    times = sorted(one.sent_s - start_s for one in remote)
    phases: list[Phase] = []
    for at_s in times:
        if phases and at_s - phases[-1].to_s <= APART_S:
            last = phases.pop()
            phases.append(Phase(from_s=last.from_s, to_s=at_s, requests=last.requests + 1))
        else:
            phases.append(Phase(from_s=at_s, to_s=at_s, requests=1))
    reasons = Counter(short_reason(one.reason) for one in remote)
    return Overflows(phases=tuple(phases), reasons=reasons)


def short_reason(reason: str) -> str:
    """The reason without its figures, for display."""
    return re.split("[:;,]", reason)[0].strip()
