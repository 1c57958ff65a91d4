"""The services of usage and administration, where the ledger is in another process.

The front checks key, limits and bounds of an RPC as of any other, and forwards it with its metadata
to the scheduler's process. There the same services answer; they find the caller by the same key.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from gateway.auth.authenticator import Unauthenticated
from gateway.delivery.watches import Watches
from gateway.doors.entry.active_settings import ActiveSettings
from gateway.doors.entry.refusals import scheduler_away
from gateway.doors.grpc import errors
from gateway.doors.grpc.listening.handlers import Continuation, Handler, WrappedHandlers
from gateway.doors.grpc.listening.request_bounds import bounded, refusing
from gateway.doors.grpc.rpc_context import (
    CURRENT_RPC,
    AuthenticatedRpc,
    BoundedWriter,
    Context,
    current_metadata,
    rpc_errors,
)
from moegate.v1 import admin_pb2, usage_pb2

SERVICES = (
    usage_pb2.DESCRIPTOR.services_by_name["UsageService"],
    admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
)
_OWN = ("grpc-", ":", "user-agent", "content-type", "te")
"""Beginnings of the metadata that belongs to one connection."""
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.default_authority", "moegate"),
    # The scheduler's process may be started again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


def accounts_target(socket: Path) -> str:
    """Returns the address of the services for gRPC."""
    return f"unix:{socket}"


FindChannel = Callable[[], grpc.aio.Channel | None]
"""Returns the channel to the scheduler's process; None: there is no scheduler now."""


def add_forwarded_accounts(
    server: grpc.aio.Server, channel: FindChannel, watches: Watches, write_limit_s: float
) -> None:
    """Adds the services to a front's server. `channel`: called for each RPC. `write_limit_s`: how
    long one write to a client may block."""
    forward = _Forward(channel, watches, write_limit_s)
    for service in SERVICES:
        handlers = {method.name: forward.handler(method) for method in service.methods}
        generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
        server.add_generic_rpc_handlers((generic,))
        server.add_registered_method_handlers(service.full_name, handlers)


class ForwardedKeys(grpc.aio.ServerInterceptor):
    """Finds the caller of an RPC that a front has forwarded. The front has taken it from the
    limits of its key."""

    def __init__(self, active: ActiveSettings) -> None:
        self._active = active
        self._handlers = WrappedHandlers(
            lambda _, registered: bounded(registered, lambda: active.config.limits, needs_key=True)
        )

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Returns the handler of the method, or one that refuses."""
        handler = await self._handlers.find(continuation, handler_call_details)
        if handler is None:
            return None
        metadata = tuple(handler_call_details.invocation_metadata or ())
        try:
            caller = self._active.authenticator.authenticate(metadata)
        except Unauthenticated as error:  # the key was removed a moment ago
            return refusing(errors.unauthenticated(str(error)))
        CURRENT_RPC.set(AuthenticatedRpc(caller, metadata))
        return handler


class _Forward:
    def __init__(self, channel: FindChannel, watches: Watches, write_limit_s: float) -> None:
        self._channel = channel
        self._watches = watches
        self._write_limit_s = write_limit_s

    def handler(self, method: MethodDescriptor) -> Handler:
        """Makes the handler of a method."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        request_type = message_factory.GetMessageClass(method.input_type)
        answer_type = message_factory.GetMessageClass(method.output_type)
        make = self._stream if method.server_streaming else self._once
        serializers: Any = {
            "request_deserializer": request_type.FromString,
            "response_serializer": answer_type.SerializeToString,
        }
        behaviour: Any = make(path, answer_type)
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(behaviour, **serializers)
        return grpc.unary_unary_rpc_method_handler(behaviour, **serializers)

    def _once(self, path: str, answer_type: type[Message]) -> Any:
        async def forwarded(request: Message, context: Context) -> Message:
            async with rpc_errors(context):
                ask: Any = (await self._found(context)).unary_unary(
                    path,
                    request_serializer=lambda message: message.SerializeToString(),
                    response_deserializer=answer_type.FromString,
                )
                try:
                    answer: Message = await ask(
                        request, metadata=_metadata(), timeout=context.time_remaining()
                    )
                    return answer
                except grpc.aio.AioRpcError as error:
                    await _abort(context, error)
                    raise

        return forwarded

    def _stream(self, path: str, answer_type: type[Message]) -> Any:
        async def forwarded(request: Message, context: Context) -> None:
            async with rpc_errors(context), self._watches.open():
                ask: Any = (await self._found(context)).unary_stream(
                    path,
                    request_serializer=lambda message: message.SerializeToString(),
                    response_deserializer=answer_type.FromString,
                )
                call = ask(request, metadata=_metadata(), timeout=context.time_remaining())
                writer = BoundedWriter(context, self._write_limit_s)
                try:
                    async for answer in call:
                        await writer.write(answer)
                except grpc.aio.AioRpcError as error:
                    await _abort(context, error)
                finally:
                    call.cancel()

        return forwarded

    async def _found(self, context: Context) -> grpc.aio.Channel:
        channel = self._channel()
        if channel is None:
            text = "the scheduler cannot be reached now"
            await context.abort(grpc.StatusCode.UNAVAILABLE, text)
        assert channel is not None
        return channel


def _metadata() -> tuple[tuple[str, str | bytes], ...]:
    return tuple(pair for pair in current_metadata() if not pair[0].startswith(_OWN))


async def _abort(context: Context, error: grpc.aio.AioRpcError) -> None:
    """Ends the RPC with the status that the other process gave, or says that there is none."""
    trailing: Any = tuple(error.trailing_metadata() or ())
    if error.code() is grpc.StatusCode.UNAVAILABLE and not trailing:
        await errors.abort(context, errors.call_refused(scheduler_away()))
    await context.abort(error.code(), error.details() or "", trailing)
