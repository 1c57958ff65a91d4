"""The plugin `moegate-vllm` in a real vLLM: what it tells, and what the step fit makes of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from statistics import mean, median

import aiohttp
import msgspec
import pytest

from benchmarks.engine.truth import LOADS, measure_meter
from gateway.config.gateway import SecretConfig, TimeoutsConfig
from gateway.fleet.engine_feed import EngineFeed
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.vllm.client import VllmClient
from scheduler.engine_steps import EngineStep, EngineSteps
from scheduler.step_time.single_steps import STALL_FACTOR, windows_of
from scheduler.step_time.step_fit import StepFit
from tests import serving
from tests.serving import METADATA, chat_request, read_stream
from tests.vllm.launch import ENGINE_KEY, VllmProcess, running_vllm
from tests.vllm.step_times import STAND_IN

KV_TOKENS = 76_800
BATCHES = (1, 2, 4, 8, 16)
OUTPUT_TOKENS = 21
REQUESTS = 20
USD_PER_HOUR = 2.50
"""Of `serving.pool`."""
Steps = defaultdict[int, list[EngineStep]]
"""By batch."""


@pytest.fixture(scope="module")
def plugin_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmProcess]:
    with running_vllm(tmp_path_factory.mktemp("plugin"), plugin=True) as server:
        yield server


@dataclass
class Told:
    """A server with the plugin, and what its feed has told."""

    server: VllmProcess
    session: aiohttp.ClientSession
    upstream: HttpSession
    events: list[EngineSteps] = field(default_factory=list)
    sent: int = 0

    def __post_init__(self) -> None:
        self._client = VllmClient(
            session=self.upstream,
            base_url=self.server.base_url,
            upstream_model=self.server.model,
            api_key=ENGINE_KEY,
            timeouts=TimeoutsConfig(),
        )
        self._feed = EngineFeed("vllm", "vllm", time.monotonic)

    async def read(self) -> list[EngineStep]:
        """The steps since the last call."""
        before = len(self.events)
        await self._feed.read(self._client, self.events.append)
        return [step for event in self.events[before:] for step in event.steps]

    async def run(self, batch: int, request_id: str = "") -> float:
        """So many sequences as one request, so that they step together however busy the machine
        is; returns its seconds."""
        self.sent += 1
        body = {
            "model": self.server.model,
            # Prompts differ from the first token on, so that none is in the prefix cache.
            "prompt": [
                [(self.sent * 37 + one * 41 + i * 11) % 1900 + 100 for i in range(32)]
                for one in range(batch)
            ],
            "max_tokens": OUTPUT_TOKENS,
            "temperature": 0.0,
            "ignore_eos": True,
        }
        url = f"{self.server.base_url}/v1/completions"
        headers = {"X-Request-Id": request_id or f"r{self.sent}"}
        begin_s = time.monotonic()
        async with self.session.post(url, json=body, headers=headers) as response:
            response.raise_for_status()
            await response.read()
        return time.monotonic() - begin_s


@pytest.fixture
async def told(plugin_server: VllmProcess) -> AsyncIterator[Told]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, HttpSession() as upstream:
        one = Told(plugin_server, session, upstream)
        await one.run(4)
        await one.read()
        yield one


async def test_every_step_and_every_request_is_told(told: Told) -> None:
    took_s = await told.run(1, "mine")
    steps = await told.read()
    assert sum(step.prefill_tokens for step in steps) == 32
    assert [step.sequences for step in steps if step.sequences] == [1] * (OUTPUT_TOKENS - 1)
    [ended] = [one for one in told.events[-1].requests if one.request_id == "mine"]
    assert ended.queued_s is not None
    assert ended.prefill_s is not None
    assert ended.decode_s is not None
    assert ended.queued_s + ended.prefill_s + ended.decode_s < took_s
    decoded_s = sum(step.took_s for step in steps if step.sequences)
    assert decoded_s == pytest.approx(ended.decode_s, rel=0.02)


async def test_no_line_is_logged_for_a_step(told: Told) -> None:
    await told.run(1)
    assert "Iteration(" not in told.server.log_path.read_text(errors="replace")


async def test_the_route_needs_the_key(told: Told) -> None:
    url = f"{told.server.base_url}/moegate/steps"
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        async with told.session.get(url, headers=headers) as response:
            assert response.status == 401


async def test_the_fit_follows_the_engines_own_time_after_a_few_hundred_steps(
    told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine's own time of a batch: the mean of its steps, each cut off at a stall. The bound
    is wide, because on a busy machine the halves of the measurement differ by tens of per cent; the
    misses are printed beside that difference."""
    fit = StepFit(STAND_IN)
    halves: tuple[Steps, Steps] = (defaultdict(list), defaultdict(list))
    seen = 0
    for turn in range(4):
        # Short turns: a busy second of the machine meets all batches alike.
        for batch in BATCHES:
            await told.run(batch)
        steps = tuple(await told.read())
        event = EngineSteps(placement="vllm", at_s=steps[-1].at_s, steps=steps)
        fit.observe_steps(windows_of(event, kv_capacity_tokens=KV_TOKENS, from_s=0.0))
        seen += len(steps)
        for step in steps:
            if not step.prefills:
                halves[turn % 2][step.sequences].append(step)
    assert 400 <= seen <= 480
    misses: dict[int, float] = {}
    noise: dict[int, float] = {}
    for batch in BATCHES:
        first, second = (half[batch] for half in halves)
        own = [*first, *second]
        kv_tokens = KV_TOKENS * mean(step.kv_usage for step in own)
        misses[batch] = abs(fit.model.decode_step_s(batch, kv_tokens) / own_s(own) - 1.0)
        noise[batch] = abs(own_s(first) / own_s(second) - 1.0)
    with capsys.disabled():
        print(f"\nmisses {_percent(misses)}, the engine's halves differ by {_percent(noise)}")
    assert median(misses.values()) < 0.3 + median(noise.values())


def _percent(by_batch: dict[int, float]) -> str:
    return ", ".join(f"{batch}: {share:.1%}" for batch, share in by_batch.items())


def own_s(steps: list[EngineStep]) -> float:
    most_s = STALL_FACTOR * median(step.took_s for step in steps)
    return mean(min(step.took_s, most_s) for step in steps)


async def test_metered_seconds_follow_the_engines_own(
    told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lone request costs the engine's own seconds, which vLLM tells with its last event: not
    the way to the engine and back, however long a busy machine makes it."""
    os.environ["ENGINE_KEY_OF_TESTS"] = ENGINE_KEY
    pool = msgspec.structs.replace(
        serving.pool([told.server.base_url], upstream_model=told.server.model, max_num_seqs=32),
        api_key=SecretConfig(env="ENGINE_KEY_OF_TESTS"),
    )
    metered_s = []
    async with serving.serving(serving.config(pools=[pool])) as gateway:
        await told.read()
        told.events.clear()
        for number in range(REQUESTS):
            prompt = f"Tell me about expert number {number}."
            request = chat_request(prompt, max_output_tokens=300, ignore_eos=True)
            seen = await read_stream(gateway.stub.Generate(request, metadata=METADATA))
            assert seen.done is not None
            metered_s.append(seen.done.cost.metered_nano_usd / 1e9 / USD_PER_HOUR * 3600)
            await told.read()
        [group] = gateway.gateway.scheduler.core._model_states[serving.MODEL].fleet.groups
        assert group.has_steps(asyncio.get_running_loop().time())
        await asyncio.sleep(0.5)
        await told.read()
    own_s = [
        (one.queued_s or 0.0) + (one.prefill_s or 0.0) + (one.decode_s or 0.0)
        for event in told.events
        for one in event.requests
        if one.request_id != "moegate-probe"
    ]
    assert len(own_s) == REQUESTS
    misses = sorted(abs(m / own - 1.0) for m, own in zip(metered_s, own_s, strict=True))
    p50, p90 = misses[REQUESTS // 2], misses[REQUESTS * 9 // 10]
    with capsys.disabled():
        print(f"\nmetered seconds beside the engine's own: p50 {p50:.1%}, p90 {p90:.1%}")
    assert p50 < 0.05
    assert p90 < 0.15


async def test_requests_that_run_together_cost_their_part_of_the_steps(
    plugin_server: VllmProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    """However late a busy machine hands on what the engine has made. The truth is computed from the
    feed of steps, apart from what the plugin tells with each answer."""
    [misses] = await measure_meter(plugin_server, [LOADS[1]])
    with capsys.disabled():
        print(f"\n{misses.load}: p50 {misses.p50:.1%}, p90 {misses.p90:.1%}")
    assert misses.requests > LOADS[1].requests * 0.8
    assert misses.p50 < 0.05
    assert misses.p90 < 0.15
