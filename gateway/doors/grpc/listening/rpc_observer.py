"""Server interceptor: one span, one duration and one final status for every RPC.

OpenTelemetry's contributed interceptor reports cancelled and late streams as OK, has no metrics and
uses older attribute names. The span is never made current across an await of the handler. Attempts
and log lines find the RPC's record in a context variable. gRPC runs each RPC in its own task, so
each RPC has its own value of that variable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import grpc
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from gateway.doors.grpc.listening.handlers import (
    Continuation,
    Handler,
    behaviour_of,
    with_behaviour,
)
from gateway.doors.grpc.rpc_context import CURRENT_RPC
from gateway.telemetry import semconv
from gateway.telemetry.call_record import CURRENT, CallRecord

OURS = "/moegate."
"""Prefix of the observed methods. Health checks and reflection are excluded because their volume
would hide the other RPCs."""
DEADLINE_SLACK_S = 0.05
"""A client that cancels at its own deadline does so about one network round trip before the
server's timer expires."""
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
"""Status codes that count as server errors (OpenTelemetry RPC conventions). A refusal is a valid
response, not a server error."""
_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}

ServicerContext = grpc.aio.ServicerContext[Any, Any]


class RpcObserver(grpc.aio.ServerInterceptor):
    """Observes every RPC of the moegate services. `tracer`: None disables spans."""

    def __init__(
        self,
        tracer: Tracer | None,
        clock: Callable[[], float],
        measure: Callable[[str, str, float], None],
    ) -> None:
        """`measure` receives the method, the status code name and the duration in seconds of every
        RPC."""
        self._tracer = tracer
        self._clock = clock
        self._measure = measure
        self._wrapped: dict[tuple[str, Handler], Handler] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Returns the observed handler. Each handler of a method is wrapped once."""
        method = handler_call_details.method
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith(OURS):
            return handler
        wrapped = self._wrapped.get((method, handler))
        if wrapped is None:
            wrapped = self._wrapped[method, handler] = self._wrap(method.removeprefix("/"), handler)
        return wrapped

    def _wrap(self, method: str, handler: Handler) -> Handler:
        return with_behaviour(handler, self._coroutine(method, behaviour_of(handler)))

    def _coroutine(self, method: str, inner: Any) -> Any:
        async def observed(request: Any, context: ServicerContext) -> Any:
            with _Observed(self, method, context):
                return await inner(request, context)

        return observed

    def start(self, method: str, context: ServicerContext) -> CallRecord:
        """Records the start of an RPC. Must run in the task that executes the RPC."""
        record = CallRecord(method, self._clock())
        if self._tracer is not None:
            # gRPC decodes the metadata anew on every call: take what the key check has.
            known = CURRENT_RPC.get(None)
            metadata = (context.invocation_metadata() or ()) if known is None else known.metadata
            carrier = {name: value for name, value in metadata if isinstance(value, str)}
            parent = propagate.extract(carrier)
            record.span = span = self._tracer.start_span(method, parent, kind=SpanKind.SERVER)
            record.context = trace.set_span_in_context(span, parent)
            if span.is_recording():
                record.attributes = {
                    semconv.RPC_SYSTEM_NAME: "grpc",
                    semconv.RPC_METHOD: method,
                    **_peer(context.peer()),
                }
        CURRENT.set(record)
        return record

    def end(
        self, record: CallRecord, context: ServicerContext, ended: BaseException | None
    ) -> None:
        """Records the end of an RPC. `ended`: the exception that the handler raised; None: none."""
        code = _code(context, ended)
        detail = context.details() or ""
        text = detail if isinstance(detail, str) else detail.decode(errors="replace")
        duration_s = self._clock() - record.started_s
        self._measure(record.method, code.name, duration_s)
        if record.on_end is not None:
            record.on_end(code.name, text, duration_s)
        span, attributes = record.span, record.attributes
        if span is None:
            return
        if attributes is not None:
            attributes[semconv.RPC_STATUS_CODE] = code.name
            if code in SERVER_ERRORS:
                attributes[semconv.ERROR_TYPE] = code.name
                span.set_status(Status(StatusCode.ERROR, text or None))
            span.set_attributes(attributes)
        span.end()


class _Observed:
    """Context manager that reports start and end of one RPC to the observer."""

    __slots__ = ("_context", "_method", "_observer", "_record")

    def __init__(self, observer: RpcObserver, method: str, context: ServicerContext) -> None:
        self._observer = observer
        self._method = method
        self._context = context

    def __enter__(self) -> None:
        self._record = self._observer.start(self._method, self._context)

    def __exit__(self, kind: object, ended: BaseException | None, traceback: object) -> None:
        self._observer.end(self._record, self._context, ended)


def _code(context: ServicerContext, ended: BaseException | None) -> grpc.StatusCode:
    """Returns the status code that the client will see."""
    code: Any = context.code()
    if code:
        return code if isinstance(code, grpc.StatusCode) else _BY_NUMBER[code]
    if ended is None:
        return grpc.StatusCode.OK
    if isinstance(ended, asyncio.CancelledError | GeneratorExit):
        left_s = context.time_remaining()
        if left_s is not None and left_s <= DEADLINE_SLACK_S:
            return grpc.StatusCode.DEADLINE_EXCEEDED
        return grpc.StatusCode.CANCELLED
    return grpc.StatusCode.UNKNOWN


@lru_cache(1024)
def _peer(peer: str) -> Mapping[str, str | int]:
    """Parses the peer address from gRPC's ipv4:HOST:PORT or ipv6:[HOST]:PORT."""
    family, _, rest = peer.partition(":")
    host, _, port = rest.rpartition(":")
    if family not in ("ipv4", "ipv6") or not port.isdecimal():
        return {}
    host = host.replace("%5B", "").replace("%5D", "").strip("[]")
    return {semconv.NETWORK_PEER_ADDRESS: host, semconv.NETWORK_PEER_PORT: int(port)}
