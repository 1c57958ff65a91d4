"""The step fit of `truth.py`: what it makes of single steps of a real engine.

Steps of a kind go in turn to the fit and to the judge: each sees half of them, from the same
seconds. The difference between the halves is what no fit can go below, for both halves measure the
same engine. A fit that is judged by later seconds would answer for the machine's changes, too.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

import aiohttp

from gateway.config.gateway import TimeoutsConfig
from gateway.fleet.engine_feed import EngineFeed
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.vllm.client import VllmClient
from scheduler.engine_steps import EngineStep, EngineSteps
from scheduler.step_time.single_steps import STALL_FACTOR, windows_of
from scheduler.step_time.step_fit import StepFit
from scheduler.step_time.step_windows import SETTLE_S
from tests.vllm.launch import ENGINE_KEY, VllmProcess
from tests.vllm.step_times import STAND_IN

KV_TOKENS = 76_800
BATCHES = (1, 2, 4, 8, 16)
OUTPUT_TOKENS = 11
TURNS = 8
"""Short turns, so that a busy second of the machine meets all batches alike: 200 steps for the fit
and as many for the judge."""
PROMPT_TOKENS = 32
Like = defaultdict[int, list[EngineStep]]
"""Steps by batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPoint:
    """One batch: the engine's own mean step time, by the steps that the fit has not seen, and the
    fit's. `used_ms`: of the model in use, which is the prior while that misses less; `noise`: miss
    of the mean of the steps that the fit has seen.
    """

    batch: int
    own_ms: float
    fit_ms: float
    used_ms: float
    noise: float

    @property
    def miss(self) -> float:
        return self.fit_ms / self.own_ms - 1.0


class Batches:
    """Sends batches as one request each, so that their sequences step together."""

    def __init__(
        self, server: VllmProcess, session: aiohttp.ClientSession, upstream: HttpSession
    ) -> None:
        self._server, self._session = server, session
        self._sent = 0
        self._client = VllmClient(
            session=upstream,
            base_url=server.base_url,
            upstream_model=server.model,
            api_key=ENGINE_KEY,
            timeouts=TimeoutsConfig(),
        )
        self._feed = EngineFeed("vllm", "vllm", time.monotonic)

    async def turn(self) -> tuple[EngineStep, ...]:
        """Runs each batch once; returns the steps."""
        for batch in BATCHES:
            self._sent += 1
            prompts = [
                [
                    (self._sent * 37 + one * 41 + i * 11) % 1900 + 100  # in no prefix cache
                    for i in range(PROMPT_TOKENS)
                ]
                for one in range(batch)
            ]
            body = {
                **{"model": self._server.model, "prompt": prompts, "ignore_eos": True},
                **{"max_tokens": OUTPUT_TOKENS, "temperature": 0.0},
            }
            url = f"{self._server.base_url}/v1/completions"
            async with self._session.post(url, json=body) as response:
                response.raise_for_status()
                await response.read()
        events: list[EngineSteps] = []
        await self._feed.read(self._client, events.append)
        return tuple(step for event in events for step in event.steps)


async def measure_fit(server: VllmProcess) -> tuple[str, list[FitPoint]]:
    """Fits 200 steps, and compares; with it, which model is in use and why."""
    fit = StepFit(STAND_IN)
    fitted: Like = defaultdict(list)
    judged: Like = defaultdict(list)
    # A connection that the server closes while a request is on its way would end the run.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session, HttpSession() as upstream:
        batches = Batches(server, session, upstream)
        warm_s = time.monotonic() + SETTLE_S  # as the gateway leaves out the first seconds
        while time.monotonic() < warm_s:
            await batches.turn()
        for turn in range(TURNS):
            seen = _dealt(await batches.turn(), turn, fitted, judged)
            event = EngineSteps(placement="vllm", at_s=seen[-1].at_s, steps=seen)
            fit.observe_steps(windows_of(event, kv_capacity_tokens=KV_TOKENS, from_s=0.0))
    state = fit.state
    points = [_point(fit, batch, fitted[batch], judged[batch]) for batch in BATCHES]
    return f"in use: {state.source}, since {state.reason}", points


def _dealt(
    steps: Sequence[EngineStep], turn: int, fitted: Like, judged: Like
) -> tuple[EngineStep, ...]:
    """Deals the steps of each kind in turn, and keeps those without prefills; returns those of the
    fit."""
    dealt: defaultdict[tuple[int, bool], int] = defaultdict(lambda: turn)
    seen: list[EngineStep] = []
    for step in steps:
        kind = step.sequences, step.prefills > 0
        dealt[kind] += 1
        for_fit = dealt[kind] % 2 == 1
        if for_fit:
            seen.append(step)
        if not step.prefills:
            (fitted if for_fit else judged)[step.sequences].append(step)
    return tuple(seen)


def _point(
    fit: StepFit, batch: int, fitted: list[EngineStep], judged: list[EngineStep]
) -> FitPoint:
    most_s = STALL_FACTOR * median(step.took_s for step in (*fitted, *judged))
    kv_tokens = KV_TOKENS * mean(step.kv_usage for step in judged)
    own_s, seen_s = (mean(min(s.took_s, most_s) for s in half) for half in (judged, fitted))
    base, experts, sequences, kv, *_ = fit.state.factors
    model = fit.prior.scaled(base=base, experts=experts, sequences=sequences, kv=kv)
    return FitPoint(
        batch=batch,
        own_ms=own_s * 1e3,
        fit_ms=model.decode_step_s(batch, kv_tokens) * 1e3,
        used_ms=fit.model.decode_step_s(batch, kv_tokens) * 1e3,
        noise=seen_s / own_s - 1.0,
    )
