"""Handlers of RPCs, of any kind, and how to wrap their behaviour."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]]


def behaviour_of(handler: Handler) -> Any:
    """Returns the function that handles an RPC."""
    if handler.request_streaming:
        return handler.stream_stream if handler.response_streaming else handler.stream_unary
    return handler.unary_stream if handler.response_streaming else handler.unary_unary


def with_behaviour(handler: Handler, behaviour: Any) -> Handler:
    """Returns a handler of the same kind with another function."""
    if handler.request_streaming:
        make: Any = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
    else:
        make = (
            grpc.unary_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.unary_unary_rpc_method_handler
        )
    wrapped: Handler = make(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return wrapped


class WrappedHandlers:
    """Wrapped handlers by method. Each is made when its method is first called. `wrap`: makes one
    of the method and its registered handler."""

    def __init__(self, wrap: Callable[[str, Handler], Handler]) -> None:
        self._wrap = wrap
        self._made: dict[str, Handler] = {}

    async def find(
        self, continuation: Continuation, details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Returns the handler of a call; None: the method is unknown."""
        method = details.method
        made = self._made.get(method)
        if made is None:
            registered = await continuation(details)
            if registered is None:
                return None
            made = self._made[method] = self._wrap(method, registered)
        return made
