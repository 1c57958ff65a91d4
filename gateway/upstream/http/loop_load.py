"""How busy the event loop is, and what that allows: larger pieces when there is much to do.

Each piece of a stream costs the gateway about as much whether it holds one token or ten. When the
loop has time, every token goes out as it comes; when it has not, streams are read less often, so
that one piece holds all that has come meanwhile. The first token of a stream is never held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

TARGET_SHARE = 0.2
"""Busy share of a core above which holding grows and below which it shrinks. A window that followed
the share itself would settle where it hardly helps: holding lowers the share that asks for it."""
GAIN = 3.0
"""Windows gained per second at a share of 1 above the target: from none to the longest within half
a second under full load, and back within two seconds when the load is gone."""
MOST_TOKENS_PER_CHUNK = 4
"""Tokens that an engine is asked to put into one chunk, at the longest window."""
SAMPLE_S = 0.1
"""Shortest time over which a share is taken."""
WEIGHT = 0.5
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
    """Keeps the window such that the gateway's busy share stays at the target.

    `clock`: seconds of wall time; `cpu`: seconds of CPU time of the process; `longest_s`: the
    longest window, 0 for none.
    """

    def __init__(
        self, clock: Callable[[], float], cpu: Callable[[], float], longest_s: float
    ) -> None:
        self._longest_s = longest_s
        self._clock = clock
        self._cpu = cpu
        self._at_s = clock()
        self._cpu_s = cpu()
        self.share = 0.0
        self._part = 0.0

    @property
    def window_s(self) -> float:
        """How long to let output gather before the next read."""
        return self._longest_s * self._part

    @property
    def tokens_per_chunk(self) -> int:
        """Tokens that an engine shall put into a chunk of a stream that starts now."""
        if not self._longest_s:
            return 1
        return 1 + round((MOST_TOKENS_PER_CHUNK - 1) * self._part)

    def share_now(self) -> float:
        """The busy share, sampled first: an idle gateway samples seldom."""
        self.sample()
        return self.share

    def sample(self) -> None:
        """Takes the share since the last sample, and moves the window; to be called often."""
        now_s = self._clock()
        passed_s = now_s - self._at_s
        if passed_s < SAMPLE_S:
            return
        cpu_s = self._cpu()
        share = min(1.0, max(0.0, (cpu_s - self._cpu_s) / passed_s))
        self._at_s, self._cpu_s = now_s, cpu_s
        self.share += WEIGHT * (share - self.share)
        # After a pause without samples the load was none: one long step would say too much.
        step = GAIN * (self.share - TARGET_SHARE) * min(passed_s, 1.0)
        self._part = min(1.0, max(0.0, self._part + step))


class Unhurried:
    """The pace of a loop that always has time: every token as it comes."""

    window_s = 0.0
    tokens_per_chunk = 1
