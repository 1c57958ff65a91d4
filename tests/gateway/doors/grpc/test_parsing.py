"""Raw bytes of requests: compressed or not, within bounds, or refused with what is wrong."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import grpc
import pytest

from gateway.config.limits import ElementLimitsConfig
from gateway.doors.grpc.errors import RpcError
from gateway.doors.grpc.parsing import parse_message
from gateway.doors.grpc.rpc_context import REQUEST_BYTES
from moegate.v1 import generation_pb2

MAX = 100_000
ELEMENTS = ElementLimitsConfig()
REQUEST = generation_pb2.GenerateRequest(model="moe", prompt="hello " * 10_000)
RAW = REQUEST.SerializeToString()


async def parse(raw: bytes, max_bytes: int = MAX) -> generation_pb2.GenerateRequest:
    return await parse_message(generation_pb2.GenerateRequest, raw, max_bytes, ELEMENTS)


async def refused(raw: bytes, max_bytes: int = MAX) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await parse(raw, max_bytes)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return caught.value


@pytest.mark.parametrize(
    "raw", [RAW, gzip.compress(RAW), zlib.compress(RAW), zlib.compress(RAW, 1)]
)
async def test_a_message_is_parsed_whether_compressed_or_not(raw: bytes) -> None:
    assert await parse(raw) == REQUEST
    assert await parse(raw, len(RAW)) == REQUEST
    assert "at most 60000 may be sent" in (await refused(raw, 60_000)).message


@pytest.mark.parametrize("squeeze", [gzip.compress, zlib.compress])
async def test_no_more_than_the_limit_is_inflated(squeeze: object) -> None:
    assert callable(squeeze)
    bomb = squeeze(bytes(64 << 20))
    tracemalloc.start()
    try:
        error = await refused(bomb, 1 << 20)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert f"{len(bomb)} bytes, which inflate to more" in error.message
    assert peak_bytes < 4 << 20


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff" * 40,
        RAW[:-1],
        gzip.compress(RAW)[:-9],
        gzip.compress(b"\xff" * 40),
        gzip.compress(RAW) + b"more",
        b"\x1f\x8b" + bytes(40),
        b"\x78\x9c" + b"\xff" * 40,
        generation_pb2.GenerateRequest(model="moe")
        .SerializeToString()
        .replace(b"moe", b"\xff\xfe\xfd"),
    ],
)
async def test_bytes_that_are_no_message_are_refused_with_what_was_expected(raw: bytes) -> None:
    error = await refused(raw)
    assert "no moegate.v1.GenerateRequest" in error.message
    assert len(error.message) < 200


async def test_a_message_that_begins_like_a_deflate_stream_is_no_such_stream() -> None:
    unknown_field_15 = b"\x78\x9c\x01"
    assert (await parse(unknown_field_15 + RAW)).model == "moe"


async def test_a_message_of_too_many_elements_is_refused() -> None:
    raw = b"\x12\xc0\x9a\x0c" + b"\x0a\x00" * 100_000  # chat of 100,000 empty messages
    error = await refused(raw, len(raw))
    assert error.message.startswith("chat.messages: more than 8192 messages")
    assert "limits.elements.messages" in error.message
    (_, info) = error.details
    assert info.reason == "TOO_MANY_ELEMENTS"  # type: ignore[attr-defined]
    assert (await refused(gzip.compress(raw), len(raw))).message == error.message


async def test_no_parser_sees_a_message_of_too_many_elements() -> None:
    parsed = []

    class Spy:
        DESCRIPTOR = generation_pb2.GenerateRequest.DESCRIPTOR

        @staticmethod
        def FromString(data: bytes) -> None:
            parsed.append(data)

    raw = b"\x12\xc0\x9a\x0c" + b"\x0a\x00" * 100_000
    with pytest.raises(RpcError):
        await parse_message(Spy, raw, len(raw), ELEMENTS)  # type: ignore[type-var]
    assert parsed == []
    await parse_message(Spy, RAW, len(RAW), ELEMENTS)  # type: ignore[type-var]
    assert parsed == [RAW]


async def test_the_size_of_the_inflated_request_is_known_afterwards() -> None:
    for raw in (RAW, gzip.compress(RAW)):
        REQUEST_BYTES.set(0)
        await parse(raw)
        assert REQUEST_BYTES.get() == len(RAW)
