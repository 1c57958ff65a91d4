"""A real vLLM's KV events: what a quote expects of its prefix cache is what vLLM then reports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest

from gateway.config.engines import KvEventsConfig
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2
from tests import serving
from tests.serving import METADATA, MODEL, Serving, read_stream
from tests.vllm.launch import KV_EVENTS_TOPIC, VllmProcess

BLOCK = 128
"""Tokens of a block of vLLM's CPU build."""
PROMPT = tuple(300 + i * 37 % 600 for i in range(1000))


@pytest.fixture
async def gateway(vllm_server: VllmProcess) -> AsyncIterator[Serving]:
    assert vllm_server.kv_events is not None
    port, replay_port = vllm_server.kv_events
    pool = msgspec.structs.replace(
        serving.pool([vllm_server.base_url], upstream_model=vllm_server.model, max_num_seqs=32),
        kv_events=KvEventsConfig(port=port, replay_port=replay_port, topic=KV_EVENTS_TOPIC),
    )
    async with serving.serving(serving.config(pools=[pool])) as running:
        yield running


def asked(token_ids: tuple[int, ...]) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(
        model=MODEL,
        prompt_tokens=chat_pb2.TokenInput(token_ids=token_ids),
        max_output_tokens=2,
        ignore_eos=True,
    )


async def expected(gateway: Serving, token_ids: tuple[int, ...]) -> int:
    ask = inference_pb2.QuoteRequest(request=asked(token_ids))
    quote = await gateway.stub.Quote(ask, metadata=METADATA)
    (candidate,) = quote.candidates
    return candidate.expected_cached_tokens


async def cached(gateway: Serving, token_ids: tuple[int, ...]) -> int:
    seen = await read_stream(gateway.stub.Generate(asked(token_ids), metadata=METADATA))
    assert seen.done is not None
    assert seen.done.usage.prompt_tokens == len(token_ids)
    return seen.done.usage.cached_tokens


async def test_what_is_expected_is_what_vllm_has_cached(
    gateway: Serving, vllm_server: VllmProcess
) -> None:
    # Another salt's blocks (none here): vLLM has these tokens, but not for the gateway's tenant.
    async with (
        aiohttp.ClientSession() as http,
        http.post(
            f"{vllm_server.base_url}/v1/completions",
            json={"model": vllm_server.model, "prompt": list(PROMPT), "max_tokens": 1},
        ) as answer,
    ):
        assert answer.status == 200
    assert await cached(gateway, PROMPT) == 0
    async with asyncio.timeout(serving.READY_S):
        while await expected(gateway, PROMPT) < 7 * BLOCK:
            await asyncio.sleep(0.05)
    branch = (*PROMPT[: 4 * BLOCK], *reversed(PROMPT[: 3 * BLOCK]))
    for token_ids, blocks in (
        (PROMPT, 7),
        (PROMPT[: 7 * BLOCK], 6),  # vLLM computes at least the last token
        (branch, 4),
        ((301, *PROMPT[1:]), 0),
    ):
        told = await expected(gateway, token_ids)
        assert told == blocks * BLOCK
        assert await cached(gateway, token_ids) == told


async def test_evictions_are_told(gateway: Serving) -> None:
    token_ids = tuple(400 + i * 11 % 500 for i in range(3 * BLOCK + 1))
    await cached(gateway, token_ids)
    async with asyncio.timeout(serving.READY_S):
        while await expected(gateway, token_ids) < 3 * BLOCK:
            await asyncio.sleep(0.05)
    for i in range(11):  # 11 times 7,936 tokens: more than the cache of 76,800
        await cached(gateway, tuple(300 + j * (13 + i) % 700 for j in range(62 * BLOCK)))
    async with asyncio.timeout(serving.READY_S):
        while await expected(gateway, token_ids):
            await asyncio.sleep(0.05)
    assert await cached(gateway, token_ids) == 0
