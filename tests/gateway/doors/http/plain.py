"""The plainest dialect, for tests of what all dialects share."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from gateway.config.gateway import GatewayConfig
from gateway.domain.generation import Chat, Chunk, Generation, Message, Role
from gateway.domain.outcomes import Finished
from gateway.doors.entry.calls_in_progress import CallsInProgress
from gateway.doors.entry.key_limits import KeyLimits
from gateway.doors.entry.tenant_calls import TenantCalls
from gateway.doors.http.answers import json_answer, run_stream, run_whole
from gateway.doors.http.dialect import Dialect, ErrorShape, Route
from gateway.doors.http.errors import HttpError
from gateway.doors.http.exchange import Exchange
from gateway.doors.http.listening.port import HttpParts, HttpPort, http_port
from tests import serving
from tests.http_serving import BEARER, with_http
from tests.serving import Serving


class Body(msgspec.Struct, kw_only=True):
    """A body: a text, and whether its answer is streamed."""

    text: str
    stream: bool = False
    numbers: tuple[int, ...] = ()


class Lines:
    """Events of the plain dialect: one line each."""

    def opening(self) -> bytes:
        return b"data: open\n\n"

    def chunk(self, chunk: Chunk) -> bytes:
        texts = "".join(delta.text for delta in chunk.deltas)
        return f"data: {texts}\n\n".encode() if texts else b""

    def finished(self, finished: Finished) -> bytes:
        return b"data: end\n\n"

    def failed(self, error: HttpError) -> bytes:
        return f"data: failed {error.status} {error.code}\n\n".encode()


async def echo(exchange: Exchange) -> web.StreamResponse:
    body = await exchange.body(msgspec.json.Decoder(Body).decode)
    return json_answer(exchange, {"characters": len(body.text), "tenant": exchange.caller.tenant})


async def run(exchange: Exchange) -> web.StreamResponse:
    body = await exchange.body(msgspec.json.Decoder(Body).decode)
    generation = Generation(
        request_id=exchange.request_id,
        model=serving.MODEL,
        input=Chat(messages=(Message(role=Role.USER, parts=(body.text,)),)),
        max_output_tokens=exchange.output_tokens(serving.MODEL, None, 1, ""),
    )
    call = await exchange.generate_call(generation, whole_answer=not body.stream)
    if body.stream:
        return await run_stream(exchange, call, Lines(), ping=b": ping\n\n")
    choices, finished = await run_whole(exchange, call)
    return json_answer(exchange, {"text": choices[0].text, "model": finished.model})


def shape(error: HttpError, request_id: str) -> ErrorShape:
    body: dict[str, Any] = {"kind": error.kind, "message": error.message, "param": error.param}
    return ErrorShape(status=error.status, body=msgspec.json.encode(body), headers={"x-plain": "1"})


PLAIN = Dialect(
    name="plain",
    routes=(
        Route(method="POST", path="/plain/echo", handle=echo),
        Route(method="POST", path="/plain/run", handle=run, generates=True),
    ),
    is_spoken=lambda headers: True,
    error=shape,
)


def parts_of(served: Serving) -> HttpParts:
    front = served.gateway.front
    clock = served.gateway.pipeline._clock
    refused = served.gateway.telemetry.rpc_refused
    return HttpParts(
        active=front.active,
        pipeline=served.gateway.pipeline,
        port=served.gateway.scheduler,
        deliveries=front.deliveries,
        watches=front.watches,
        key_limits=KeyLimits(served.gateway.scheduler, clock, refused),
        in_progress=CallsInProgress(lambda: front.active.config.limits, refused),
        tenant_calls=TenantCalls(
            served.gateway.scheduler, lambda: front.active.config.limits, refused, lambda: ()
        ),
        telemetry=served.gateway.telemetry,
        certificates=front.certificates,
        clock=clock,
        batches=served.gateway.lane.desk,
    )


@contextlib.asynccontextmanager
async def plain_port(
    settings: GatewayConfig, *, ready: bool = True, **server: Any
) -> AsyncIterator[tuple[Serving, HttpPort, aiohttp.ClientSession]]:
    """A gateway, a port of its own that speaks the plain dialect, and a client with the key."""
    async with (
        serving.serving(with_http(settings, **server), ready=ready) as served,
        http_port(parts_of(served), (PLAIN,)) as port,
    ):
        assert port is not None
        async with aiohttp.ClientSession(f"http://{port.address}", headers=BEARER) as session:
            yield served, port, session
