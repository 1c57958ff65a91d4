"""How many arrivals a model's self-hosted servers do not take in time, as a decayed share.

An arrival is taken in time if it starts on a self-hosted placement before its promised time to
first token is over. It is turned away if it starts later, goes to a remote because own servers are
saturated, or is refused. What no self-hosted placement may serve is no arrival there. The batch
class is expected to wait, and counts only as overflow.
"""

from __future__ import annotations

import math

MEMORY_S = 60.0
"""Time constant of the share, and how long the last overflow counts as active."""
LEAST_ARRIVALS = 0.5
"""Below this decayed number of arrivals the share is 0: nobody came."""


class TurnedAway:
    """The arrivals of one model."""

    def __init__(self) -> None:
        self._arrived = 0.0
        self._turned_away = 0.0
        self._at_s = 0.0
        self._overflowed_s = -math.inf

    def record(self, now: float, *, in_time: bool) -> None:
        """Counts an arrival, when it starts or is refused for the first time."""
        self._decay(now)
        self._arrived += 1.0
        self._turned_away += not in_time

    def record_overflow(self, now: float) -> None:
        """Records that a request went to a remote because own servers are saturated."""
        self._overflowed_s = now

    def share(self, now: float) -> float:
        """Share of the arrivals of the last minute that were turned away; 0: nobody came."""
        self._decay(now)
        return self._turned_away / self._arrived if self._arrived >= LEAST_ARRIVALS else 0.0

    def overflows(self, now: float) -> bool:
        """Whether a request has overflowed in the last minute."""
        return now - self._overflowed_s < MEMORY_S

    def _decay(self, now: float) -> None:
        keep = math.exp(-max(0.0, now - self._at_s) / MEMORY_S)
        self._at_s = max(self._at_s, now)
        self._arrived *= keep
        self._turned_away *= keep
