"""The gateway in front of a real vLLM: the same text, the same counts, nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc
import pytest
from google.rpc import error_details_pb2

from gateway.upstream.vllm.metrics import parse_metrics
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2
from scheduler.contract import EngineReport
from tests import serving
from tests.known import known
from tests.serving import (
    GREEDY,
    METADATA,
    Serving,
    chat_request,
    detail,
    first_message,
    read_stream,
)
from tests.vllm.launch import VERSION, VllmProcess

PROMPT = "Tell me about the experts of a mixture."


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def report(http: aiohttp.ClientSession, vllm_server: VllmProcess) -> EngineReport:
    async with http.get(f"{vllm_server.base_url}/metrics") as response:
        return parse_metrics(await response.read(), "vllm", 0.0, None)


async def direct(
    http: aiohttp.ClientSession, vllm_server: VllmProcess, max_tokens: int
) -> tuple[str, dict[str, int]]:
    """The same chat without the gateway."""
    body = {
        "model": vllm_server.model,
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0.0,
        "seed": 1,
        "max_tokens": max_tokens,
    }
    async with http.post(f"{vllm_server.base_url}/v1/chat/completions", json=body) as response:
        answer = await response.json()
        return answer["choices"][0]["message"]["content"], answer["usage"]


def text_of(response: inference_pb2.GenerateOnceResponse) -> str:
    [choice] = response.choices
    return choice.text


async def test_a_streamed_chat_is_what_vllm_says(
    gateway: Serving, http: aiohttp.ClientSession, vllm_server: VllmProcess
) -> None:
    text, usage = await direct(http, vllm_server, 24)
    before = await report(http, vllm_server)
    call = gateway.stub.Generate(
        chat_request(PROMPT, sampling=GREEDY, max_output_tokens=24), metadata=METADATA
    )
    seen = await read_stream(call)
    after = await report(http, vllm_server)
    assert seen.done is not None
    assert seen.texts == {0: text}
    mine = seen.done.usage
    assert (mine.prompt_tokens, mine.completion_tokens) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert (
        known(after.prompt_tokens_total) == known(before.prompt_tokens_total) + mine.prompt_tokens
    )
    generated = known(after.generation_tokens_total) - known(before.generation_tokens_total)
    assert generated == mine.completion_tokens
    assert not mine.estimated
    # More than a busy machine takes in with one read.
    long = chat_request(PROMPT, max_output_tokens=1000, ignore_eos=True)
    streamed = await read_stream(gateway.stub.Generate(long, metadata=METADATA))
    assert streamed.messages > 2, "streamed, not sent in one piece"
    assert seen.done.route.kind == generation_pb2.PLACEMENT_KIND_LOCAL
    assert (seen.done.route.target, seen.done.route.replica) == ("own", "a")


async def test_a_unary_chat_is_the_same(
    gateway: Serving, http: aiohttp.ClientSession, vllm_server: VllmProcess
) -> None:
    text, usage = await direct(http, vllm_server, 24)
    request = chat_request(PROMPT, sampling=GREEDY, max_output_tokens=24)
    response = await gateway.stub.GenerateOnce(
        inference_pb2.GenerateOnceRequest(request=request), metadata=METADATA
    )
    assert text_of(response) == text
    assert response.done.usage.completion_tokens == usage["completion_tokens"]
    assert response.choices[0].finish_reason == generation_pb2.FINISH_REASON_LENGTH


async def test_cancelling_frees_the_engine(
    gateway: Serving, http: aiohttp.ClientSession, vllm_server: VllmProcess
) -> None:
    calls = [
        gateway.stub.Generate(
            chat_request(f"{PROMPT} {i}", max_output_tokens=4000, ignore_eos=True),
            metadata=METADATA,
        )
        for i in range(24)  # work for long enough: on a busy computer nobody looks for seconds
    ]
    assert (await first_message(calls[0])).delta.choices
    async with asyncio.timeout(serving.READY_S):
        while (await report(http, vllm_server)).running == 0:
            await asyncio.sleep(0.05)
    for call in calls:
        call.cancel()
    async with asyncio.timeout(serving.READY_S):
        while known((await report(http, vllm_server)).running) > 0:
            await asyncio.sleep(0.05)
    tokens = (await report(http, vllm_server)).generation_tokens_total
    await asyncio.sleep(0.5)
    assert (await report(http, vllm_server)).generation_tokens_total == tokens
    assert repr(gateway.gateway.scheduler.core) == "<Scheduler: 0 queued, 0 running>"


async def test_the_second_identical_prompt_comes_from_the_cache(gateway: Serving) -> None:
    request = chat_request("Mixture of experts. " * 200, sampling=GREEDY, max_output_tokens=2)
    first = await read_stream(gateway.stub.Generate(request, metadata=METADATA))
    second = await read_stream(gateway.stub.Generate(request, metadata=METADATA))
    assert first.done is not None
    assert second.done is not None
    assert second.done.usage.cached_tokens >= 128
    assert second.done.usage.cached_tokens > first.done.usage.cached_tokens
    assert second.done.usage.prompt_tokens == first.done.usage.prompt_tokens


@pytest.mark.parametrize("vllm_server", ["python"], indirect=True)  # in Rust: one choice
async def test_choices_logprobs_and_stop(gateway: Serving) -> None:
    request = chat_request(
        PROMPT,
        choices=2,
        logprobs=2,
        max_output_tokens=6,
        ignore_eos=True,
        sampling=generation_pb2.Sampling(temperature=1.0, seed=5),
    )
    response = await gateway.stub.GenerateOnce(
        inference_pb2.GenerateOnceRequest(request=request), metadata=METADATA
    )
    assert [choice.index for choice in response.choices] == [0, 1]
    for choice in response.choices:
        assert len(choice.logprobs) == 6
        assert all(entry.logprob <= 0 and len(entry.top) >= 2 for entry in choice.logprobs)
    assert response.done.usage.completion_tokens == 12

    plain = chat_request(PROMPT, sampling=GREEDY, max_output_tokens=24)
    whole = text_of(
        await gateway.stub.GenerateOnce(
            inference_pb2.GenerateOnceRequest(request=plain), metadata=METADATA
        )
    )
    stop = whole[8:11]
    stopped = chat_request(PROMPT, sampling=GREEDY, max_output_tokens=24, stop=[stop])
    response = await gateway.stub.GenerateOnce(
        inference_pb2.GenerateOnceRequest(request=stopped), metadata=METADATA
    )
    assert text_of(response) == whole[: whole.index(stop)]
    assert response.choices[0].finish_reason == generation_pb2.FINISH_REASON_STOP


async def test_raw_prompts_and_token_ids_agree(gateway: Serving, vllm_server: VllmProcess) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{vllm_server.base_url}/tokenize",
            json={"model": vllm_server.model, "prompt": PROMPT},
        ) as answer,
    ):
        token_ids = (await answer.json())["tokens"]
    texts = []
    raw = generation_pb2.GenerateRequest(prompt=PROMPT)
    ids = generation_pb2.GenerateRequest(prompt_tokens=chat_pb2.TokenInput(token_ids=token_ids))
    for request in (raw, ids):
        request.MergeFrom(
            generation_pb2.GenerateRequest(
                model=serving.MODEL, sampling=GREEDY, max_output_tokens=8
            )
        )
        seen = await read_stream(gateway.stub.Generate(request, metadata=METADATA))
        assert seen.done is not None
        assert seen.done.usage.prompt_tokens == len(token_ids)
        texts.append(seen.texts)
    assert texts[0] == texts[1]
    counted = await gateway.stub.CountTokens(
        inference_pb2.CountTokensRequest(
            request=generation_pb2.GenerateRequest(model=serving.MODEL, prompt=PROMPT)
        ),
        metadata=METADATA,
    )
    assert (counted.prompt_tokens, counted.exact) == (len(token_ids), True)
    assert counted.context_tokens == 8192


async def test_a_prompt_beyond_the_context_is_the_clients_fault(gateway: Serving) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_stream(gateway.stub.Generate(chat_request("word " * 20_000), metadata=METADATA))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    bad = detail(caught.value, error_details_pb2.BadRequest)
    assert "8192" in bad.field_violations[0].description


async def test_a_long_limit_is_cut_to_the_context_not_refused(gateway: Serving) -> None:
    request = chat_request(PROMPT, sampling=GREEDY, max_output_tokens=8000, stop=["e"])
    seen = await read_stream(gateway.stub.Generate(request, metadata=METADATA))
    assert seen.done is not None


def test_the_suite_runs_on_the_version_it_claims(vllm_server: VllmProcess) -> None:
    assert f"version {VERSION}" in Path(vllm_server.log_path).read_text()
