"""Runs the demo: fleet, load, live view, closing report.

The engines are scraped and the view is drawn while the load runs; a failure of either ends both.
Leaving the context of `Processes` ends every process, whatever happened.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.live import Live

from moegate.demo import fleet as fleets
from moegate.demo.checks import COMPLETE, RunResult, checks
from moegate.demo.client_results import ClientResults
from moegate.demo.cost_comparison import compare_costs
from moegate.demo.fleet import Fleet
from moegate.demo.load import DEADLINE_S, LoadGenerator
from moegate.demo.overflows import overflows
from moegate.demo.processes import Processes
from moegate.demo.queue_watch import QueueWatch
from moegate.demo.scrape import Scraper
from moegate.demo.summary import report
from moegate.demo.table import Snapshot, line, table
from simulation.workloads import Burst, PlannedRequest, Workload, plan

SCRAPE_INTERVAL_S = 0.5
"""Interval of scrapes and of updates of the view."""
LINE_S = 5.0
"""Interval of progress lines if there is no terminal."""
IDLE_S = 10.0
"""Time that the engines may take to become idle after the last request."""
TENANTS = 8
LENGTH_SCALE = 0.4
"""Factor on the lengths of the trace, because the replicas are slow and the demo is short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSettings:
    """Arguments of the command.

    `kill_after_s`: time at which the demo kills a replica; None: never. `console_listen`: address
    of the gateway's console. `metrics_listen`: address of its metrics page; None: no page.
    """

    duration_s: float
    rate_per_s: float
    seed: int
    kill_after_s: float | None
    console_listen: str = "127.0.0.1:0"
    metrics_listen: str | None = None


def workload(settings: DemoSettings) -> Workload:
    """A steady load, a burst that exceeds the fleet's capacity, and a steady load again."""
    burst = Burst(start_s=settings.duration_s * 0.35, end_s=settings.duration_s * 0.65, factor=3.0)
    return Workload(
        duration_s=settings.duration_s,
        rate_per_s=settings.rate_per_s,
        burst=burst,
        tenants=TENANTS,
        length_scale=LENGTH_SCALE,
    )


async def run_demo(settings: DemoSettings, console: Console) -> bool:
    """Runs the demo. True if every check holds. Raises ProcessFailed."""
    shape = workload(settings)
    planned = plan(shape, settings.seed)
    console.print(
        f"{fleets.REPLICAS} simulated replicas of {fleets.MODEL} and a simulated remote;"
        f" {len(planned)} requests in {settings.duration_s:g} s. Starting ...",
        highlight=False,
        soft_wrap=True,
    )
    with tempfile.TemporaryDirectory(prefix="moegate-demo-") as directory:
        async with Processes(Path(directory)) as processes, aiohttp.ClientSession() as session:
            fleet = await fleets.start(
                processes,
                Path(directory),
                TENANTS,
                console_listen=settings.console_listen,
                metrics_listen=settings.metrics_listen,
            )
            console.print(
                f"Look at it on http://{fleet.console_address}: sign in with {fleet.operator_key}",
                highlight=False,
                soft_wrap=True,
            )
            run = _Run(fleet, session, settings, shape)
            await run.load_with_view(planned, console)
            left_over = await run.until_idle()
            await processes.stop()
            result = run.result(planned, left_over, processes)
            found = checks(result)
            report(console, result, found)
            all_hold = all(check.holds for check in found)
            if not all_hold:
                for process in processes.all:
                    console.print(f"log of {process.name}:\n{process.tail()}", markup=False)
    return all_hold


class _Run:
    """One run of the load against the fleet."""

    def __init__(
        self, fleet: Fleet, session: aiohttp.ClientSession, settings: DemoSettings, shape: Workload
    ) -> None:
        self._fleet = fleet
        self._settings = settings
        self._shape = shape
        self._clock = asyncio.get_running_loop().time
        self._results = ClientResults()
        urls = {**fleet.replica_urls, **fleet.remote_urls}
        self._scraper = Scraper(urls, session, self._clock)
        self._tokens_before: dict[str, int] = {}
        self._start_s = self._end_s = self._clock()
        self._killed: str | None = None
        self._queue: QueueWatch | None = None

    async def load_with_view(self, planned: tuple[PlannedRequest, ...], console: Console) -> None:
        """Sends the load and draws the view. Returns when every request has ended."""
        await self._scraper.scrape()
        # Tokens of the gateway's probes at the start belong to no request.
        self._tokens_before = {
            name: engine.generated_tokens for name, engine in self._scraper.engines.items()
        }
        self._start_s = self._clock()
        async with fleets.channel(self._fleet.address) as channel:
            self._queue = QueueWatch(channel, self._fleet.operator_key)
            load = LoadGenerator(channel, fleets.MODEL, self._fleet.keys, self._results)
            async with (
                asyncio.timeout(self._shape.duration_s + 2 * DEADLINE_S),
                asyncio.TaskGroup() as group,
            ):
                beside = [
                    group.create_task(self._draw(console)),
                    group.create_task(self._kill_one()),
                    group.create_task(self._queue.run()),
                ]
                await load.run(planned)
                for task in beside:
                    task.cancel()
        self._end_s = self._clock()

    async def until_idle(self) -> int:
        """Waits until no engine has a request. Returns the number that is left after `IDLE_S`."""
        deadline_s = self._clock() + IDLE_S
        while True:
            await self._scraper.scrape()
            left = sum(e.running + e.waiting for e in self._scraper.engines.values())
            if left == 0 or self._clock() > deadline_s:
                return left
            await asyncio.sleep(SCRAPE_INTERVAL_S)

    def result(
        self, planned: tuple[PlannedRequest, ...], left_over: int, processes: Processes
    ) -> RunResult:
        """The result of the run."""
        return RunResult(
            planned=len(planned),
            clients=self._results,
            generated_tokens={
                name: engine.generated_tokens - self._tokens_before[name]
                for name, engine in self._scraper.engines.items()
            },
            left_over=left_over,
            killed=self._killed,
            exit_statuses={p.name: (p.exit_status, p.ended_cleanly) for p in processes.all},
            load_s=self._end_s - self._start_s,
            usd_per_hour=self._fleet.usd_per_hour,
            costs=compare_costs(
                complete=self._results.of(*COMPLETE),
                planned=planned,
                price=fleets.REMOTE_PRICE,
                replicas=fleets.REPLICAS,
                usd_per_replica_hour=self._fleet.usd_per_hour / fleets.REPLICAS,
                best_tokens_per_s=max(
                    self._scraper.engines[name].best_tokens_per_s
                    for name in self._fleet.replica_urls
                ),
                load_s=self._end_s - self._start_s,
            ),
            overflows=overflows(self._results.ended, self._start_s),
            most_batch=() if self._queue is None else self._queue.most_batch,
        )

    async def _draw(self, console: Console) -> None:
        """Draws until cancelled: a live table on a terminal, else a line every `LINE_S`."""
        if not console.is_terminal:
            next_line_s = self._clock() + LINE_S
            while True:
                await self._scrape()
                if self._clock() >= next_line_s:
                    next_line_s += LINE_S
                    console.print(line(self._snapshot()), highlight=False, soft_wrap=True)
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                await self._scrape()
                live.update(table(self._snapshot()), refresh=True)

    async def _scrape(self) -> None:
        await asyncio.sleep(SCRAPE_INTERVAL_S)
        # After the pause, so that the view has engines and clients at the same moment.
        await self._scraper.scrape()

    async def _kill_one(self) -> None:
        """Kills the second replica at `kill_after_s`."""
        if self._settings.kill_after_s is None:
            return
        await asyncio.sleep(self._settings.kill_after_s)
        self._killed = list(self._fleet.replica_urls)[1]
        self._fleet.engines[self._killed].kill()

    def _snapshot(self) -> Snapshot:
        engines = self._scraper.engines
        elapsed_s = self._clock() - self._start_s
        return Snapshot(
            elapsed_s=elapsed_s,
            duration_s=self._shape.duration_s,
            phase=self._phase(elapsed_s),
            replicas=[engines[name] for name in self._fleet.replica_urls],
            remotes=[engines[name] for name in self._fleet.remote_urls],
            clients=self._results,
            waiting=() if self._queue is None else self._queue.now,
            usd_per_hour=self._fleet.usd_per_hour,
            remote_usd_per_mtok=float(fleets.REMOTE_PRICE.output),
            now=self._clock(),
        )

    def _phase(self, elapsed_s: float) -> str:
        burst = self._shape.burst
        if elapsed_s > self._shape.duration_s:
            return "last answers"
        if burst is not None and burst.start_s <= elapsed_s < burst.end_s:
            return "burst"
        return "steady"
