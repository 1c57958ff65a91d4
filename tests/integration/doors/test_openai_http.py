"""The HTTP client against servers on loopback that answer well, badly, late or not at all."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.config.gateway import TimeoutsConfig
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chat, Chunk, Generation, Message, Role
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.openai.client import OpenAIClient
from gateway.upstream.vllm.client import ListedModel, VllmClient
from scheduler.contract import Usage

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "vllm_0_32"
STREAM = (GOLDEN / "chat_stream_continuous_usage.sse").read_bytes()
GENERATION = Generation(
    request_id="req-1",
    model="moe",
    input=Chat(messages=(Message(role=Role.USER, parts=("Hello",)),)),
    max_output_tokens=8,
)
PATIENT_S = 30.0
"""Bound on waits that should not take long: only a broken test gets there."""

Client = VllmClient | OpenAIClient
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def frame(content: str, finish: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **fields}).encode() + b"\n\n"


@pytest.fixture
async def session() -> AsyncIterator[HttpSession]:
    async with HttpSession() as session:
        yield session
        assert session.busy_connections == 0, "a connection was not given back"


@asynccontextmanager
async def upstream(handler: Handler) -> AsyncIterator[str]:
    """A server whose every path is answered by `handler`; gives its URL."""
    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", handler)
    # The cancellation of a handler is how it sees that its client is gone.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_upstream(answer: bytes, *, then_hang: bool = False) -> AsyncIterator[str]:
    """A server that reads a request, writes bytes as they are, and closes or hangs."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if answer:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split()[0])
                await reader.readexactly(length)
                writer.write(answer)
                await writer.drain()
            if then_hang:
                await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"{host}:{port}"


def backend(session: HttpSession, url: str, **fields: Any) -> VllmClient:
    return VllmClient(session=session, base_url=url, **settings(**fields))


def remote(session: HttpSession, url: str, **fields: Any) -> OpenAIClient:
    return OpenAIClient(session=session, base_url=f"{url}/v1", **settings(**fields))


def settings(**fields: Any) -> dict[str, Any]:
    return {
        "upstream_model": "tiny-moe",
        "api_key": "sk-secret",
        "timeouts": TimeoutsConfig(first_token_s=PATIENT_S, idle_s=PATIENT_S),
        **fields,
    }


async def collect(
    client: Client, generation: Generation = GENERATION, *, deadline_s: float = PATIENT_S
) -> list[Chunk]:
    at_s = asyncio.get_running_loop().time() + deadline_s
    async with aclosing(client.stream(generation, deadline_s=at_s)) as chunks:
        return [chunk async for chunk in chunks]


async def failure_of(client: Client, *, deadline_s: float = PATIENT_S) -> UpstreamFailure:
    with pytest.raises(UpstreamFailure) as caught:
        await collect(client, deadline_s=deadline_s)
    assert "sk-secret" not in str(caught.value)
    return caught.value


def text_of(chunks: list[Chunk]) -> str:
    return "".join(delta.text for chunk in chunks for delta in chunk.deltas)


def sse(*pieces: bytes, then: Callable[[], Awaitable[None]] | None = None) -> Handler:
    """Writes an event stream in these pieces."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            # Lets the piece leave by itself.
            await asyncio.sleep(0)
        if then is not None:
            await then()
        return response

    return handler


async def hang() -> None:
    await asyncio.Event().wait()


def answer(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers=headers)

    return handler


@pytest.mark.parametrize("size", [1, 7, 100, len(STREAM)])
async def test_a_stream_split_anywhere(session: HttpSession, size: int) -> None:
    pieces = [STREAM[i : i + size] for i in range(0, len(STREAM), size)]
    async with upstream(sse(*pieces)) as url:
        chunks = await collect(backend(session, url))
    assert text_of(chunks) == " chiel  flaind� flichainhien11"
    *others, last = chunks
    assert last.usage == Usage(prompt_tokens=15, completion_tokens=8, cached_tokens=0)
    assert all(chunk.usage is None for chunk in others)
    assert others[-1].output_tokens == 8
    assert last.model == "tiny-moe"


async def test_what_is_sent(session: HttpSession) -> None:
    requests: list[tuple[web.Request, Any]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        requests.append((request, await request.json()))
        return await sse(STREAM)(request)

    async with upstream(handler) as url:
        await collect(backend(session, url + "/"))
    [(request, body)] = requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["X-Request-Id"] == "req-1"
    assert request.headers["Authorization"] == "Bearer sk-secret"
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.content_type == "application/json"
    assert body["model"] == "tiny-moe"
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}


async def test_no_key_no_header(session: HttpSession) -> None:
    headers: list[Any] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        headers.append(request.headers)
        return await sse(STREAM)(request)

    async with upstream(handler) as url:
        await collect(backend(session, url, api_key=None))
    assert "Authorization" not in headers[0]


async def test_large_prompts(session: HttpSession) -> None:
    sizes: list[int] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        sizes.append(len((await request.json())["prompt"]))
        return await sse(frame("a", "stop"), b"data: [DONE]\n\n")(request)

    generation = Generation(request_id="r", model="moe", input="x" * (3 << 20), max_output_tokens=1)
    async with upstream(handler) as url:
        await collect(backend(session, url), generation)
    assert sizes == [3 << 20]


async def test_one_connection_serves_streams_one_after_the_other(
    session: HttpSession,
) -> None:
    peers: set[object] = set()

    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return await sse(STREAM)(request)

    async with upstream(handler) as url:
        for _ in range(3):
            await collect(backend(session, url))
    assert len(peers) == 1


async def test_an_end_that_trails_done_is_not_waited_for(session: HttpSession) -> None:
    async with upstream(sse(STREAM, then=hang)) as url:
        chunks = await collect(backend(session, url))
    assert chunks[-1].usage is not None


@pytest.mark.parametrize("way", ["cancel", "close"])
async def test_leaving_a_stream_closes_its_connection(session: HttpSession, way: str) -> None:
    gone = asyncio.Event()

    async def until_gone() -> None:
        try:
            await hang()
        finally:
            gone.set()

    got_one = asyncio.Event()

    async def consume(client: Client) -> None:
        at_s = asyncio.get_running_loop().time() + PATIENT_S
        async with aclosing(client.stream(GENERATION, deadline_s=at_s)) as chunks:
            async for _ in chunks:
                got_one.set()
                if way == "close":
                    break

    async with upstream(sse(frame("a"), then=until_gone)) as url, asyncio.timeout(PATIENT_S):
        task = asyncio.create_task(consume(backend(session, url)))
        await got_one.wait()
        if way == "cancel":
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() == (way == "cancel")
        await gone.wait()


async def test_cancelling_before_the_headers_closes_the_connection(
    session: HttpSession,
) -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        arrived.set()
        try:
            await hang()
        finally:
            gone.set()
        raise AssertionError

    async with upstream(handler) as url, asyncio.timeout(PATIENT_S):
        task = asyncio.create_task(collect(backend(session, url)))
        await arrived.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await gone.wait()


@pytest.mark.parametrize(
    ("status", "body", "kind", "param"),
    [
        (400, "error_context_overflow.json", FailureKind.CONTEXT_LENGTH, "input_tokens"),
        (404, "error_unknown_model.json", FailureKind.MODEL_NOT_FOUND, "model"),
        (500, "error_unknown_model.json", FailureKind.SERVER_ERROR, "model"),
    ],
)
async def test_http_errors(
    session: HttpSession, status: int, body: str, kind: FailureKind, param: str
) -> None:
    async with upstream(answer((GOLDEN / body).read_bytes(), status)) as url:
        failure = await failure_of(backend(session, url))
    assert (failure.kind, failure.param) == (kind, param)


async def test_busy_with_retry_after(session: HttpSession) -> None:
    async with upstream(answer(b'{"error": "full"}', 503, {"Retry-After": "7"})) as url:
        failure = await failure_of(backend(session, url))
    assert failure.kind is FailureKind.BUSY
    assert failure.retry_after_s == 7.0
    assert failure.message == "HTTP 503: full"


async def test_redirects_are_not_followed(session: HttpSession) -> None:
    paths: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        paths.append(request.path)
        raise web.HTTPTemporaryRedirect("/elsewhere")

    async with upstream(handler) as url:
        failure = await failure_of(backend(session, url))
    assert failure.kind is FailureKind.PROTOCOL
    assert "redirect" in failure.message
    assert paths == ["/v1/chat/completions"]


async def test_a_huge_error_body_is_not_read_whole(session: HttpSession) -> None:
    sent: list[int] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=500)
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)
            sent.append(65536)

    async with upstream(handler) as url:
        failure = await failure_of(backend(session, url))
    assert failure.message == "HTTP 500"


@pytest.mark.parametrize(
    ("pieces", "kind", "words"),
    [
        ([frame("a")], FailureKind.SERVER_ERROR, "cut"),
        ([frame("a"), b"data: [DONE]\n\n"], FailureKind.SERVER_ERROR, "cut"),
        ([b"data: [DONE]\n\n"], FailureKind.SERVER_ERROR, "cut"),
        ([frame("a"), b"data: {\n\n"], FailureKind.PROTOCOL, "JSON"),
        ([b"data: ", b"x" * (2 << 20)], FailureKind.PROTOCOL, "1048576"),
        (
            [frame("a"), b'data: {"error": {"message": "dead", "code": 500}}\n\ndata: [DONE]\n\n'],
            FailureKind.SERVER_ERROR,
            "dead",
        ),
    ],
)
async def test_broken_streams(
    session: HttpSession, pieces: list[bytes], kind: FailureKind, words: str
) -> None:
    async with upstream(sse(*pieces)) as url:
        failure = await failure_of(backend(session, url))
    assert failure.kind is kind
    assert words in failure.message


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"choices": []}', FailureKind.PROTOCOL),
        (b'{"error": {"message": "no", "code": 400}}', FailureKind.BAD_REQUEST),
    ],
)
async def test_another_content_type(session: HttpSession, body: bytes, kind: FailureKind) -> None:
    async with upstream(answer(body, headers={"Content-Type": "application/json"})) as url:
        assert (await failure_of(backend(session, url))).kind is kind


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.parametrize(
    ("bytes_sent", "kind"),
    [
        (HEAD + chunked(frame("a")), FailureKind.SERVER_ERROR),
        (HEAD + b"zz\r\n", FailureKind.PROTOCOL),
        (HEAD[:30], FailureKind.SERVER_ERROR),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", FailureKind.PROTOCOL),
    ],
)
async def test_connections_that_break(
    session: HttpSession, bytes_sent: bytes, kind: FailureKind
) -> None:
    async with raw_upstream(bytes_sent) as address:
        assert (await failure_of(backend(session, f"http://{address}"))).kind is kind


async def test_a_refused_connection(session: HttpSession) -> None:
    async with raw_upstream(b"") as address:
        pass
    failure = await failure_of(backend(session, f"http://{address}"))
    assert failure.kind is FailureKind.CONNECT
    assert address not in failure.message


async def test_the_connect_timeout(session: HttpSession) -> None:
    # A TLS handshake that gets no answer: connecting takes for ever, on any machine.
    async with raw_upstream(b"", then_hang=True) as address:
        failure = await failure_of(
            backend(session, f"https://{address}", timeouts=TimeoutsConfig(connect_s=0.05))
        )
    assert failure.kind is FailureKind.CONNECT
    assert failure.message == "no connection within 0.05 s"


async def test_a_stall_of_this_process_is_not_the_servers(session: HttpSession) -> None:
    async with upstream(sse(STREAM)) as url:
        client = backend(session, url, timeouts=TimeoutsConfig(connect_s=0.05))
        collecting = asyncio.create_task(collect(client))
        # The connection is under way, then nothing runs until long after the timer was due.
        await asyncio.sleep(0)
        time.sleep(0.6)  # noqa: ASYNC251
        assert text_of(await collecting)


async def hang_at_once(request: web.Request) -> web.StreamResponse:
    await hang()
    raise AssertionError


ROLE = b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n'


@pytest.mark.parametrize(
    "handler",
    [hang_at_once, sse(then=hang), sse(b": ping\n\n", then=hang), sse(ROLE, then=hang)],
    ids=["no headers", "no bytes", "a comment", "a role"],
)
async def test_the_first_token_timeout(session: HttpSession, handler: Handler) -> None:
    timeouts = TimeoutsConfig(first_token_s=0.05)
    async with upstream(handler) as url:
        failure = await failure_of(backend(session, url, timeouts=timeouts))
    assert failure.kind is FailureKind.TIMEOUT
    assert failure.message == "no output within 0.05 s"


async def test_the_idle_timeout(session: HttpSession) -> None:
    timeouts = TimeoutsConfig(idle_s=0.05, first_token_s=PATIENT_S)
    async with upstream(sse(frame("a"), then=hang)) as url:
        failure = await failure_of(backend(session, url, timeouts=timeouts))
    assert failure.kind is FailureKind.TIMEOUT
    assert "silent for 0.05 s" in failure.message


async def test_comments_are_no_sign_of_life(session: HttpSession) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(frame("a"))
        while True:
            await response.write(b": ping\n\n")
            await asyncio.sleep(0.01)

    async with upstream(handler) as url:
        failure = await failure_of(backend(session, url, timeouts=TimeoutsConfig(idle_s=0.1)))
    assert failure.kind is FailureKind.TIMEOUT


async def test_the_time_of_a_slow_consumer_is_not_the_servers(
    session: HttpSession,
) -> None:
    release = asyncio.Event()

    async def later() -> None:
        await release.wait()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(frame("a"))
        await later()
        await response.write(frame("b", "stop") + b"data: [DONE]\n\n")
        return response

    client_timeouts = TimeoutsConfig(idle_s=1.0)
    async with upstream(handler) as url:
        at_s = asyncio.get_running_loop().time() + PATIENT_S
        client = backend(session, url, timeouts=client_timeouts)
        texts = []
        async with aclosing(client.stream(GENERATION, deadline_s=at_s)) as chunks:
            async for chunk in chunks:
                texts.append(text_of([chunk]))
                if not release.is_set():
                    await asyncio.sleep(1.2)
                    release.set()
    assert texts == ["a", "b", ""]


@pytest.mark.parametrize("pieces", [[], [frame("a")]])
@pytest.mark.parametrize("bound", ["deadline", "total"])
async def test_the_deadline(session: HttpSession, pieces: list[bytes], bound: str) -> None:
    timeouts = TimeoutsConfig(total_s=0.05 if bound == "total" else PATIENT_S)
    deadline_s = 0.05 if bound == "deadline" else PATIENT_S
    async with upstream(sse(*pieces, then=hang)) as url:
        failure = await failure_of(backend(session, url, timeouts=timeouts), deadline_s=deadline_s)
    assert failure.kind is FailureKind.DEADLINE
    assert not failure.retryable


async def test_nothing_is_sent_after_the_deadline(session: HttpSession) -> None:
    client = backend(session, "http://127.0.0.1:1")
    assert (await failure_of(client, deadline_s=-1.0)).kind is FailureKind.DEADLINE


@pytest.mark.parametrize("ending", ["idle", "broken"])
async def test_a_whole_answer_survives_the_loss_of_its_usage(
    session: HttpSession, ending: str
) -> None:
    whole = HEAD + chunked(frame("a" * 40, "stop"))
    async with raw_upstream(whole, then_hang=ending == "idle") as address:
        client = remote(
            session,
            f"http://{address}",
            timeouts=TimeoutsConfig(idle_s=0.05),
        )
        chunks = await collect(client)
    assert text_of(chunks) == "a" * 40
    assert chunks[-1].usage == Usage(prompt_tokens=2, completion_tokens=10, estimated=True)


async def test_small_questions(session: HttpSession) -> None:
    asked: list[tuple[str, str, Any]] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.method == "POST" else None
        asked.append((request.method, request.path, body))
        files = {"/tokenize": "tokenize.json", "/v1/models": "models.json"}
        name = files.get(request.path, "metrics.txt")
        return web.Response(body=(GOLDEN / name).read_bytes())

    async with upstream(handler) as url:
        client = backend(session, url)
        assert await client.count_tokens(GENERATION) == (15, 8192)
        assert await client.list_models() == {"tiny-moe": ListedModel(8192)}
        assert await client.metrics() == (GOLDEN / "metrics.txt").read_bytes()
        ids = Generation(request_id="r", model="moe", input=(1, 2, 3), max_output_tokens=1)
        assert await client.count_tokens(ids) == (3, None)
    message = {"role": "user", "content": "Hello"}
    assert asked == [
        ("POST", "/tokenize", {"model": "tiny-moe", "messages": [message]}),
        ("GET", "/v1/models", None),
        ("GET", "/metrics", None),
    ]


async def test_small_questions_fail_alike(session: HttpSession) -> None:
    async def kind_of(handler: Handler) -> FailureKind:
        async with upstream(handler) as url:
            client = backend(session, url, control_timeout_s=0.2)
            with pytest.raises(UpstreamFailure) as caught:
                await client.list_models()
        return caught.value.kind

    assert await kind_of(answer(b"{}")) is FailureKind.PROTOCOL
    assert await kind_of(answer(b"no", 503)) is FailureKind.BUSY
    assert await kind_of(hang_at_once) is FailureKind.TIMEOUT


async def test_small_questions_have_bounded_answers(session: HttpSession) -> None:
    async with upstream(answer(b"x" * (5 << 20))) as url:
        with pytest.raises(UpstreamFailure, match="more than 4194304 bytes") as caught:
            await backend(session, url).metrics()
    assert caught.value.kind is FailureKind.PROTOCOL


async def test_an_unsupported_generation_is_the_callers_mistake(
    session: HttpSession,
) -> None:
    ids = Generation(request_id="r", model="moe", input=(1, 2, 3), max_output_tokens=1)
    with pytest.raises(ValueError, match="prompt_tokens"):
        await collect(remote(session, "http://127.0.0.1:1"), ids)
