"""Handlers that receive raw bytes and parse them within bounds, or refuse without receiving any.

gRPC calls the interceptors when the metadata of an RPC has come. Its request is received only when
the handler that they return asks for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.message import Message

from gateway.config.limits import LimitsConfig
from gateway.doors.grpc import errors
from gateway.doors.grpc.parsing import parse_message
from gateway.doors.grpc.rpc_context import CURRENT_RPC, Context

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]]

OPEN_MESSAGE_BYTES = 4096
"""Largest request of an RPC that needs no key."""

_REFUSED: ContextVar[errors.RpcError] = ContextVar("moegate_refused")
"""Why the RPC of the current task is refused."""


async def _refuse(_: object, context: Context) -> None:
    await errors.abort(context, _REFUSED.get())


_REFUSING: Handler = grpc.stream_stream_rpc_method_handler(cast(Any, _refuse))
"""Refuses an RPC of any kind. gRPC receives the request of a streaming handler only when asked."""


def refusing(error: errors.RpcError) -> Handler:
    """Returns a handler that refuses the RPC of the current task without receiving its request."""
    _REFUSED.set(error)
    return _REFUSING


def bounded(handler: Handler, limits: Callable[[], LimitsConfig], *, needs_key: bool) -> Handler:
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
