"""Handlers that receive raw bytes and parse them within bounds, or refuse without receiving any.

gRPC calls the interceptors when the metadata of an RPC has come. It receives the request of a
streaming handler when the handler asks, and that of any other before the handler runs. So all
handlers are streaming ones here, which can refuse first and can bound the wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any, cast

import grpc
from google.protobuf.message import Message

from gateway.config.limits import LimitsConfig
from gateway.doors.grpc import errors
from gateway.doors.grpc.listening.handlers import Handler, behaviour_of
from gateway.doors.grpc.parsing import parse_message
from gateway.doors.grpc.rpc_context import CURRENT_RPC, Context

OPEN_MESSAGE_BYTES = 4096
"""Largest request of an RPC that needs no key."""

_REFUSED: ContextVar[errors.RpcError] = ContextVar("moegate_refused")
"""Why the RPC of the current task is refused."""


async def _refuse(_: object, context: Context) -> None:
    await errors.abort(context, _REFUSED.get())


_REFUSING: Handler = grpc.stream_stream_rpc_method_handler(cast(Any, _refuse))
"""Refuses an RPC of any kind."""


def refusing(error: errors.RpcError) -> Handler:
    """Returns a handler that refuses the RPC of the current task without receiving its request."""
    _REFUSED.set(error)
    return _REFUSING


def bounded(handler: Handler, limits: Callable[[], LimitsConfig], *, needs_key: bool) -> Handler:
    """Returns a handler that receives raw bytes and parses them within the caller's bounds.
    `limits`: those in force."""
    # The deserializers of generated code are the class methods `FromString`.
    message_type: type[Message] = cast(Any, handler.request_deserializer).__self__
    inner = behaviour_of(handler)

    async def received(context: Context) -> Message | None:
        """The next request; None: there are no more."""
        bounds = limits()
        raw: Any
        try:
            async with asyncio.timeout(bounds.request_s):
                raw = await context.read()
        except TimeoutError:
            await errors.abort(context, errors.request_missing(bounds.request_s))
        if raw is grpc.aio.EOF:
            return None
        most = CURRENT_RPC.get().caller.message_bytes if needs_key else OPEN_MESSAGE_BYTES
        try:
            return await parse_message(message_type, raw, most, bounds.elements)
        except errors.RpcError as error:
            await errors.abort(context, error)

    async def once(_: object, context: Context) -> Any:
        request = await received(context)
        if request is None:
            # An empty message is something else: that is a request with no field set.
            await errors.abort(context, errors.invalid([("request", "none: send one")]))
        return await inner(request, context)

    async def requests(context: Context) -> AsyncIterator[Message]:
        while (request := await received(context)) is not None:
            yield request

    async def many(_: object, context: Context) -> Any:
        return await inner(requests(context), context)

    make: Any = (
        grpc.stream_stream_rpc_method_handler
        if handler.response_streaming
        else grpc.stream_unary_rpc_method_handler
    )
    streaming: Handler = make(
        many if handler.request_streaming else once, response_serializer=handler.response_serializer
    )
    return streaming
