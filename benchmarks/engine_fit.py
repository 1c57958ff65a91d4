"""The step fit of `engine_truth.py`: what it makes of single steps of a real engine."""

from __future__ import annotations

import time
from collections import defaultdict
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
from tests.vllm.launch import ENGINE_KEY, VllmProcess
from tests.vllm.step_times import STAND_IN

KV_TOKENS = 76_800
BATCHES = (1, 2, 4, 8, 16)
OUTPUT_TOKENS = 11
TURNS = 4
"""Short turns, so that a busy second of the machine meets all batches alike: 200 steps in all."""
LATER_TURNS = 8
"""Turns after the fit was made, which it is held against too."""
PROMPT_TOKENS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class FitPoint:
    """One batch: the engine's own mean step time and the fit's. `used_ms`: of the model in use,
    which is the prior while that misses less; `noise`: difference of the means of every other turn.
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
    by_turn: list[dict[int, list[EngineStep]]] = []
    async with aiohttp.ClientSession() as session, HttpSession() as upstream:
        batches = Batches(server, session, upstream)
        await batches.turn()
        for turn in range(TURNS + LATER_TURNS):
            steps = await batches.turn()
            like: defaultdict[int, list[EngineStep]] = defaultdict(list)
            for step in steps:
                if not step.prefills:
                    like[step.sequences].append(step)
            by_turn.append(like)
            if turn < TURNS:
                event = EngineSteps(placement="vllm", at_s=steps[-1].at_s, steps=steps)
                fit.observe_steps(windows_of(event, kv_capacity_tokens=KV_TOKENS, from_s=0.0))
    state = fit.state
    points = [_point(fit, batch, [like[batch] for like in by_turn]) for batch in BATCHES]
    return f"in use: {state.source}, since {state.reason}", points


def _point(fit: StepFit, batch: int, turns: list[list[EngineStep]]) -> FitPoint:
    own = [step for turn in turns for step in turn]
    most_s = STALL_FACTOR * median(step.took_s for step in own)
    kv_tokens = KV_TOKENS * mean(step.kv_usage for step in own)

    def mean_s(some: list[list[EngineStep]]) -> float:
        return mean(min(step.took_s, most_s) for turn in some for step in turn)

    base, experts, sequences, kv, prefill = fit.state.factors
    fitted = fit.prior.scaled(
        base=base, experts=experts, sequences=sequences, kv=kv, prefill=prefill
    )
    return FitPoint(
        batch=batch,
        own_ms=mean_s(turns) * 1e3,
        fit_ms=fitted.decode_step_s(batch, kv_tokens) * 1e3,
        used_ms=fit.model.decode_step_s(batch, kv_tokens) * 1e3,
        noise=abs(mean_s(turns[::2]) / mean_s(turns[1::2]) - 1.0),
    )
