"""Time per output token of a real vLLM over concurrency, beside what the online fit makes of it.

    python -m tests.vllm.step_times docs/step-times-vllm-cpu.json

starts the tiny model's server, measures, and writes what docs/step-model.md shows. The fit sees
only the server's /metrics, once a second, as it does in the gateway; its prior is the stand-in for
models that nothing is known of.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp

from gateway.upstream.vllm.metrics import parse_metrics
from moegate.up.tiny import MOE
from scheduler.contract import EngineReport
from scheduler.step_time.own_load import OwnCounts
from scheduler.step_time.step_fit import StepFit
from scheduler.step_time.step_model import QWEN3_30B_H100, StepModel
from scheduler.step_time.step_windows import WindowMeter
from tests.known import known
from tests.vllm.launch import VllmProcess, running_vllm

CONCURRENCIES = (1, 2, 4, 8, 16, 32)
LAPS = 2
"""Up and down again, so that a busy minute of the machine does not pass for a slope."""
PHASE_S = 4.0
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
    """A window: what was sent, what the counters told of it, and the time of a step."""

    concurrency: int
    batch: float
    step_ms: float


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

    async def run(self, concurrency: int) -> None:
        """PHASE_S of so many streams, each followed by the next."""
        end_s = time.monotonic() + PHASE_S
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._client(concurrency, end_s))

    async def _client(self, concurrency: int, end_s: float) -> None:
        while time.monotonic() < end_s:
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


async def measure(server: VllmProcess) -> StepTimes:
    """Loads the server with each concurrency in turn; about a minute."""
    fit, meter = StepFit(STAND_IN), WindowMeter()
    engine: dict[int, list[tuple[float, int]]] = {}
    seen: list[Seen] = []
    timeout = aiohttp.ClientTimeout(total=120)
    # A connection that the server closes while a request is on its way would end the test.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:
        load = _Load(http, server)
        await load.run(1)  # warms up; nobody counts it
        load.per_token_s.clear()
        for lap in range(LAPS):
            for concurrency in CONCURRENCIES if lap % 2 == 0 else reversed(CONCURRENCIES):
                watch = asyncio.create_task(_watch(http, server, meter, fit, concurrency, seen))
                before = await _report(http, server)
                await load.run(concurrency)
                after = await _report(http, server)
                watch.cancel()
                engine.setdefault(concurrency, []).append(_gaps(before, after))
    fitted = fit.model
    return StepTimes(
        points=tuple(
            _point(concurrency, load.per_token_s[concurrency], engine[concurrency], fitted)
            for concurrency in CONCURRENCIES
        ),
        source=fit.source.value,
        error=fit.error,
        windows=tuple(seen),
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


async def _watch(
    http: aiohttp.ClientSession,
    server: VllmProcess,
    meter: WindowMeter,
    fit: StepFit,
    concurrency: int,
    seen: list[Seen],
) -> None:
    meter.take(await _report(http, server), OwnCounts())  # ends the window of the phase before
    while True:
        await asyncio.sleep(1.0)
        window = meter.take(await _report(http, server), OwnCounts())
        if window is not None:
            fit.observe(window)
            seen.append(
                Seen(
                    concurrency=concurrency,
                    batch=window.batch,
                    step_ms=1e3 * window.step_s,
                )
            )


async def _report(http: aiohttp.ClientSession, server: VllmProcess) -> EngineReport:
    async with http.get(f"{server.base_url}/metrics") as response:
        return parse_metrics(await response.read(), "vllm", time.monotonic(), None)


def main(path: Path) -> None:
    """Writes the measurement."""
    with tempfile.TemporaryDirectory() as folder, running_vllm(Path(folder)) as server:
        times = asyncio.run(measure(server))
    path.write_text(json.dumps(asdict(times), indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
