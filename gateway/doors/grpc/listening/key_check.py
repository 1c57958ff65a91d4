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

from gateway.auth.authenticator import Unauthenticated
from gateway.doors.grpc import errors
from gateway.doors.grpc.listening.key_limits import GENERATIONS, KeyLimits, holding_slot
from gateway.doors.grpc.parsing import parse_message
from gateway.doors.grpc.rpc_context import CURRENT_RPC, ActiveSettings, AuthenticatedRpc, Context

OURS = "/moegate."
"""Prefix of the methods that need a key. Health checks and reflection need none."""
OPEN_MESSAGE_BYTES = 4096
"""Largest request of an RPC that needs no key."""

_REFUSED: ContextVar[errors.RpcError] = ContextVar("moegate_refused")
"""Why the RPC of the current task is refused."""

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]]


class KeyCheck(grpc.aio.ServerInterceptor):
    """Authenticates every RPC of the moegate services, takes it from the limits of its key, and
    bounds the requests of all RPCs."""

    def __init__(self, active: ActiveSettings, key_limits: KeyLimits) -> None:
        self._active = active
        self._key_limits = key_limits
        self._handlers: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Returns the handler of the method, or one that refuses. Handlers are made once."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None:
            found = await continuation(handler_call_details)
            if found is None:
                return None
            handler = _bounded(found, self._active, needs_key=method.startswith(OURS))
            if method.startswith(OURS) and method not in GENERATIONS:
                handler = holding_slot(handler, self._key_limits)
            self._handlers[method] = handler
        if method.startswith(OURS):
            metadata = tuple(handler_call_details.invocation_metadata or ())
            try:
                caller = self._active.authenticator.authenticate(metadata)
                await self._key_limits.take_request(caller)
            except Unauthenticated as error:
                _REFUSED.set(errors.unauthenticated(str(error)))
                return _REFUSING
            except errors.RpcError as error:
                _REFUSED.set(error)
                return _REFUSING
            CURRENT_RPC.set(AuthenticatedRpc(caller, metadata))
        return handler


async def _refuse(_: object, context: Context) -> None:
    await errors.abort(context, _REFUSED.get())


_REFUSING: Handler = grpc.stream_stream_rpc_method_handler(cast(Any, _refuse))
"""Refuses an RPC of any kind. gRPC receives the request of a streaming handler only when asked."""


def _bounded(handler: Handler, active: ActiveSettings, *, needs_key: bool) -> Handler:
    """Returns a handler that receives raw bytes and parses them within the caller's bounds."""
    # The deserializers of generated code are the class methods `FromString`.
    message_type: type[Message] = cast(Any, handler.request_deserializer).__self__

    async def parsed(raw: bytes, context: Context) -> Message:
        caller_bytes = CURRENT_RPC.get().caller.message_bytes if needs_key else OPEN_MESSAGE_BYTES
        elements = active.config.limits.elements
        try:
            return await parse_message(message_type, raw, caller_bytes, elements)
        except errors.RpcError as error:
            await errors.abort(context, error)

    serializer = handler.response_serializer
    if handler.request_streaming:
        stream_stream: Any = handler.stream_stream

        async def streams(requests: AsyncIterator[bytes], context: Context) -> None:
            await stream_stream((await parsed(raw, context) async for raw in requests), context)

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
