"""Figures that a server tells of itself and that cannot be: unknown, and no other one's trouble."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from gateway.config.gateway import TimeoutsConfig
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Generation
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.vllm.client import VllmClient
from moegate.v1 import inference_pb2
from tests.raw_http import Exchange, raw_server
from tests.scripted import GOOD, Scripted, upstreams
from tests.serving import METADATA, Serving, chat_request, read_stream

ABSURD: list[Any] = [0, -5, 1 << 63, 10**30, 1.5e300, True, [], {}, "many", None]


async def context_tokens(gateway: Serving) -> int:
    """Of the one model, as the list of models tells it; 0: unknown."""
    listed = await gateway.stub.ListModels(inference_pb2.ListModelsRequest(), metadata=METADATA)
    [model] = listed.models
    return model.context_tokens


@pytest.mark.parametrize("told", ABSURD, ids=str)
async def test_a_context_that_cannot_be_is_unknown(told: Any) -> None:
    async with upstreams(Scripted(frames=GOOD, context_tokens=told)) as gateway:
        assert await context_tokens(gateway) == 0
        count = inference_pb2.CountTokensRequest(request=chat_request())
        counted = await gateway.stub.CountTokens(count, metadata=METADATA)
        assert not counted.context_tokens
        seen = await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
        assert seen.done is not None


@pytest.mark.parametrize("told", ["1000", 1000.0])
async def test_a_context_in_another_form_is_read(told: Any) -> None:
    async with upstreams(Scripted(frames=GOOD, context_tokens=told)) as gateway:
        assert await context_tokens(gateway) == 1000
        with pytest.raises(grpc.aio.AioRpcError, match="has 1000 tokens"):
            await gateway.stub.Generate(
                chat_request(max_output_tokens=1001), metadata=METADATA
            ).read()


@pytest.mark.parametrize(
    ("count", "right"),
    [("3", 3), ("3.0", 3), ('"3"', 3)]
    + [(text, None) for text in ("0", "-5", "null", "true", "9223372036854775808", "70000", "{}")],
)
async def test_a_count_of_tokens_that_cannot_be_is_none(count: str, right: int | None) -> None:
    async def answer(exchange: Exchange) -> None:
        body = f'{{"count":{count}}}'.encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
        await exchange.send(head.encode() + body)

    generation = Generation(request_id="r", model="moe", input="Hi there.", max_output_tokens=1)
    async with raw_server(answer) as server, HttpSession() as session:
        client = VllmClient(
            session=session,
            base_url=server.url,
            upstream_model="moe",
            api_key=None,
            timeouts=TimeoutsConfig(),
        )
        if right is not None:
            assert (await client.count_tokens(generation))[0] == right
            return
        with pytest.raises(UpstreamFailure, match="which cannot be") as caught:
            await client.count_tokens(generation)
        assert caught.value.kind is FailureKind.PROTOCOL
