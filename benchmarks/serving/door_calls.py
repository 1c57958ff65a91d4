"""Calls of a gateway as clients make them: over gRPC and in each dialect of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.serving.overhead import METADATA, ask, configuration, process
from gateway.upstream.http.call import CallBounds, HttpRequest, open_response, read_some
from gateway.upstream.http.connections import HttpSession
from moegate.v1 import inference_pb2, inference_pb2_grpc

Call = Callable[[int, bool], Awaitable[None]]
"""Asks for an answer of so many tokens, streamed or not, and reads it whole."""
TEXT = "Tell me a story."
MESSAGES = [{"role": "user", "content": TEXT}]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A dialect of HTTP. `last`: stands in the last bytes of every whole stream, which ends at its
    output limit."""

    name: str
    path: str
    limit: str
    """Field of the output limit."""
    fields: dict[str, Any]
    last: bytes


CHAT = Dialect("Chat", "/v1/chat/completions", "max_tokens", {"messages": MESSAGES}, b"[DONE]")
RESPONSES = Dialect(
    "Responses",
    "/v1/responses",
    "max_output_tokens",
    {"input": TEXT, "store": False},
    b"response.incomplete",
)
ANTHROPIC = Dialect(
    "Messages", "/v1/messages", "max_tokens", {"messages": MESSAGES}, b"message_stop"
)
DIALECTS = (CHAT, RESPONSES, ANTHROPIC)


def http_call(session: HttpSession, dialect: Dialect, port: int, key: str) -> Call:
    """Asks as a client of the dialect does. `key`: empty: none."""
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if key:
        headers["Authorization"] = f"Bearer {key}"

    async def call(tokens: int, streamed: bool) -> None:
        body = {"model": "bench", dialect.limit: tokens, "stream": streamed, **dialect.fields}
        bounds = CallBounds(asyncio.get_running_loop().time(), first_s=60, idle_s=60, end_s=1e12)
        request = HttpRequest(
            session=session,
            url=f"http://127.0.0.1:{port}{dialect.path}",
            headers=headers,
            connect_s=10.0,
            body=msgspec.json.encode(body),
        )
        response = await open_response(request, bounds)
        end = b""
        try:
            while data := await read_some(response, bounds):
                end = (end + data)[-4096:]
        finally:
            bounds.close()
            response.close()
        if response.status != 200 or (streamed and dialect.last not in end):
            raise RuntimeError(f"status {response.status}, ends in {end[-300:]!r}")

    return call


def grpc_call(stub: inference_pb2_grpc.InferenceServiceAsyncStub) -> Call:
    """Asks through gRPC."""

    async def call(tokens: int, streamed: bool) -> None:
        if not streamed:
            once = inference_pb2.GenerateOnceRequest(request=ask(tokens))
            await stub.GenerateOnce(once, metadata=METADATA)
            return
        async for _ in stub.Generate(ask(tokens), metadata=METADATA):
            pass

    return call


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def both_ports(upstream_port: str, folder: Path) -> Iterator[tuple[int, str, int]]:
    """moegate with the default configuration: its process id, gRPC port and HTTP port."""
    http_port = free_port()
    file = folder / "moegate.yaml"
    file.write_text(
        configuration(upstream_port).replace(
            "server: {", f'server: {{http_listen: "127.0.0.1:{http_port}", '
        )
    )
    command = ("-m", "moegate", "serve", str(file), "--log-level", "ERROR")
    with process(*command) as (running, address):
        yield running.pid, address.rpartition(":")[2], http_port
