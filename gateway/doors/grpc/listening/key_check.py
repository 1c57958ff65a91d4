"""Server interceptor: finds the caller of an RPC before its request is received.

gRPC calls the interceptors when the metadata has come. The request is received, inflated and parsed
only if the handler that they return asks for it. An RPC without a known key gets a handler that
refuses it without asking. All others get their request as raw bytes, which `parse_message` parses
within the bounds of the key.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import Message

from gateway.auth.authenticator import Caller, Unauthenticated
from gateway.config.limits import LimitsConfig
from gateway.doors.grpc import errors
from gateway.doors.grpc.listening.rpcs_in_progress import RpcsInProgress
from gateway.doors.grpc.parsing import parse_message
from gateway.doors.grpc.rpc_context import (
    CURRENT_RPC,
    AuthenticatedRpc,
    Context,
    Metadata,
)

OURS = "/moegate."
"""Prefix of the methods that need a key. Health checks and reflection need none."""
OPEN_MESSAGE_BYTES = 4096
"""Largest request of an RPC that needs no key."""

_REFUSED: ContextVar[errors.RpcError] = ContextVar("moegate_refused")
"""Why the RPC of the current task is refused."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]]


class KeyCheck(grpc.aio.ServerInterceptor):
    """Bounds the RPCs in progress, authenticates those of the moegate services, and bounds the
    requests of all."""

    def __init__(
        self,
        authenticate: Callable[[Metadata], Caller],
        limits: Callable[[], LimitsConfig],
        in_progress: RpcsInProgress,
    ) -> None:
        """`authenticate` raises Unauthenticated. `limits`: those in force."""
        self._authenticate = authenticate
        self._limits = limits
        self._in_progress = in_progress
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Returns the handler of the method, or one that refuses. Handlers are made once."""
        method = handler_call_details.method
        needs_key = method.startswith(OURS)
        handler = self._handlers.get(method)
        if handler is None:
            found = await continuation(handler_call_details)
            if found is None:
                return None
            handler = _bounded(found, self._limits, needs_key=needs_key)
            self._handlers[method] = handler
        try:
            self._in_progress.check_server()
            if needs_key:
                self._find_caller(tuple(handler_call_details.invocation_metadata or ()))
            else:
                self._in_progress.begin(None)
        except errors.RpcError as error:
            _REFUSED.set(error)
            return _REFUSING
        return handler

    def _find_caller(self, metadata: Metadata) -> None:
        """Sets the current RPC. Raises RpcError."""
        size, most = metadata_bytes(metadata), self._limits().metadata_bytes
        if size > most:
            raise errors.metadata_too_large(size, most)
        try:
            caller = self._authenticate(metadata)
        except Unauthenticated as error:
            raise errors.unauthenticated(str(error)) from None
        self._in_progress.begin(caller.tenant)
        CURRENT_RPC.set(AuthenticatedRpc(caller, metadata))


def metadata_bytes(metadata: Metadata) -> int:
    """Returns the size of metadata as HTTP/2 counts it."""
    return sum(len(name) + len(value) + 32 for name, value in metadata)


async def _refuse(_: object, context: Context) -> None:
    await errors.abort(context, _REFUSED.get())


_REFUSING: Handler = grpc.stream_stream_rpc_method_handler(cast(Any, _refuse))
"""Refuses an RPC of any kind. gRPC receives the request of a streaming handler only when asked."""


def _bounded(handler: Handler, limits: Callable[[], LimitsConfig], *, needs_key: bool) -> Handler:
    """Returns a handler that receives raw bytes and parses them within the caller's bounds.
    `limits`: those in force."""
    # The deserializers of generated code are the class methods `FromString`.
    message_type: type[Message] = cast(Any, handler.request_deserializer).__self__

    async def parsed(raw: bytes, context: Context) -> Message:
        caller_bytes = CURRENT_RPC.get().caller.message_bytes if needs_key else OPEN_MESSAGE_BYTES
        try:
            return await parse_message(message_type, raw, caller_bytes, limits().elements)
        except errors.RpcError as error:
            await errors.abort(context, error)

    serializer = handler.response_serializer
    if handler.request_streaming:
        stream_stream: Any = handler.stream_stream

        async def streams(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            messages = (await parsed(raw, context) async for raw in requests)
            async for response in stream_stream(messages, context):
                yield response

        return grpc.stream_stream_rpc_method_handler(
            cast(Any, streams), response_serializer=serializer
        )
    inner: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary

    async def once(raw: bytes, context: Context) -> Any:
        return await inner(await parsed(raw, context), context)

    make = (
        grpc.unary_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.unary_unary_rpc_method_handler
    )
    return make(cast(Any, once), response_serializer=serializer)
