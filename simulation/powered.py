"""How long an engine is powered when an idle one is released after a delay."""

from __future__ import annotations


class PoweredTime:
    """Sum of the times at work, each with the delay after it, overlaps counted once. Seconds."""

    __slots__ = ("_busy", "_off_s", "_on_s", "_release_s", "_total_s")

    def __init__(self, release_s: float) -> None:
        self._release_s = release_s
        self._total_s = 0.0
        self._on_s = 0.0
        self._off_s = 0.0
        self._busy = False

    def begin(self, now: float) -> None:
        """Records that work begins; has no effect while other work runs."""
        if self._busy:
            return
        self._busy = True
        if now > self._off_s:
            self._total_s += self._off_s - self._on_s
            self._on_s = now

    def end(self, now: float) -> None:
        """Records that the last work has ended."""
        self._busy = False
        self._off_s = now + self._release_s

    def total_s(self, now: float) -> float:
        """Powered time up to `now`."""
        return self._total_s + (now if self._busy else min(now, self._off_s)) - self._on_s
