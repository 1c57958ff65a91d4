"""What requests had of a real vLLM's steps, by the plugin: several choices, and preempted requests.

The engine's single steps, which the feed tells apart from the answers, are the truth: whatever ran,
all requests together had the time in which the engine stepped.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
import pytest

from gateway.config.gateway import SecretConfig
from moegate.vllm_plugin.feed import PATH
from tests import serving
from tests.serving import METADATA, chat_request, read_stream
from tests.vllm.launch import ENGINE_KEY, VllmProcess, running_vllm

SMALL_KV = ("--max-model-len=1024", "--num-gpu-blocks-override=10")
"""10 blocks of 128 tokens: three requests of 450 tokens do not fit."""
TOGETHER, OUTPUT_TOKENS = 6, 400
USD_PER_HOUR = 2.50
"""Of `serving.pool`."""


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmProcess]:
    with running_vllm(tmp_path_factory.mktemp("shares"), SMALL_KV, plugin=True) as server:
        yield server


@dataclass
class Told:
    """A server with the plugin, and where its feed was read up to."""

    server: VllmProcess
    session: aiohttp.ClientSession
    cursor: str = ""
    sent: int = 0

    async def read(self) -> tuple[float, int]:
        """Seconds of the steps since the last call, and preemptions of the requests that ended."""
        stepped_s, preemptions = 0.0, 0
        while True:
            url = f"{self.server.base_url}{PATH}?after={self.cursor}"
            headers = {"Authorization": f"Bearer {ENGINE_KEY}"}
            async with self.session.get(url, headers=headers) as response:
                answer = await response.json()
            self.cursor = f"{answer['instance']}.{answer['next']}"
            for row in answer["steps"]:
                step = dict(zip(answer["step_fields"], row, strict=True))
                stepped_s += step["period_s"] or step["elapsed_s"]
            for row in answer["requests"]:
                preemptions += dict(zip(answer["request_fields"], row, strict=True))["preemptions"]
            if not answer["more"]:
                return stepped_s, preemptions

    async def ask(self, path: str, **fields: Any) -> dict[str, float]:
        """The metrics of an answer, as far as they are told."""
        self.sent += 1
        text = f"{self.sent} " + "Tell me about mixtures of experts. " * 4
        body: dict[str, Any] = {"model": self.server.model, "temperature": 1.0, "ignore_eos": True}
        if "chat" in path:
            body["messages"] = [{"role": "user", "content": text}]
        else:
            body["prompt"] = text
        body |= fields
        url = f"{self.server.base_url}{path}"
        async with self.session.post(url, json=body) as response:
            assert response.status == 200, await response.text()
            text = await response.text()
        events = [line.removeprefix("data: ") for line in text.splitlines() if line]
        last = json.loads(events[-2] if fields.get("stream") else text)
        return {name: value for name, value in (last["metrics"] or {}).items() if value is not None}


@pytest.fixture
async def told(small_server: VllmProcess) -> AsyncIterator[Told]:
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        one = Told(small_server, session)
        await one.ask("/v1/completions", max_tokens=8)  # warms up
        await one.read()
        yield one


def had_s(metrics: dict[str, float]) -> float:
    return (metrics["moegate_prefill_ms"] + metrics["moegate_decode_ms"]) / 1e3


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("streamed", [False, True])
async def test_choices_tell_what_they_had_together(told: Told, path: str, streamed: bool) -> None:
    fields = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
    metrics = await told.ask(path, n=3, max_tokens=60, **fields)
    stepped_s, _ = await told.read()
    assert set(metrics) == {"moegate_prefill_ms", "moegate_decode_ms", "moegate_whole_ms"}
    assert had_s(metrics) == pytest.approx(stepped_s, rel=0.05)
    assert had_s(metrics) <= metrics["moegate_whole_ms"] / 1e3 * 1.001
    assert metrics["moegate_prefill_ms"] > 0
    alone = await told.ask(path, max_tokens=60, **fields)
    assert "moegate_whole_ms" not in alone, "vLLM tells it itself"
    assert "generation_time_ms" in alone


async def test_an_answer_of_several_choices_costs_their_part_of_the_steps(told: Told) -> None:
    os.environ["ENGINE_KEY_OF_SHARES"] = ENGINE_KEY
    base = serving.pool([told.server.base_url], upstream_model=told.server.model, max_num_seqs=32)
    pool = msgspec.structs.replace(base, api_key=SecretConfig(env="ENGINE_KEY_OF_SHARES"))
    shares = []
    async with serving.serving(serving.config(pools=[pool])) as gateway:
        for number in range(8):
            await told.read()
            asked = chat_request(
                f"Expert {number}?", choices=3, max_output_tokens=100, ignore_eos=True
            )
            seen = await read_stream(gateway.stub.Generate(asked, metadata=METADATA))
            assert seen.done is not None
            stepped_s, _ = await told.read()
            metered_s = seen.done.cost.metered_nano_usd / 1e9 / USD_PER_HOUR * 3600
            shares.append(metered_s / stepped_s)
    assert sorted(shares)[4] == pytest.approx(1.0, abs=0.05)
    assert sorted(shares)[7] < 1.15


async def test_preempted_requests_had_their_part_of_the_steps(
    told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    """They have no part of the steps in which they waited, and pay for what is computed again."""
    asks = (told.ask("/v1/completions", max_tokens=OUTPUT_TOKENS) for _ in range(TOGETHER))
    metrics = await asyncio.gather(*asks)
    stepped_s, preemptions = await told.read()
    whole_s = sum(map(had_s, metrics))
    with capsys.disabled():
        print(f"\n{preemptions} preemptions: all had {whole_s:.2f} s of {stepped_s:.2f} s")
    assert preemptions > 0
    assert whole_s == pytest.approx(stepped_s, rel=0.05)
    for each in metrics:
        there_s = (each["time_to_first_token_ms"] + each["generation_time_ms"]) / 1e3
        assert 0 < had_s(each) < there_s
