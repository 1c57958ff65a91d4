"""Images of requests, from the client to the server that generates, on real sockets."""

from __future__ import annotations

import base64

import grpc
import pytest

from gateway.config.limits import LimitsConfig
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2, inference_pb2_grpc
from tests.misbehaving import Bench, Script, Side, misbehaving
from tests.serving import METADATA, MODEL, read_stream

PNG = b"\x89PNG\r\n\x1a\n"
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()
FAR = "https://images.example.com/a.png"


def looking_at(image: chat_pb2.ImagePart) -> generation_pb2.GenerateRequest:
    parts = [chat_pb2.ContentPart(text="What is it?"), chat_pb2.ContentPart(image=image)]
    message = chat_pb2.ChatMessage(role=chat_pb2.ROLE_USER, parts=parts)
    chat = chat_pb2.ChatInput(messages=[message])
    return generation_pb2.GenerateRequest(model=MODEL, chat=chat, max_output_tokens=8)


def sent_url(bench: Bench) -> str:
    (upstream,) = bench.upstreams
    (body,) = upstream.bodies
    url: str = body["messages"][0]["content"][1]["image_url"]["url"]
    return url


@pytest.mark.parametrize(
    "image",
    [chat_pb2.ImagePart(url=DATA_URL), chat_pb2.ImagePart(data=PNG, media_type="image/png")],
)
async def test_an_image_as_data_arrives(image: chat_pb2.ImagePart) -> None:
    async with misbehaving(Side.OPENAI, Script()) as bench:
        await read_stream(bench.served.stub.Generate(looking_at(image), metadata=METADATA))
        assert sent_url(bench) == DATA_URL


async def test_an_address_is_refused_by_every_rpc_and_reaches_no_server() -> None:
    request = looking_at(chat_pb2.ImagePart(url=FAR))
    async with misbehaving(Side.OPENAI, Script()) as bench:
        channel = bench.served.channel
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        calls = (
            lambda: read_stream(stub.Generate(request, metadata=METADATA)),
            lambda: stub.GenerateOnce(
                inference_pb2.GenerateOnceRequest(request=request), metadata=METADATA
            ),
            lambda: stub.Quote(inference_pb2.QuoteRequest(request=request), metadata=METADATA),
            lambda: stub.CountTokens(
                inference_pb2.CountTokensRequest(request=request), metadata=METADATA
            ),
        )
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "limits.image_url_hosts" in (caught.value.details() or "")
        assert bench.calls == 0


async def test_an_address_on_the_list_is_passed_on() -> None:
    limits = LimitsConfig(image_url_hosts=("images.example.com",))
    async with misbehaving(Side.OPENAI, Script(), limits=limits) as bench:
        request = looking_at(chat_pb2.ImagePart(url=FAR))
        await read_stream(bench.served.stub.Generate(request, metadata=METADATA))
        assert sent_url(bench) == FAR


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("data:image/png;base64,%%%", "not base64"),
        ("data:image/png,abc", "without base64"),
        ("data:image/png;base64", "without base64"),
        ("data:image/png;base64,", "empty"),
        ("data:text/html;base64,QQ==", "no image type"),
        ("data:image/svg+xml;base64,QQ==", "no type of a picture"),
        ("data:,", "without base64"),
        ("file:///etc/passwd", "not an https address"),
    ],
)
async def test_other_addresses_are_told_apart(url: str, word: str) -> None:
    async with misbehaving(Side.OPENAI, Script()) as bench:
        request = looking_at(chat_pb2.ImagePart(url=url))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_stream(bench.served.stub.Generate(request, metadata=METADATA))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert word in (caught.value.details() or "")
