"""What the demo reads from the engines' own /metrics: gauges, and rates from their counters."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import aiohttp

from gateway.upstream.vllm.metrics import BadMetrics, parse_metrics
from scheduler.contract import EngineReport

RATE_WINDOW_S = 3.0
TIMEOUT_S = 2.0


@dataclass(slots=True)
class Watched:
    """One engine: its last report, and the counters of the last seconds."""

    name: str
    url: str
    answers: bool = False
    report: EngineReport | None = None
    best_tokens_per_s: float = 0.0
    """The most that it made over a whole `RATE_WINDOW_S`."""
    _history: deque[tuple[float, int]] = field(default_factory=deque)

    def take(self, report: EngineReport) -> None:
        """Takes a report."""
        self.answers = True
        self.report = report
        self._history.append((report.at_s, report.generation_tokens_total))
        while self._history[0][0] < report.at_s - RATE_WINDOW_S:
            self._history.popleft()
        if report.at_s - self._history[0][0] > 0.8 * RATE_WINDOW_S:
            self.best_tokens_per_s = max(self.best_tokens_per_s, self.tokens_per_s)

    @property
    def running(self) -> int:
        """Requests in its batch; 0 when it does not answer."""
        return self.report.running if self.report and self.answers else 0

    @property
    def waiting(self) -> int:
        """Requests in its own queue; 0 when it does not answer."""
        return self.report.waiting if self.report and self.answers else 0

    @property
    def generated_tokens(self) -> int:
        """Output tokens since it started, as far as it was last seen."""
        return self.report.generation_tokens_total if self.report else 0

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second over the last `RATE_WINDOW_S`."""
        if not self.answers or len(self._history) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._history[0], self._history[-1]
        return (last - first) / (last_s - first_s)


class Scraper:
    """Reads the metrics of every engine, by name."""

    def __init__(
        self,
        urls: Mapping[str, str],
        session: aiohttp.ClientSession,
        clock: Callable[[], float],
    ) -> None:
        self._session = session
        self._clock = clock
        self.engines = {name: Watched(name, url) for name, url in urls.items()}

    async def look(self) -> None:
        """Looks at all at once; one that does not answer keeps its last report."""
        await asyncio.gather(*(self._look(engine) for engine in self.engines.values()))

    async def _look(self, engine: Watched) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with self._session.get(f"{engine.url}/metrics", timeout=timeout) as response:
                text = await response.read()
            engine.take(parse_metrics(text, engine.name, self._clock(), None))
        except (aiohttp.ClientError, TimeoutError, BadMetrics):
            engine.answers = False
