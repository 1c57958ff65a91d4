"""The feed of one replica: cursors, restarts, absence; and the whole way from a simulated vLLM."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp
import pytest

from gateway.config.gateway import TimeoutsConfig
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.fleet.engine_feed import ABSENT_S, MOST_ANSWERS, EngineFeed
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.vllm.client import VllmClient
from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from moegate.vllm_plugin.feed import MOST_TOLD, Feed, Signature, Step
from scheduler.engine_steps import EngineSteps, ExpertSignature
from simulation.engine.physics import ExpertLoad
from tests.gateway.upstream.vllm.test_steps_feed import STEP


def now_step(sequences: int) -> Step:
    return STEP._replace(at_s=time.monotonic(), decode_requests=sequences)


@dataclass
class Server:
    """A server that answers from its feeds in turn; without any, it has no plugin."""

    feeds: list[Feed] = field(default_factory=lambda: [Feed()])
    asked: list[Sequence[str]] = field(default_factory=list)
    garbled: bool = False

    async def steps(self, cursors: Sequence[str]) -> bytes:
        self.asked.append(cursors)
        if not self.feeds:
            raise UpstreamFailure(FailureKind.MODEL_NOT_FOUND, "HTTP 404")
        feed = self.feeds[len(self.asked) % len(self.feeds)]
        return b"{}" if self.garbled else feed.answer(list(cursors))

    def add(self, *sequences: int) -> None:
        for some in sequences:
            self.feeds[0].add(now_step(some))


@dataclass
class Reader:
    """A feed, what it has reported, and its clock."""

    server: Server
    now_s: float = 1000.0
    events: list[EngineSteps] = field(default_factory=list)
    signatures: list[ExpertSignature] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.feed = EngineFeed("own/a", "own/a", lambda: self.now_s)

    async def read(self) -> list[int]:
        """Batches of the steps that are new."""
        self.events.clear()
        await self.feed.read(self.server, self.events.append, self.signatures.extend)
        return [step.sequences for event in self.events for step in event.steps]


async def test_each_step_is_reported_once() -> None:
    reader = Reader(Server())
    reader.server.add(1, 2)
    assert await reader.read() == [1, 2]
    reader.server.add(3)
    assert await reader.read() == [3]
    assert await reader.read() == []
    assert not any(event.restarted for event in reader.events)


async def test_a_restart_is_told_and_begins_anew() -> None:
    reader = Reader(Server())
    reader.server.add(1)
    await reader.read()
    reader.server.feeds = [Feed()]
    reader.server.add(2)
    assert await reader.read() == [2]
    assert [event.restarted for event in reader.events] == [True]
    await reader.read()
    assert [event.restarted for event in reader.events] == [False]


async def test_several_api_servers_have_a_cursor_each() -> None:
    server = Server([Feed(), Feed()])
    for number, feed in enumerate(server.feeds):
        feed.processes = 2
        feed.add(now_step(number))
    reader = Reader(server)
    assert sorted([*await reader.read(), *await reader.read()]) == [0, 1]
    assert [event.whole for event in reader.events] == [False]
    assert await reader.read() == []
    assert len(server.asked[-1]) == 2
    assert not any(event.restarted for event in reader.events)


async def test_a_long_feed_is_read_in_bounded_parts() -> None:
    reader = Reader(Server([Feed(most_kept=(MOST_ANSWERS + 1) * MOST_TOLD)]))
    reader.server.add(*[1] * (MOST_ANSWERS + 1) * MOST_TOLD)
    assert len(await reader.read()) == MOST_ANSWERS * MOST_TOLD
    assert len(await reader.read()) == MOST_TOLD


async def test_a_server_without_the_plugin_is_asked_again_later() -> None:
    reader = Reader(Server([]))
    assert await reader.read() == []
    assert await reader.read() == []
    assert len(reader.server.asked) == 1
    reader.server.feeds = [Feed()]
    reader.server.add(5)
    reader.now_s += ABSENT_S
    assert await reader.read() == [5]


async def test_what_was_lost_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    reader = Reader(Server([Feed(most_kept=2)]))
    reader.server.add(1)
    await reader.read()
    reader.server.add(2, 3, 4, 5)
    assert await reader.read() == [4, 5]
    assert "own/a: 2 entries of its feed were not read in time" in caplog.text


async def test_a_garbled_answer_reports_nothing() -> None:
    reader = Reader(Server(garbled=True))
    assert await reader.read() == []
    assert reader.events == []


async def test_the_simulated_vllm_tells_its_steps_to_those_who_have_the_key() -> None:
    config = SimulatedVllmConfig(speed=20.0, api_key="right")
    async with (
        simulated_vllm(config) as server,
        HttpSession() as session,
        aiohttp.ClientSession() as caller,
    ):
        clock = asyncio.get_running_loop().time
        events: list[EngineSteps] = []

        def client(key: str | None) -> VllmClient:
            return VllmClient(
                session=session,
                base_url=server.url,
                upstream_model=config.served_model_name,
                api_key=key,
                timeouts=TimeoutsConfig(),
            )

        body = {
            "model": config.served_model_name,
            "prompt": [7] * 100,
            "max_tokens": 20,
            "ignore_eos": True,
        }
        headers = {"Authorization": "Bearer right", "X-Request-Id": "mine"}
        url = f"{server.url}/v1/completions"
        async with caller.post(url, json=body, headers=headers) as got:
            assert got.status == 200
        await EngineFeed("a", "a", clock).read(client("wrong"), events.append)
        await EngineFeed("a", "a", clock).read(client(None), events.append)
        assert events == []
        await EngineFeed("a", "a", clock).read(client("right"), events.append)
    [event] = events
    prefills = [step for step in event.steps if step.prefills]
    assert [(s.prefill_tokens, s.prompt_tokens, s.sequences) for s in prefills] == [(100, 100, 0)]
    assert [s.sequences for s in event.steps if not s.prefills] == [1] * 19
    [ended] = event.requests
    assert ended.request_id == "mine"
    assert ended.queued_s is not None
    assert ended.prefill_s is not None
    assert ended.decode_s is not None
    decoded_s = sum(step.took_s for step in event.steps if step.sequences)
    assert abs(ended.decode_s / decoded_s - 1.0) < 0.02


async def test_the_simulated_vllm_tells_its_experts() -> None:
    load = ExpertLoad(zipf_exponent=0.6, expert_ranks=4, eplb=False)
    config = SimulatedVllmConfig(speed=20.0, api_key="right", count_experts=True, expert_load=load)
    async with (
        simulated_vllm(config) as server,
        HttpSession() as session,
        aiohttp.ClientSession() as caller,
    ):
        body = {"model": config.served_model_name, "prompt": [7] * 9, "max_tokens": 4, "n": 3}
        headers = {"Authorization": "Bearer right"}
        url = f"{server.url}/v1/completions"
        async with caller.post(url, json=body, headers=headers) as got:
            assert got.status == 200
        client = VllmClient(
            session=session,
            base_url=server.url,
            upstream_model=config.served_model_name,
            api_key="right",
            timeouts=TimeoutsConfig(),
        )
        events: list[EngineSteps] = []
        await EngineFeed("a", "a", time.monotonic).read(client, events.append)
    [event] = events
    assert event.experts is not None
    assert (event.experts.experts, event.experts.experts_per_token) == (128, 8)
    prefill, *decodes = event.experts.steps
    assert prefill.tokens == prefill.prefill_tokens
    assert {step.prefill_tokens for step in decodes} == {0}
    assert all(8 <= step.distinct <= 8 * step.tokens for step in decodes)
    for step in decodes:
        assert len(step.load) == 4
        assert sum(step.load) == pytest.approx(8 * step.tokens, rel=0.01)


async def test_signatures_are_told_to_their_own_reader() -> None:
    reader = Reader(Server())
    feed = reader.server.feeds[0]
    feed.moe = {"experts": 16, "experts_per_token": 4, "layers": 2}
    feed.add(Signature(engine=0, id="chatcmpl-agent-7", tokens=30, experts=[[3, 1], [0]]))
    await reader.read()
    assert reader.signatures == [ExpertSignature(request_id="agent-7", experts=((3, 1), (0,)))]
    await reader.read()
    assert len(reader.signatures) == 1
