"""Time per output token of a real vLLM over concurrency, beside what the online fit makes of it.

    python -m tests.vllm.step_times docs/step-times-vllm-cpu.json

starts the tiny model's server, measures, and writes what docs/step-model.md shows. The fit sees
only the server's /metrics, once a second, as it does in the gateway; its prior is the stand-in for
models that nothing is known of. Beside it the plugin's feed tells the same engine's single steps:
what a window of counters should have seen, however busy the machine is.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import aiohttp

from gateway.config.gateway import TimeoutsConfig
from gateway.fleet.engine_feed import EngineFeed
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.vllm.client import VllmClient
from gateway.upstream.vllm.metrics import parse_metrics
from moegate.up.tiny import MOE
from scheduler.contract import EngineReport
from scheduler.engine_steps import EngineStep, EngineSteps
from scheduler.step_time.own_load import OwnCounts
from scheduler.step_time.step_fit import StepFit
from scheduler.step_time.step_model import QWEN3_30B_H100, StepModel
from scheduler.step_time.step_windows import WindowMeter
from tests.known import known
from tests.vllm.launch import ENGINE_KEY, VllmProcess, running_vllm

CONCURRENCIES = (1, 2, 4, 8, 16, 32)
LAPS = 2
"""Up and down again, so that a busy minute of the machine does not pass for a slope."""
PHASE_S = 4.0
WINDOWS = 3
"""Of each phase at least, however long a busy machine takes over them."""
PROMPT_TOKENS, OUTPUT_TOKENS = 32, 160
STAND_IN = StepModel(
    experts=MOE.experts,
    experts_per_token=MOE.experts_per_token,
    base_s=QWEN3_30B_H100.base_s,
    expert_s=QWEN3_30B_H100.expert_s,
    sequence_s=QWEN3_30B_H100.sequence_s,
    kv_token_s=QWEN3_30B_H100.kv_token_s,
    prefill_s=QWEN3_30B_H100.prefill_s,
    prefill_token_s=QWEN3_30B_H100.prefill_token_s,
    prefill_context_s=QWEN3_30B_H100.prefill_context_s,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One concurrency, milliseconds.

    Attributes:
        client_token_ms: median over the requests of their whole time per token, prefill included.
        engine_tpot_ms: by the engine's counters.
    """

    concurrency: int
    requests: int
    client_token_ms: float
    engine_tpot_ms: float
    fitted_tpot_ms: float
    prior_tpot_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A window: what was sent, and the batch and the time of a step by the counters.

    `told_batch`, `told_step_ms`: the same of its single steps, as the plugin told them.
    `expected_ms`: by the model in use before it learnt from the window, `prior_ms`: by the prior.
    `error`: what the fit said of itself then.
    """

    concurrency: int
    batch: float
    step_ms: float
    told_batch: float
    told_step_ms: float
    expected_ms: float
    prior_ms: float
    error: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """A whole measurement; `source` and `error` are what the fit says of itself."""

    points: tuple[Point, ...]
    source: str
    error: float | None
    windows: tuple[Seen, ...]


class _Load:
    """A closed loop of streams on one server."""

    def __init__(self, http: aiohttp.ClientSession, server: VllmProcess) -> None:
        self._http = http
        self._server = server
        self._next_id = 0
        self.per_token_s: dict[int, list[float]] = {}

    async def run(self, concurrency: int, is_seen: Callable[[], bool]) -> None:
        """PHASE_S of so many streams, each followed by the next, and until it `is_seen`."""
        end_s = time.monotonic() + PHASE_S
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._client(concurrency, end_s, is_seen))

    async def _client(self, concurrency: int, end_s: float, is_seen: Callable[[], bool]) -> None:
        while time.monotonic() < end_s or not is_seen():
            self._next_id += 1
            # Prompts differ from the first token on, so that none is in the prefix cache.
            ids = [(self._next_id * 37 + i * 11) % 1900 + 100 for i in range(PROMPT_TOKENS)]
            body = {
                "model": self._server.model,
                "prompt": ids,
                "max_tokens": OUTPUT_TOKENS,
                "temperature": 0.0,
                "ignore_eos": True,
                "stream": True,
                "stream_interval": 8,  # the client shares the engine's two cores
            }
            url = f"{self._server.base_url}/v1/completions"
            start_s = time.monotonic()
            async with self._http.post(url, json=body) as response:
                response.raise_for_status()
                async for _ in response.content:
                    pass
            # From the start: the server may hold pieces back and send them as one.
            took_s = time.monotonic() - start_s
            self.per_token_s.setdefault(concurrency, []).append(took_s / OUTPUT_TOKENS)


class _Watch:
    """Reads counters and single steps of a server once a second, and fits the counters."""

    def __init__(
        self, http: aiohttp.ClientSession, upstream: HttpSession, server: VllmProcess
    ) -> None:
        self.fit = StepFit(STAND_IN)
        self.seen: list[Seen] = []
        self._http, self._server = http, server
        self._meter = WindowMeter()
        self._client = VllmClient(
            session=upstream,
            base_url=server.base_url,
            upstream_model=server.model,
            api_key=ENGINE_KEY,
            timeouts=TimeoutsConfig(),
        )
        self._feed = EngineFeed("vllm", "vllm", time.monotonic)
        self._steps: list[EngineStep] = []
        self._gaps = 0
        """Outputs of the steps that were compared with windows, which the counter counts too."""

    async def report(self) -> EngineReport:
        """The counters now."""
        async with self._http.get(f"{self._server.base_url}/metrics") as response:
            return parse_metrics(await response.read(), "vllm", time.monotonic(), None)

    def has_seen(self, windows: int) -> bool:
        """Whether there were so many windows."""
        return len(self.seen) >= windows

    async def follow(self, concurrency: int) -> None:
        """Until cancelled."""
        self._meter.take(await self.report(), OwnCounts())  # ends the window of the phase before
        while True:
            await asyncio.sleep(1.0)
            await self._look(concurrency)

    async def _look(self, concurrency: int) -> None:
        report = await self.report()
        window = self._meter.take(report, OwnCounts())
        await self._feed.read(self._client, self._keep)
        if window is None:
            return
        assert report.counts is not None
        end = known(report.counts.gaps)
        steps = self._steps_of(end - window.gaps, end)
        gaps = sum(step.sequences for step in steps)
        resident = window.kv_tokens
        expected_s = self.fit.model.decode_step_s(window.batch, resident)
        error = self.fit.error
        self.fit.observe(window)
        self.seen.append(
            Seen(
                concurrency=concurrency,
                batch=window.batch,
                step_ms=1e3 * window.step_s,
                told_batch=gaps / len(steps),
                told_step_ms=1e3 * sum(step.took_s * step.sequences for step in steps) / gaps,
                expected_ms=1e3 * expected_s,
                prior_ms=1e3 * STAND_IN.decode_step_s(window.batch, resident),
                error=error,
            )
        )

    def _keep(self, event: EngineSteps) -> None:
        self._steps += [step for step in event.steps if step.sequences]

    def _steps_of(self, begin: int, end: int) -> list[EngineStep]:
        """The steps that moved the counter of outputs from `begin` to `end`. Each sequence of a
        step moves it by one, and the feed has told every step since the server's start."""
        found: list[EngineStep] = []
        for step in self._steps:
            self._gaps += step.sequences
            if begin < self._gaps <= end:
                found.append(step)
        counted = self._gaps
        # The feed is read after the counters: what it tells beyond them is the next window's.
        later: list[EngineStep] = []
        while counted > end:
            later.insert(0, self._steps.pop())
            counted -= later[0].sequences
        self._gaps, self._steps = counted, later
        return found


async def measure(server: VllmProcess) -> StepTimes:
    """Loads the server, which has the plugin, with each concurrency in turn; about a minute."""
    engine: dict[int, list[tuple[float, int]]] = {}
    timeout = aiohttp.ClientTimeout(total=120)
    # A connection that the server closes while a request is on its way would end the test.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=connector) as http,
        HttpSession() as upstream,
    ):
        load, watch = _Load(http, server), _Watch(http, upstream, server)
        await load.run(1, lambda: True)  # warms up; nobody counts it
        load.per_token_s.clear()
        for lap in range(LAPS):
            for concurrency in CONCURRENCIES if lap % 2 == 0 else reversed(CONCURRENCIES):
                following = asyncio.create_task(watch.follow(concurrency))
                before = await watch.report()
                wanted = len(watch.seen) + WINDOWS
                await load.run(concurrency, partial(watch.has_seen, wanted))
                after = await watch.report()
                following.cancel()
                with suppress(asyncio.CancelledError):
                    await following
                engine.setdefault(concurrency, []).append(_gaps(before, after))
    fit = watch.fit
    return StepTimes(
        points=tuple(
            _point(concurrency, load.per_token_s[concurrency], engine[concurrency], fit.model)
            for concurrency in CONCURRENCIES
        ),
        source=fit.source.value,
        error=fit.error,
        windows=tuple(watch.seen),
    )


def _point(
    concurrency: int, per_token_s: list[float], gaps: list[tuple[float, int]], fitted: StepModel
) -> Point:
    resident = concurrency * (PROMPT_TOKENS + OUTPUT_TOKENS / 2)
    ordered = sorted(per_token_s)
    seconds, count = (sum(column) for column in zip(*gaps, strict=True))
    return Point(
        concurrency=concurrency,
        requests=len(ordered),
        client_token_ms=1e3 * ordered[len(ordered) // 2],
        engine_tpot_ms=1e3 * seconds / count,
        fitted_tpot_ms=1e3 * fitted.decode_step_s(concurrency, resident),
        prior_tpot_ms=1e3 * STAND_IN.decode_step_s(concurrency, resident),
    )


def _gaps(before: EngineReport, after: EngineReport) -> tuple[float, int]:
    assert before.counts is not None
    assert after.counts is not None
    gaps_s = known(after.counts.gaps_s) - known(before.counts.gaps_s)
    return gaps_s, known(after.counts.gaps) - known(before.counts.gaps)


def main(path: Path) -> None:
    """Writes the measurement."""
    with tempfile.TemporaryDirectory() as folder, running_vllm(Path(folder), plugin=True) as server:
        times = asyncio.run(measure(server))
    path.write_text(json.dumps(asdict(times), indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
