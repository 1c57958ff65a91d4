"""Output tokens per second of every placement, and how many requests went to remotes.

A self-hosted engine is measured by its own counter, which includes the load of other clients. A
remote reports nothing and is measured by the requests that ended there. Fed by the reports of
engines and by settled attempts; nothing is done per token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from scheduler.contract import EngineReport, PlacementKind
from scheduler.metering.settlement import SettledAttempt

WINDOW_S = 10.0
"""Window in which the requests of a remote count, and longest time between two reports of an engine
from which a rate is taken."""
WEIGHT = 0.5
"""Weight of a new rate in the running mean; reports come about once a second."""
STALE_S = 5.0
"""A rate whose newest report is older is unknown."""


@dataclass(slots=True)
class _Engine:
    report: EngineReport
    per_s: float | None = None


@dataclass(slots=True)
class _Remote:
    ended: deque[tuple[float, int]] = field(default_factory=deque)
    tokens: int = 0


class Throughput:
    """Throughput by placement. Times are Unix seconds for remotes, those of the scheduler for
    engines."""

    def __init__(self) -> None:
        self.overflowed_requests = 0
        self._engines: dict[str, _Engine] = {}
        self._remotes: dict[str, _Remote] = {}

    def record_reports(self, reports: Iterable[EngineReport]) -> None:
        """Adds the newest reports of the engines. A report that was added before changes
        nothing."""
        for report in reports:
            self._record(report)

    def settled(self, attempt: SettledAttempt) -> None:
        """Adds an attempt that has ended."""
        if attempt.kind is not PlacementKind.REMOTE:
            return
        self.overflowed_requests += 1
        tokens = 0 if attempt.usage is None else attempt.usage.completion_tokens
        remote = self._remotes.setdefault(attempt.placement, _Remote())
        remote.ended.append((attempt.ended_unix_s, tokens))
        remote.tokens += tokens
        self._expire(remote, attempt.ended_unix_s)

    def tokens_per_s(self, placement: str, *, now_s: float, now_unix_s: float) -> float | None:
        """Output tokens per second of one placement; None: unknown."""
        remote = self._remotes.get(placement)
        if remote is not None:
            self._expire(remote, now_unix_s)
            return remote.tokens / WINDOW_S
        engine = self._engines.get(placement)
        if engine is None or now_s - engine.report.at_s > STALE_S:
            return None
        return engine.per_s

    def _record(self, report: EngineReport) -> None:
        engine = self._engines.get(report.placement)
        passed_s = 0.0 if engine is None else report.at_s - engine.report.at_s
        if engine is not None and passed_s == 0:
            return
        now = report.generation_tokens_total
        before = None if engine is None else engine.report.generation_tokens_total
        gained = None if now is None or before is None else now - before
        if engine is None or gained is None or gained < 0 or passed_s > WINDOW_S:
            # A new engine, one that has restarted, without reports for long or without the counter.
            self._engines[report.placement] = _Engine(report)
            return
        rate = gained / passed_s
        last = engine.per_s
        engine.per_s = rate if last is None else last + WEIGHT * (rate - last)
        engine.report = report

    @staticmethod
    def _expire(remote: _Remote, now_unix_s: float) -> None:
        while remote.ended and remote.ended[0][0] <= now_unix_s - WINDOW_S:
            remote.tokens -= remote.ended.popleft()[1]
