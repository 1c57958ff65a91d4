"""Reads the /metrics of the engines: gauges, and rates from counters."""

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
class ScrapedEngine:
    """One engine: its last report, and its counters of the last seconds."""

    name: str
    url: str
    reachable: bool = False
    report: EngineReport | None = None
    best_tokens_per_s: float = 0.0
    """Best rate over a whole `RATE_WINDOW_S`."""
    _history: deque[tuple[float, int]] = field(default_factory=deque)

    def record(self, report: EngineReport) -> None:
        """Records a report."""
        self.reachable = True
        self.report = report
        self._history.append((report.at_s, self.generated_tokens))
        while self._history[0][0] < report.at_s - RATE_WINDOW_S:
            self._history.popleft()
        if report.at_s - self._history[0][0] > 0.8 * RATE_WINDOW_S:
            self.best_tokens_per_s = max(self.best_tokens_per_s, self.tokens_per_s)

    @property
    def running(self) -> int:
        """Requests in the batch; 0 if the engine is not reachable."""
        return (self.report.running or 0) if self.report and self.reachable else 0

    @property
    def waiting(self) -> int:
        """Requests in the engine's queue; 0 if the engine is not reachable."""
        return (self.report.waiting or 0) if self.report and self.reachable else 0

    @property
    def generated_tokens(self) -> int:
        """Output tokens since the start of the engine, as of the last report."""
        return (self.report.generation_tokens_total or 0) if self.report else 0

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second over the last `RATE_WINDOW_S`."""
        if not self.reachable or len(self._history) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._history[0], self._history[-1]
        return (last - first) / (last_s - first_s)


class Scraper:
    """Scrapes all engines. `engines`: keyed by name."""

    def __init__(
        self,
        urls: Mapping[str, str],
        session: aiohttp.ClientSession,
        clock: Callable[[], float],
    ) -> None:
        self._session = session
        self._clock = clock
        self.engines = {name: ScrapedEngine(name, url) for name, url in urls.items()}

    async def scrape(self) -> None:
        """Scrapes all engines concurrently. An engine that is not reachable keeps its last
        report."""
        await asyncio.gather(*(self._scrape(engine) for engine in self.engines.values()))

    async def _scrape(self, engine: ScrapedEngine) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with self._session.get(f"{engine.url}/metrics", timeout=timeout) as response:
                text = await response.read()
            engine.record(parse_metrics(text, engine.name, self._clock(), None))
        except (aiohttp.ClientError, TimeoutError, BadMetrics):
            engine.reachable = False
