"""Bounds of one answer on real sockets: bytes, encodings, and proof of life against output."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import zlib
from collections.abc import AsyncIterator

import msgspec
import pytest

from gateway.config.gateway import TimeoutsConfig
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk, FinishReason
from gateway.upstream.http.answer_size import OVERHEAD_BYTES, max_answer_bytes
from gateway.upstream.http.connections import HttpSession, upstream_session
from gateway.upstream.http.sse import SseReader
from gateway.upstream.http.stream import LARGE_EVENT_BYTES, MAX_EVENT_ELEMENTS, PART_BYTES
from gateway.upstream.vllm.client import MAX_ANSWER_BYTES, VllmClient
from tests.gateway.upstream.http.dialects import (
    DIALECTS,
    GENERATION,
    Anthropic,
    Dialect,
    OpenAI,
    run,
    text_of,
)
from tests.raw_http import HEAD, Answer, Exchange, raw_server

PATIENT = TimeoutsConfig(connect_s=5.0, first_token_s=20.0, idle_s=20.0, total_s=60.0)
BUFFERED_BYTES = 16 * 1024 * 1024
"""More than kernel and client hold between a server that writes and a client that closes."""

each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: type(d).__name__)


@pytest.fixture
async def session() -> AsyncIterator[HttpSession]:
    async with upstream_session() as session:
        yield session


def endless(first: bytes, piece: bytes, counted: list[int], stop_bytes: int = 1 << 28) -> Answer:
    """Sends `piece` until the client goes."""

    async def answer(exchange: Exchange) -> None:
        await exchange.send(HEAD + first)
        while counted[0] < stop_bytes:
            await exchange.send(piece)
            counted[0] += len(piece)
        exchange.writer.close()

    return answer


@each_dialect
async def test_text_without_end_ends_as_too_long(dialect: Dialect, session: HttpSession) -> None:
    counted, got = [0], list[Chunk]()
    piece = dialect.text("x" * 1000) * 64
    async with raw_server(endless(dialect.head(), piece, counted)) as server:
        text = await run(dialect, session, server.url, PATIENT, got)
    assert counted[0] < max_answer_bytes(GENERATION) + BUFFERED_BYTES
    assert 1000 < len(text) <= 64 * GENERATION.max_output_tokens + 2048
    reasons = [delta.finish_reason for chunk in got for delta in chunk.deltas]
    assert reasons[-1] is FinishReason.LENGTH
    usage = got[-1].usage
    assert usage is not None
    assert (usage.completion_tokens, usage.estimated) == (GENERATION.max_output_tokens, True)


@each_dialect
@pytest.mark.parametrize("kind", ["pings", "one event", "comments"])
async def test_an_answer_without_end_is_cut(
    dialect: Dialect, kind: str, session: HttpSession
) -> None:
    pieces = {
        "pings": dialect.signs_of_life()[1] * 1000,
        "one event": b"data: " + b"x" * 65536,
        "comments": b": " + b"x" * 65536,
    }
    first = b"data: " if kind == "one event" else dialect.head()
    counted, got = [0], list[Chunk]()
    async with raw_server(endless(first, pieces[kind], counted)) as server:
        with pytest.raises(UpstreamFailure) as caught:
            await run(dialect, session, server.url, PATIENT, got)
    assert caught.value.kind is FailureKind.PROTOCOL
    assert counted[0] < max_answer_bytes(GENERATION) + BUFFERED_BYTES
    assert len(text_of(got)) <= max_answer_bytes(GENERATION)


@each_dialect
async def test_a_complete_answer_is_kept_although_the_server_goes_on(
    dialect: Dialect, session: HttpSession
) -> None:
    first = dialect.head() + dialect.text("hi") + dialect.finish()
    counted, got = [0], list[Chunk]()
    async with raw_server(endless(first, b": " + b"x" * 4000 + b"\n\n", counted)) as server:
        assert await run(dialect, session, server.url, PATIENT, got) == "hi"
    assert got[-1].usage is not None
    assert counted[0] < max_answer_bytes(GENERATION) + BUFFERED_BYTES


@each_dialect
async def test_bytes_after_the_end_marker_are_not_read_for_long(
    dialect: Dialect, session: HttpSession
) -> None:
    first = dialect.head() + dialect.text("hi") + dialect.finish() + dialect.marker()
    counted, got = [0], list[Chunk]()
    async with raw_server(endless(first, b"x" * 65536, counted)) as server:
        assert await run(dialect, session, server.url, PATIENT, got) == "hi"
    assert counted[0] < OVERHEAD_BYTES + BUFFERED_BYTES


def test_the_bound_grows_with_what_was_asked_for() -> None:
    one = max_answer_bytes(GENERATION) - OVERHEAD_BYTES
    replace = msgspec.structs.replace
    assert max_answer_bytes(replace(GENERATION, choices=3)) - OVERHEAD_BYTES == 3 * one
    assert max_answer_bytes(replace(GENERATION, max_output_tokens=32)) - OVERHEAD_BYTES == 2 * one
    assert max_answer_bytes(replace(GENERATION, logprobs=20)) - OVERHEAD_BYTES > 4 * one


async def ask(client: VllmClient, path: str) -> None:
    match path:
        case "/metrics":
            await client.metrics()
        case "/v1/models":
            await client.list_models()
        case _:
            await client.count_tokens(GENERATION)


@pytest.mark.parametrize("path", ["/metrics", "/v1/models", "/tokenize"])
async def test_answers_about_the_server_are_bounded(path: str, session: HttpSession) -> None:
    counted = [0]
    async with raw_server(endless(b"", b"x" * 65536, counted)) as server:
        client = VllmClient(
            session=session,
            base_url=server.url,
            upstream_model="moe",
            api_key=None,
            timeouts=PATIENT,
        )
        with pytest.raises(UpstreamFailure, match=path) as caught:
            await ask(client, path)
    assert caught.value.kind is FailureKind.PROTOCOL
    assert counted[0] < 2 * MAX_ANSWER_BYTES + BUFFERED_BYTES


@each_dialect
async def test_the_body_of_an_error_is_bounded(dialect: Dialect, session: HttpSession) -> None:
    counted = [0]

    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 500 No\r\nConnection: close\r\n\r\n")
        while counted[0] < 1 << 28:
            await exchange.send(b"x" * 65536)
            counted[0] += 65536

    async with raw_server(answer) as server:
        with pytest.raises(UpstreamFailure) as caught:
            await run(dialect, session, server.url, PATIENT, [])
    assert caught.value.kind is FailureKind.SERVER_ERROR
    assert counted[0] < BUFFERED_BYTES


def encoded(coding: str, body: bytes) -> bytes:
    match coding:
        case "gzip" | "x-gzip" | "GZip":
            return gzip.compress(body)
        case "deflate":
            return zlib.compress(body)
        case _:
            return body


@each_dialect
@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize("header", ["Content-Encoding", "Transfer-Encoding"])
@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZip", "deflate", "br", "zstd", "foo"])
async def test_an_encoding_that_was_not_asked_for_is_refused(
    dialect: Dialect, status: int, header: str, coding: str, session: HttpSession
) -> None:
    stream = dialect.head() + dialect.text("hi") + dialect.finish() + dialect.marker()
    body = encoded(coding, stream + b": " + b"x" * (1 << 20))
    value = coding if header == "Content-Encoding" else f"{coding}, chunked"
    framing = b"" if header == "Transfer-Encoding" else b"Content-Length: %d\r\n" % len(body)
    if header == "Transfer-Encoding":
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    head = b"HTTP/1.1 %d X\r\nContent-Type: text/event-stream\r\nRetry-After: 7\r\n" % status

    async def answer(exchange: Exchange) -> None:
        assert b"accept-encoding: identity" in exchange.head.lower()
        await exchange.send(head + f"{header}: {value}\r\n".encode() + framing + b"\r\n" + body)

    async with raw_server(answer) as server:
        with pytest.raises(UpstreamFailure) as caught:
            await run(dialect, session, server.url, PATIENT, [])
    if status == 200:
        assert caught.value.kind is FailureKind.PROTOCOL
        assert coding in caught.value.message
    else:
        assert (caught.value.kind, caught.value.retry_after_s) == (FailureKind.BUSY, 7.0)


@each_dialect
@pytest.mark.parametrize("coding", ["identity", "", "utf-8"])
async def test_a_plain_body_is_read_whatever_its_header_calls_it(
    dialect: Dialect, coding: str, session: HttpSession
) -> None:
    stream = dialect.head() + dialect.text("hi") + dialect.finish() + dialect.marker()

    async def answer(exchange: Exchange) -> None:
        named = f"Content-Encoding: {coding}\r\n\r\n".encode()
        await exchange.send(HEAD.removesuffix(b"\r\n") + named + stream)
        exchange.writer.close()

    async with raw_server(answer) as server:
        assert await run(dialect, session, server.url, PATIENT, []) == "hi"


@each_dialect
@pytest.mark.parametrize("kind", ["many", "long", "endless line"])
async def test_heads_of_answers_are_bounded(
    dialect: Dialect, kind: str, session: HttpSession
) -> None:
    counted = [0]

    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n")
        for i in itertools.count():
            piece = {
                "many": b"X-%d: y\r\n" % i,
                "long": b"X-%d: %b\r\n" % (i, b"y" * 65536),
                "endless line": b"y" * 65536,
            }[kind]
            await exchange.send(piece)
            counted[0] += len(piece)
            if counted[0] > 1 << 28:
                return

    async with raw_server(answer) as server:
        with pytest.raises(UpstreamFailure) as caught:
            await run(dialect, session, server.url, PATIENT, [])
    assert caught.value.kind in (FailureKind.PROTOCOL, FailureKind.SERVER_ERROR)
    assert counted[0] < BUFFERED_BYTES


@each_dialect
async def test_a_head_that_comes_too_slowly_times_out(
    dialect: Dialect, session: HttpSession
) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\n")
        for i in range(200):
            await exchange.send(b"X-%d: y\r\n" % i)
            await asyncio.sleep(0.05)

    timeouts = msgspec.structs.replace(PATIENT, first_token_s=0.3, pings_first_s=30.0)
    async with raw_server(answer) as server:
        with pytest.raises(UpstreamFailure) as caught:
            await run(dialect, session, server.url, timeouts, [])
    assert caught.value.kind is FailureKind.TIMEOUT


SHORT = TimeoutsConfig(
    connect_s=5.0, first_token_s=1.0, idle_s=1.0, pings_first_s=20.0, pings_idle_s=2.0, total_s=60.0
)
"""Ten times the time between two signs of life: a busy machine is not silent for so long."""


def living(before: int, after: int, dialect: Dialect, kind: int, end: bool) -> Answer:
    """Signs of life before the first text and after it, each 0.1 s; then an end, or silence."""

    async def answer(exchange: Exchange) -> None:
        sign = dialect.signs_of_life()[kind]
        await exchange.send(HEAD + dialect.head())
        for _ in range(before):
            await asyncio.sleep(0.1)
            await exchange.send(sign)
        await exchange.send(dialect.text("hi"))
        for _ in range(after):
            await asyncio.sleep(0.1)
            await exchange.send(sign)
        if not end:
            await asyncio.sleep(60)
        await exchange.send(dialect.text("!") + dialect.finish() + dialect.marker())
        exchange.writer.close()

    return answer


each_sign = pytest.mark.parametrize("kind", [0, 1, 2])


@each_dialect
@each_sign
async def test_hidden_reasoning_survives_while_the_server_shows_that_it_lives(
    dialect: Dialect, kind: int, session: HttpSession
) -> None:
    timeouts = msgspec.structs.replace(SHORT, pings_idle_s=20.0)
    async with raw_server(living(12, 12, dialect, kind, end=True)) as server:
        assert await run(dialect, session, server.url, timeouts, []) == "hi!"


@each_dialect
@each_sign
async def test_signs_of_life_alone_end_at_their_own_bound(
    dialect: Dialect, kind: int, session: HttpSession
) -> None:
    timeouts = msgspec.structs.replace(SHORT, pings_first_s=2.0)
    async with raw_server(living(300, 0, dialect, kind, end=True)) as server:
        with pytest.raises(UpstreamFailure, match="no output, for 2 s") as caught:
            await run(dialect, session, server.url, timeouts, [])
    assert caught.value.kind is FailureKind.TIMEOUT


@each_dialect
@each_sign
async def test_after_text_signs_of_life_do_not_keep_a_dead_stream(
    dialect: Dialect, kind: int, session: HttpSession
) -> None:
    got = list[Chunk]()
    async with raw_server(living(0, 300, dialect, kind, end=True)) as server:
        with pytest.raises(UpstreamFailure, match="no output, for 2 s") as caught:
            await run(dialect, session, server.url, SHORT, got)
    assert (caught.value.kind, text_of(got)) == (FailureKind.TIMEOUT, "hi")


@each_dialect
@pytest.mark.parametrize(("before", "after"), [(0, 0), (0, 3)])
async def test_a_server_that_falls_silent_after_its_signs_of_life_times_out(
    dialect: Dialect, before: int, after: int, session: HttpSession
) -> None:
    async with raw_server(living(before, after, dialect, 0, end=False)) as server:
        with pytest.raises(UpstreamFailure, match="silent for 1 s") as caught:
            await run(dialect, session, server.url, SHORT, [])
    assert caught.value.kind is FailureKind.TIMEOUT


@each_dialect
async def test_a_server_that_is_silent_from_the_head_on_times_out(
    dialect: Dialect, session: HttpSession
) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(HEAD + dialect.head())
        await asyncio.sleep(60)

    async with raw_server(answer) as server:
        with pytest.raises(UpstreamFailure, match="no output within 1 s") as caught:
            await run(dialect, session, server.url, SHORT, [])
    assert caught.value.kind is FailureKind.TIMEOUT


@each_dialect
async def test_after_the_finish_signs_of_life_hold_nobody(
    dialect: Dialect, session: HttpSession
) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(HEAD + dialect.head() + dialect.text("hi") + dialect.finish())
        while True:
            await asyncio.sleep(0.1)
            await exchange.send(b": keep-alive\n\n")

    timeouts = msgspec.structs.replace(SHORT, pings_idle_s=30.0)
    async with raw_server(answer) as server, asyncio.timeout(10):
        assert await run(dialect, session, server.url, timeouts, []) == "hi"


@each_dialect
@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        (b"Retry-After: 20s\r\n", b"", 20.0),
        (b"retry-after-ms: 250\r\nRetry-After: 1\r\n", b"", 0.25),
        (b"x-ratelimit-reset-requests: 1m30s\r\n", b"", 90.0),
        (b"X-RateLimit-Remaining: 0\r\nX-RateLimit-Reset: 12\r\n", b"", 12.0),
        (b"", b'[{"error": {"code": 429, "details": [{"retryDelay": "20s"}]}}]', 20.0),
        (b"", b'{"error": {"message": "Please try again in 1.5s."}}', 1.5),
        (b"Retry-After: 100000000000000000000000000\r\n", b"", 3600.0),
    ],
)
async def test_a_refusal_says_how_long_to_wait(
    dialect: Dialect, headers: bytes, body: bytes, seconds: float, session: HttpSession
) -> None:
    async def answer(exchange: Exchange) -> None:
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        await exchange.send(b"HTTP/1.1 429 Slow\r\n" + headers + length + body)

    async with raw_server(answer) as server:
        with pytest.raises(UpstreamFailure) as caught:
            await run(dialect, session, server.url, PATIENT, [])
    assert caught.value.kind is FailureKind.BUSY
    assert caught.value.retry_after_s == pytest.approx(seconds)


@each_dialect
@pytest.mark.parametrize("event", [b"\n", b"data: {}\n\n", b"data:\n\n", b"id: x\n\n"])
async def test_a_flood_of_small_events_is_decoded_in_parts(
    dialect: Dialect, event: bytes, session: HttpSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list[int]()
    decode = SseReader.feed

    def feed(self: SseReader, data: bytes) -> list[bytes]:
        sizes.append(len(data))
        return decode(self, data)

    monkeypatch.setattr(SseReader, "feed", feed)
    counted, got = [0], list[Chunk]()
    flood = endless(dialect.head(), event * (65536 // len(event)), counted)
    async with raw_server(flood) as server:
        with pytest.raises(UpstreamFailure) as caught:
            await run(dialect, session, server.url, PATIENT, got)
    assert caught.value.kind is FailureKind.PROTOCOL
    assert max(sizes) <= PART_BYTES


@each_dialect
async def test_an_answer_that_comes_at_once_is_whole(
    dialect: Dialect, session: HttpSession
) -> None:
    words = [f" w{i}" for i in range(2000)]
    stream = dialect.head() + b"".join(map(dialect.text, words)) + dialect.finish()

    async def answer(exchange: Exchange) -> None:
        await exchange.send(HEAD + stream + dialect.marker())
        exchange.writer.close()

    generation = msgspec.structs.replace(GENERATION, max_output_tokens=4000)
    async with raw_server(answer) as server:
        text = await run(dialect, session, server.url, PATIENT, [], generation)
    assert text == "".join(words)


@each_dialect
async def test_an_event_of_very_many_elements_is_not_decoded(
    dialect: Dialect, session: HttpSession
) -> None:
    many = b",".join([b"{}"] * (MAX_EVENT_ELEMENTS + 1))
    event = b'data: {"type": "x", "choices": [' + many + b" " * LARGE_EVENT_BYTES + b"]}\n\n"

    async def answer(exchange: Exchange) -> None:
        await exchange.send(HEAD + dialect.head() + event)
        exchange.writer.close()

    async with raw_server(answer) as server:
        with pytest.raises(UpstreamFailure, match="20000 elements") as caught:
            await run(dialect, session, server.url, PATIENT, [])
    assert caught.value.kind is FailureKind.PROTOCOL


def of_type(media_type: bytes, *pieces: bytes) -> Answer:
    """An answer of this content type, in pieces."""

    async def answer(exchange: Exchange) -> None:
        await exchange.send(HEAD.replace(b"text/event-stream", media_type))
        for piece in pieces:
            await exchange.send(piece)
            await asyncio.sleep(0.01)
        exchange.writer.close()

    return answer


@each_dialect
@pytest.mark.parametrize("media_type", [b"text/plain", b"application/json", b"", b"binary/x"])
@pytest.mark.parametrize("first", [b"", b"\r\n\n", b": hello\n\n", b"retry: 5\n\n"])
async def test_events_of_another_content_type(
    dialect: Dialect, media_type: bytes, first: bytes, session: HttpSession
) -> None:
    stream = first + dialect.head() + dialect.text("hi") + dialect.finish() + dialect.marker()
    got: list[Chunk] = []
    async with raw_server(of_type(media_type, stream[:3], stream[3:9], stream[9:])) as server:
        assert await run(dialect, session, server.url, PATIENT, got) == "hi"


WHOLE = {
    "id": "x",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "hi",
                "reasoning_content": "hm",
                "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": '{"a":1}'}}],
            },
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 7},
}


MESSAGE = {
    "id": "x",
    "type": "message",
    "role": "assistant",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "hi"},
        {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 5, "output_tokens": 7},
}


@pytest.mark.parametrize(
    ("dialect", "answer"), [(OpenAI(), WHOLE), (Anthropic(), MESSAGE)], ids=["openai", "anthropic"]
)
async def test_an_answer_that_comes_whole_although_a_stream_was_asked_for(
    dialect: Dialect, answer: object, session: HttpSession
) -> None:
    text = msgspec.json.format(msgspec.json.encode(answer), indent=2)
    got: list[Chunk] = []
    async with raw_server(of_type(b"application/json", text[:40], text[40:])) as server:
        assert await run(dialect, session, server.url, PATIENT, got) == "hi"
    deltas = [delta for chunk in got for delta in chunk.deltas]
    assert "".join(delta.reasoning_text for delta in deltas) == "hm"
    assert deltas[-1].finish_reason is FinishReason.TOOL_CALLS
    [call] = [call for delta in deltas for call in delta.tool_calls]
    assert (call.name, call.arguments_json) == ("f", '{"a":1}')
    usage = got[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == (5, 7, False)


@pytest.mark.parametrize(
    "body", [b"", b"hi", b"<html>", b"[]", b'{"choices": []}', b'{"choices": [']
)
async def test_another_content_type_without_an_answer(body: bytes, session: HttpSession) -> None:
    async with raw_server(of_type(b"application/json", body)) as server:
        with pytest.raises(
            UpstreamFailure, match="application/json, not an event stream"
        ) as caught:
            await run(OpenAI(), session, server.url, PATIENT, [])
    assert caught.value.kind is FailureKind.PROTOCOL
