"""One span, one duration and one end for every RPC: the gateway's own interceptor.

The contributed one ends cancelled and late streams as OK, has no metrics and speaks older names.
The span is never made current across an await of the handler: whoever needs it (attempts, log
lines) finds the RPC's record in a context variable, which is the RPC's own, as each runs in a task
of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc
from opentelemetry import propagate, trace
from opentelemetry.context import Context as TraceContext
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from gateway import semconv

OURS = "/moegate."
"""Methods that are observed: health checks and reflection would drown the rest."""
DEADLINE_SLACK_S = 0.05
"""A client's cancellation at its own deadline comes about a network round trip before the server's
clock says so."""
SERVER_ERRORS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Codes that are the server's fault (RPC conventions): a refusal is an answer, not an error."""
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}

ServicerContext = grpc.aio.ServicerContext[Any, Any]
OnEnd = Callable[[grpc.StatusCode, str, float], None]


class RpcRecord:
    """An RPC that runs. `span` is None without a tracer; `context` is the one it lives in."""

    __slots__ = ("context", "method", "on_end", "span", "started_s")

    def __init__(
        self, method: str, started_s: float, span: Span | None, context: TraceContext | None
    ) -> None:
        self.method = method
        self.started_s = started_s
        self.span = span
        self.context = context
        self.on_end: OnEnd | None = None
        """Whoever else wants to see its end: code, detail, seconds."""


CURRENT: ContextVar[RpcRecord | None] = ContextVar("moegate_rpc", default=None)


class RpcObserver(grpc.aio.ServerInterceptor):
    """Observes every RPC of the gateway's own services. `tracer`: None for no spans."""

    def __init__(
        self,
        tracer: Tracer | None,
        clock: Callable[[], float],
        measure: Callable[[str, grpc.StatusCode, float], None],
    ) -> None:
        """`measure`: takes method, code and seconds of every RPC."""
        self._tracer = tracer
        self._clock = clock
        self._measure = measure
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method, observed; made once per method."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None or not method.startswith(OURS):
                return handler
            wrapped = self._wrapped[method] = self._wrap(method.removeprefix("/"), handler)
        return wrapped

    def _wrap(
        self, method: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        codec = (handler.request_deserializer, handler.response_serializer)
        if handler.request_streaming:
            raise ValueError(f"{method}: streams from clients are not observed yet")
        if handler.response_streaming:
            if asyncio.iscoroutinefunction(handler.unary_stream):
                behaviour = self._coroutine(method, handler.unary_stream)
            else:
                behaviour = self._generator(method, handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(behaviour, *codec)
        return grpc.unary_unary_rpc_method_handler(
            self._coroutine(method, handler.unary_unary), *codec
        )

    def _coroutine(self, method: str, inner: Any) -> Any:
        async def observed(request: Any, context: ServicerContext) -> Any:
            record = self._start(method, context)
            ended: BaseException | None = None
            try:
                return await inner(request, context)
            except BaseException as error:
                ended = error
                raise
            finally:
                self._end(record, context, ended)

        return observed

    def _generator(self, method: str, inner: Any) -> Any:
        async def observed(request: Any, context: ServicerContext) -> AsyncIterator[Any]:
            record = self._start(method, context)
            ended: BaseException | None = None
            try:
                async for message in inner(request, context):
                    yield message
            except BaseException as error:
                ended = error
                raise
            finally:
                self._end(record, context, ended)

        return observed

    def _start(self, method: str, context: ServicerContext) -> RpcRecord:
        span: Span | None = None
        trace_context: TraceContext | None = None
        if self._tracer is not None:
            carrier = {
                name: value
                for name, value in context.invocation_metadata() or ()
                if isinstance(value, str)
            }
            parent = propagate.extract(carrier)
            span = self._tracer.start_span(method, parent, kind=SpanKind.SERVER)
            trace_context = trace.set_span_in_context(span, parent)
            if span.is_recording():
                span.set_attribute(semconv.RPC_SYSTEM_NAME, "grpc")
                span.set_attribute(semconv.RPC_METHOD, method)
                span.set_attributes(_peer(context.peer()))
        record = RpcRecord(method, self._clock(), span, trace_context)
        CURRENT.set(record)
        return record

    def _end(
        self, record: RpcRecord, context: ServicerContext, ended: BaseException | None
    ) -> None:
        code = _code(context, ended)
        detail = context.details() or ""
        text = detail if isinstance(detail, str) else detail.decode(errors="replace")
        duration_s = self._clock() - record.started_s
        self._measure(record.method, code, duration_s)
        if record.on_end is not None:
            record.on_end(code, text, duration_s)
        span = record.span
        if span is None:
            return
        if span.is_recording():
            span.set_attribute(semconv.RPC_STATUS_CODE, code.name)
            if code in SERVER_ERRORS:
                span.set_attribute(semconv.ERROR_TYPE, code.name)
                span.set_status(Status(StatusCode.ERROR, text or None))
        span.end()


def _code(context: ServicerContext, ended: BaseException | None) -> grpc.StatusCode:
    """How the client will see the call end."""
    told: Any = context.code()
    if told:
        return told if isinstance(told, grpc.StatusCode) else _BY_NUMBER[told]
    if ended is None:
        return grpc.StatusCode.OK
    if isinstance(ended, asyncio.CancelledError | GeneratorExit):
        left_s = context.time_remaining()
        if left_s is not None and left_s <= DEADLINE_SLACK_S:
            return grpc.StatusCode.DEADLINE_EXCEEDED
        return grpc.StatusCode.CANCELLED
    return grpc.StatusCode.UNKNOWN


def _peer(peer: str) -> dict[str, str | int]:
    """The address of a peer, from gRPC's ipv4:HOST:PORT and ipv6:[HOST]:PORT."""
    family, _, rest = peer.partition(":")
    host, _, port = rest.rpartition(":")
    if family not in ("ipv4", "ipv6") or not port.isdecimal():
        return {}
    host = host.replace("%5B", "").replace("%5D", "").strip("[]")
    return {semconv.NETWORK_PEER_ADDRESS: host, semconv.NETWORK_PEER_PORT: int(port)}
