"""The client of another moegate on a real socket: answers without end, encodings, proof of life."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import grpc
import pytest

from gateway.config.gateway import TimeoutsConfig
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk, FinishReason, Generation
from gateway.upstream.answer_bounds import bounds_of
from gateway.upstream.http.answer_size import max_answer_bytes
from gateway.upstream.moegate.client import Address, MoegateClient
from moegate.v1 import generation_pb2
from scheduler.contract import Usage

GENERATION = Generation(request_id="r", model="moe", input="hello", max_output_tokens=16)
PATIENT = TimeoutsConfig(connect_s=5.0, first_token_s=20.0, idle_s=20.0, total_s=60.0)

Messages = Callable[[], AsyncIterator[generation_pb2.GenerateResponse]]


def text(piece: str) -> generation_pb2.GenerateResponse:
    choice = generation_pb2.ChoiceDelta(index=0, text=piece)
    return generation_pb2.GenerateResponse(delta=generation_pb2.Delta(choices=[choice]))


@contextlib.asynccontextmanager
async def remote(messages: Messages, compression: grpc.Compression) -> AsyncIterator[str]:
    async def generate(
        request: object, context: object
    ) -> AsyncIterator[generation_pb2.GenerateResponse]:
        async for message in messages():
            yield message

    handler = grpc.unary_stream_rpc_method_handler(
        generate,
        request_deserializer=generation_pb2.GenerateRequest.FromString,
        response_serializer=generation_pb2.GenerateResponse.SerializeToString,
    )
    service = grpc.method_handlers_generic_handler(
        "moegate.v1.InferenceService", {"Generate": handler}
    )
    server = grpc.aio.server(compression=compression)
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def read(client: MoegateClient, got: list[Chunk]) -> None:
    at_s = asyncio.get_running_loop().time() + 60
    async with aclosing(client.stream(GENERATION, deadline_s=at_s)) as chunks:
        async for chunk in chunks:
            got.append(chunk)


async def failure(
    messages: Messages,
    timeouts: TimeoutsConfig = PATIENT,
    compression: grpc.Compression = grpc.Compression.NoCompression,
) -> tuple[UpstreamFailure, list[Chunk]]:
    got = list[Chunk]()
    async with remote(messages, compression) as target:
        client = MoegateClient(
            address=Address(target=target), upstream_model="m", api_key=None, timeouts=timeouts
        )
        try:
            with pytest.raises(UpstreamFailure) as caught:
                await read(client, got)
        finally:
            await client.close()
    return caught.value, got


async def test_an_answer_without_end_is_cut() -> None:
    async def messages() -> AsyncIterator[generation_pb2.GenerateResponse]:
        while True:
            yield text("x" * 1000)

    got = list[Chunk]()
    async with remote(messages, grpc.Compression.NoCompression) as target:
        client = MoegateClient(
            address=Address(target=target), upstream_model="m", api_key=None, timeouts=PATIENT
        )
        try:
            await read(client, got)
        finally:
            await client.close()
    size = sum(len(delta.text) for chunk in got for delta in chunk.deltas)
    assert size == bounds_of(GENERATION).most_bytes
    assert got[-2].deltas[-1].finish_reason is FinishReason.LENGTH
    assert got[-1].usage == Usage(prompt_tokens=2, completion_tokens=16, estimated=True)


async def test_messages_that_are_larger_than_any_answer_are_refused() -> None:
    async def messages() -> AsyncIterator[generation_pb2.GenerateResponse]:
        entry = generation_pb2.TokenLogprob(token="x" * 1000)
        choice = generation_pb2.ChoiceDelta(index=0, logprobs=[entry] * 500)
        for _ in range(256):
            yield generation_pb2.GenerateResponse(delta=generation_pb2.Delta(choices=[choice]))

    found, _ = await failure(messages)
    assert found.kind is FailureKind.PROTOCOL
    assert str(max_answer_bytes(GENERATION)) in found.message


async def test_a_compressed_answer_is_refused() -> None:
    async def messages() -> AsyncIterator[generation_pb2.GenerateResponse]:
        yield text("x" * (1 << 18))

    found, got = await failure(messages, compression=grpc.Compression.Gzip)
    assert found.kind in (FailureKind.PROTOCOL, FailureKind.SERVER_ERROR)
    assert got == []


@pytest.mark.parametrize("before", [True, False])
async def test_messages_without_output_end_at_their_own_bound(before: bool) -> None:
    async def messages() -> AsyncIterator[generation_pb2.GenerateResponse]:
        if not before:
            yield text("hi")
        end_s = time.monotonic() + 30
        while time.monotonic() < end_s:
            yield text("")
            await asyncio.sleep(0.05)

    timeouts = TimeoutsConfig(
        connect_s=5.0, first_token_s=0.3, idle_s=0.3, pings_first_s=0.7, pings_idle_s=0.7
    )
    found, _ = await failure(messages, timeouts)
    assert found.kind is FailureKind.TIMEOUT
    assert "no output, for 0.7 s" in found.message


async def test_a_message_of_very_many_parts_is_refused() -> None:
    async def messages() -> AsyncIterator[generation_pb2.GenerateResponse]:
        parts = [generation_pb2.ChoiceDelta(index=0)] * 5000
        yield generation_pb2.GenerateResponse(delta=generation_pb2.Delta(choices=parts))

    found, _ = await failure(messages)
    assert (found.kind, found.message) == (FailureKind.PROTOCOL, "5000 parts in one message")
