"""When requests went to the remote, and why: phases of overflow, from what clients were told."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from moegate.demo.tally import Ended, Outcome

APART_S = 6.0
"""Overflows further apart than this are two phases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A time in which requests overflowed, seconds from the start of the load."""

    from_s: float
    to_s: float
    requests: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overflows:
    """All of them. `reasons`: how many requests each took there, without their figures."""

    phases: tuple[Phase, ...]
    reasons: Counter[str]


def overflows(ended: Sequence[Ended], start_s: float) -> Overflows:
    """From the requests that a remote answered; a request counts when it was sent."""
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
    """The reason up to its figures."""
    return re.split("[:;,]", reason)[0].strip()
