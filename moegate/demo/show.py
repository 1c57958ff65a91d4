"""The demo from start to end: fleet, load, live view, closing report.

show -> _load_with_view: the load runs while the engines are scraped and the view is drawn; a
failure of either ends both. Leaving `Processes` ends every process, whatever happened.
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
from moegate.demo.account import COMPLETE, Result, checks
from moegate.demo.bills import bills
from moegate.demo.fleet import Fleet
from moegate.demo.load import DEADLINE_S, LoadGenerator
from moegate.demo.overflows import overflows
from moegate.demo.processes import Processes
from moegate.demo.scrape import Scraper
from moegate.demo.summary import report
from moegate.demo.table import Snapshot, line, table
from moegate.demo.tally import Tally
from simulation.workloads import Burst, PlannedRequest, Workload, plan

LOOK_S = 0.5
"""Between two looks at the engines, and two pictures."""
LINE_S = 5.0
"""Between two lines where there is no terminal."""
IDLE_S = 10.0
"""How long the engines may take to become idle after the last request."""
TENANTS = 8
LENGTH_SCALE = 0.4
"""Of the trace's lengths: the replicas are that much slower, and a minute must show enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line says. `kill_after_s`: when a replica is killed, None: never;
    `metrics_listen`: where the gateway shows its metrics, None: nowhere."""

    duration_s: float
    rate_per_s: float
    seed: int
    kill_after_s: float | None
    metrics_listen: str | None = None


def workload(settings: Settings) -> Workload:
    """Steady, a burst of more than the fleet can carry, steady."""
    burst = Burst(start_s=settings.duration_s * 0.35, end_s=settings.duration_s * 0.65, factor=3.0)
    return Workload(
        duration_s=settings.duration_s,
        rate_per_s=settings.rate_per_s,
        burst=burst,
        tenants=TENANTS,
        length_scale=LENGTH_SCALE,
    )


async def show(settings: Settings, console: Console) -> bool:
    """Runs the demo; True when everything that must hold held. Raises ProcessFailed."""
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
            fleet = await fleets.start(processes, Path(directory), TENANTS, settings.metrics_listen)
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
    """One run of the load against a fleet that serves."""

    def __init__(
        self, fleet: Fleet, session: aiohttp.ClientSession, settings: Settings, shape: Workload
    ) -> None:
        self._fleet = fleet
        self._settings = settings
        self._shape = shape
        self._clock = asyncio.get_running_loop().time
        self._tally = Tally()
        urls = {**fleet.replica_urls, **fleet.remote_urls}
        self._scraper = Scraper(urls, session, self._clock)
        self._tokens_before: dict[str, int] = {}
        self._start_s = self._end_s = self._clock()
        self._killed: str | None = None

    async def load_with_view(self, planned: tuple[PlannedRequest, ...], console: Console) -> None:
        """Sends the load and draws; returns when every request has ended."""
        await self._scraper.look()
        # The gateway's one-token probes at the start belong to no request.
        self._tokens_before = {
            name: engine.generated_tokens for name, engine in self._scraper.engines.items()
        }
        self._start_s = self._clock()
        async with fleets.channel(self._fleet.address) as channel:
            load = LoadGenerator(channel, fleets.MODEL, self._fleet.keys, self._tally)
            async with (
                asyncio.timeout(self._shape.duration_s + 2 * DEADLINE_S),
                asyncio.TaskGroup() as group,
            ):
                beside = [
                    group.create_task(self._draw(console)),
                    group.create_task(self._kill_one()),
                ]
                await load.run(planned)
                for task in beside:
                    task.cancel()
        self._end_s = self._clock()

    async def until_idle(self) -> int:
        """Waits until no engine has a request; returns how many are left after `IDLE_S`."""
        deadline_s = self._clock() + IDLE_S
        while True:
            await self._scraper.look()
            left = sum(e.running + e.waiting for e in self._scraper.engines.values())
            if left == 0 or self._clock() > deadline_s:
                return left
            await asyncio.sleep(LOOK_S)

    def result(
        self, planned: tuple[PlannedRequest, ...], left_over: int, processes: Processes
    ) -> Result:
        """The run, over."""
        return Result(
            planned=len(planned),
            tally=self._tally,
            generated_tokens={
                name: engine.generated_tokens - self._tokens_before[name]
                for name, engine in self._scraper.engines.items()
            },
            left_over=left_over,
            killed=self._killed,
            exit_statuses={p.name: (p.exit_status, p.ended_cleanly) for p in processes.all},
            load_s=self._end_s - self._start_s,
            usd_per_hour=self._fleet.usd_per_hour,
            bills=bills(
                complete=self._tally.of(*COMPLETE),
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
            overflows=overflows(self._tally.ended, self._start_s),
        )

    async def _draw(self, console: Console) -> None:
        """Draws until cancelled: a live table on a terminal, else a line now and then."""
        if not console.is_terminal:
            next_line_s = self._clock() + LINE_S
            while True:
                await self._look()
                if self._clock() >= next_line_s:
                    next_line_s += LINE_S
                    console.print(line(self._snapshot()), highlight=False, soft_wrap=True)
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                await self._look()
                live.update(table(self._snapshot()), refresh=True)

    async def _look(self) -> None:
        await asyncio.sleep(LOOK_S)
        # Last, so that the picture shows engines and clients at one moment.
        await self._scraper.look()

    async def _kill_one(self) -> None:
        """Kills the second replica at the time that was asked for."""
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
            tally=self._tally,
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
