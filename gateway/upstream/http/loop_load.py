"""How busy the event loop is, and how long streams gather output because of it.

Each piece of a stream costs the gateway about as much whether it holds one token or ten. While the
loop has time, every token goes out as it comes. While it is busy, streams are read less often, so
that one piece holds several tokens. The first token of a stream is never held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

TARGET_SHARE = 0.2
"""Busy share of a core above which the window grows and below which it shrinks. A window in
proportion to the share would settle where it hardly helps, because it lowers that share."""
GAIN = 3.0
"""Windows gained per second at a share of 1 above the target: from none to the longest within half
a second under full load, and back within two seconds when the load is gone."""
MOST_TOKENS_PER_CHUNK = 4
"""Tokens that an engine is asked to put into one chunk, at the longest window."""
SAMPLE_S = 0.1
"""Shortest time over which a share is measured."""
WEIGHT = 0.5
"""Weight of a new share in the running mean."""


class Pace(Protocol):
    """How a client paces its reads."""

    @property
    def window_s(self) -> float:
        """Seconds for which output gathers before the next read."""

    @property
    def tokens_per_chunk(self) -> int:
        """Tokens that an engine is asked to put into one chunk of a stream that starts now."""


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
        """Seconds for which output gathers before the next read."""
        return self._longest_s * self._part

    @property
    def tokens_per_chunk(self) -> int:
        """Tokens that an engine is asked to put into one chunk of a stream that starts now."""
        if not self._longest_s:
            return 1
        return 1 + round((MOST_TOKENS_PER_CHUNK - 1) * self._part)

    def share_now(self) -> float:
        """The busy share after a sample: an idle gateway seldom takes one by itself."""
        self.sample()
        return self.share

    def sample(self) -> None:
        """Measures the share since the last sample and adapts the window; to be called often."""
        now_s = self._clock()
        passed_s = now_s - self._at_s
        if passed_s < SAMPLE_S:
            return
        cpu_s = self._cpu()
        share = min(1.0, max(0.0, (cpu_s - self._cpu_s) / passed_s))
        self._at_s, self._cpu_s = now_s, cpu_s
        self.share += WEIGHT * (share - self.share)
        # A pause without samples was a pause without load: one long step would be too large.
        step = GAIN * (self.share - TARGET_SHARE) * min(passed_s, 1.0)
        self._part = min(1.0, max(0.0, self._part + step))


class Unhurried:
    """The pace of a loop that always has time: every token goes out as it comes."""

    window_s = 0.0
    tokens_per_chunk = 1
