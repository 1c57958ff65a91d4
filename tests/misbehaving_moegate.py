"""Another moegate that misbehaves on demand: a server behind a relay that breaks connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.json_format import MessageToDict

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.doors.grpc import errors
from moegate.v1 import generation_pb2 as pb
from scheduler.contract import Usage

if TYPE_CHECKING:
    from tests.misbehaving import Act, Upstream

Context = grpc.aio.ServicerContext[pb.GenerateRequest, bytes]


@contextlib.asynccontextmanager
async def over_grpc(upstream: Upstream) -> AsyncIterator[None]:
    """Serves it on a free port; `url` says where."""
    relay = Relay()

    async def generate(request: pb.GenerateRequest, context: Context) -> None:
        upstream.calls.append(asyncio.get_running_loop().time())
        metadata = context.invocation_metadata() or ()
        headers = {str(name): str(value) for name, value in metadata}
        upstream.headers.append({**headers, "grpc-timeout": str(context.time_remaining())})
        told: dict[str, Any] = MessageToDict(request, preserving_proto_field_name=True)
        upstream.bodies.append(told)
        try:
            await _play(upstream.script.act(), context, relay)
        except asyncio.CancelledError:
            upstream.left += 1
            raise

    server = grpc.aio.server()
    method = grpc.unary_stream_rpc_method_handler(
        generate,
        request_deserializer=pb.GenerateRequest.FromString,
        response_serializer=bytes,
    )
    service = grpc.method_handlers_generic_handler(
        "moegate.v1.InferenceService", {"Generate": method}
    )
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with relay.listening(port) as address:
            upstream.url = f"http://{address}"
            yield
    finally:
        await server.stop(0)


async def _play(act: Act, context: Context, relay: Relay) -> None:
    await asyncio.sleep(act.silent_s)
    if act.end == "reset":
        relay.abort()
        await asyncio.sleep(60)
    if act.status != 200:
        await _refuse(act, context)
    await context.send_initial_metadata(())
    await asyncio.sleep(act.first_token_s)
    for number in range(1, act.tokens + 1):
        await asyncio.sleep(act.pause_s)
        await context.write(_delta(pb.ChoiceDelta(text=f" w{number}")))
    match act.end:
        case "end" | "no_marker":
            await context.write(_delta(pb.ChoiceDelta(finish_reason=pb.FINISH_REASON_STOP)))
            if act.end == "end":
                await context.write(_done(act))
            elif act.usage is not None:
                await asyncio.sleep(60)  # neither the account nor the status ever come
        case "cut":
            await asyncio.sleep(0.05)  # what was written goes out first
            relay.abort()
            await asyncio.sleep(60)
        case "hang":
            await asyncio.sleep(60)
        case "garbage":
            await context.write(b"\xff\xff\xff")
        case "error":
            broke = UpstreamFailure(FailureKind.SERVER_ERROR, "it broke in the middle")
            usage = Usage(prompt_tokens=1, completion_tokens=act.tokens)
            await errors.abort(context, errors.partial_output(broke, usage))  # type: ignore[arg-type]


def _delta(choice: pb.ChoiceDelta) -> bytes:
    return pb.GenerateResponse(delta=pb.Delta(choices=[choice])).SerializeToString()


def _done(act: Act) -> bytes:
    done = pb.Done(model="m", request_id="answer-7")
    if act.usage is not None:
        done.usage.prompt_tokens, done.usage.completion_tokens = act.usage
    return pb.GenerateResponse(done=done).SerializeToString()


async def _refuse(act: Act, context: Context) -> None:
    retry_after_s = None if act.retry_after is None else float(act.retry_after)

    def failed(kind: FailureKind) -> errors.RpcError:
        return errors.from_failure(UpstreamFailure(kind, act.error))

    match act.status, act.error:
        case 400, "context":
            error = failed(FailureKind.CONTEXT_LENGTH)
        case 400, "filter":
            error = failed(FailureKind.CONTENT_FILTER)
        case 400, _:
            error = failed(FailureKind.BAD_REQUEST)
        case 401, _:
            error = errors.unauthenticated("no such key")
        case 402, _:
            error = errors.quota("budget", "all of it is spent", "BUDGET_SPENT", None)
        case 404, _:
            error = errors.unknown_model("m")
        case 408, _:
            error = failed(FailureKind.TIMEOUT)
        case 429, _:
            error = errors.exhausted("the queue is full", "QUEUE_FULL", retry_after_s)
        case 503, _:
            error = errors.unavailable("nothing serves", "UNAVAILABLE", retry_after_s)
        case 500, _:
            error = errors.RpcError(grpc.StatusCode.INTERNAL, "the gateway failed")
        case _:
            error = errors.RpcError(grpc.StatusCode.UNIMPLEMENTED, "another service")
    await errors.abort(context, error)  # type: ignore[arg-type]


class Relay:
    """Passes connections on, and breaks all of them when told. Without tasks of its own."""

    def __init__(self) -> None:
        self._open: set[asyncio.Transport] = set()

    def abort(self) -> None:
        """Breaks every connection."""
        for transport in tuple(self._open):
            transport.abort()

    @contextlib.asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[str]:
        """Relays to that port; gives its own address."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Near(self._open, port), "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            self.abort()


class _Side(asyncio.Protocol):
    """One end of a relayed connection."""

    def __init__(self, opened: set[asyncio.Transport]) -> None:
        self.opened = opened
        self.other: asyncio.Transport | None = None
        self.early = bytearray()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.opened.add(self.transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.early += data
        else:
            self.other.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        self.opened.discard(self.transport)
        if self.other is not None:
            self.other.abort()


class _Near(_Side):
    """The client's end, which connects the other one."""

    def __init__(self, opened: set[asyncio.Transport], port: int) -> None:
        super().__init__(opened)
        self._port = port
        self._connecting: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        far = _Side(self.opened)
        far.other = self.transport
        self.other, _ = await loop.create_connection(lambda: far, "127.0.0.1", self._port)
        self.other.write(bytes(self.early))
