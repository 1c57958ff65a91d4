"""A server with vLLM's gRPC service `vllm.Control`, that answers what the test gives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc

from gateway.upstream.vllm_grpc.control_pb2 import GetServerInfoRequest

Answer = Callable[[], bytes | grpc.StatusCode]
"""The bytes of an answer, or the status of a refusal."""


@dataclass
class ControlServer:
    """One that listens; `calls`: how often it was asked. Without `answer` it stays silent."""

    port: int = 0
    answer: Answer | None = None
    calls: int = 0
    metadata: list[dict[str, str]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def control_server(answer: Answer | None) -> AsyncIterator[ControlServer]:
    control = ControlServer(answer=answer)

    async def get_server_info(
        request: GetServerInfoRequest,
        context: grpc.aio.ServicerContext[GetServerInfoRequest, bytes],
    ) -> bytes:
        control.calls += 1
        given = context.invocation_metadata() or ()
        control.metadata.append({str(name): str(value) for name, value in given})
        if control.answer is None:
            await asyncio.sleep(60)
            return b""
        answered = control.answer()
        if isinstance(answered, grpc.StatusCode):
            await context.abort(answered, "no")
        return answered

    method = grpc.unary_unary_rpc_method_handler(
        get_server_info,
        request_deserializer=GetServerInfoRequest.FromString,
        response_serializer=bytes,
    )
    server = grpc.aio.server()
    service = grpc.method_handlers_generic_handler("vllm.Control", {"GetServerInfo": method})
    server.add_generic_rpc_handlers((service,))
    control.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield control
    finally:
        await server.stop(0)
