"""How busy the event loop is, and what that allows: larger pieces when there is much to do.

Each piece of a stream costs the gateway about as much whether it holds one token or ten. When the
loop has time, every token goes out as it comes; when it has not, streams are read less often, so
that one piece holds all that has come meanwhile. The first token of a stream is never held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

LONGEST_WINDOW_S = 0.05
"""Longest time that output is held, under full load."""
FREE_SHARE = 0.3
FULL_SHARE = 0.7
"""Busy shares of the loop at which holding begins, and at which it is longest."""
MOST_TOKENS_PER_CHUNK = 8
"""Tokens that an engine is asked to put into one chunk, under full load."""
SAMPLE_S = 0.1
"""Shortest time over which a share is taken; CPU clocks tick every 10 ms on some kernels."""
WEIGHT = 0.3
"""Weight of a new share in the running mean."""


class Pace(Protocol):
    """What a backend asks before it reads."""

    @property
    def window_s(self) -> float:
        """How long to let output gather before the next read."""

    @property
    def tokens_per_chunk(self) -> int:
        """Tokens that an engine shall put into a chunk of a stream that starts now."""


class LoopLoad:
    """The share of time that the loop's thread computes, as a running mean.

    `clock`: seconds of wall time; `cpu`: seconds of CPU time of the loop's thread.
    """

    def __init__(self, clock: Callable[[], float], cpu: Callable[[], float]) -> None:
        self._clock = clock
        self._cpu = cpu
        self._at_s = clock()
        self._cpu_s = cpu()
        self.share = 0.0

    def sample(self) -> None:
        """Takes the share since the last sample; to be called often, on the loop's thread."""
        now_s = self._clock()
        passed_s = now_s - self._at_s
        if passed_s < SAMPLE_S:
            return
        cpu_s = self._cpu()
        share = min(1.0, max(0.0, (cpu_s - self._cpu_s) / passed_s))
        self.share += WEIGHT * (share - self.share)
        self._at_s, self._cpu_s = now_s, cpu_s

    @property
    def _pressure(self) -> float:
        return min(1.0, max(0.0, (self.share - FREE_SHARE) / (FULL_SHARE - FREE_SHARE)))

    @property
    def window_s(self) -> float:
        """How long to let output gather before the next read, 0 to `LONGEST_WINDOW_S`."""
        return LONGEST_WINDOW_S * self._pressure

    @property
    def tokens_per_chunk(self) -> int:
        """Tokens that an engine shall put into a chunk of a stream that starts now."""
        return 1 + round((MOST_TOKENS_PER_CHUNK - 1) * self._pressure)


class Unhurried:
    """The pace of a loop that always has time: every token as it comes."""

    window_s = 0.0
    tokens_per_chunk = 1
