"""One span, one duration and one final status for every request to an HTTP door."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from functools import lru_cache

from aiohttp import web
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer

from gateway.doors.http.dialect import Found
from gateway.doors.http.errors import HttpError
from gateway.telemetry import semconv
from gateway.telemetry.call_record import CURRENT, CallRecord

UNKNOWN_ROUTE = "unknown"
CLIENT_GONE = 499
"""Status of a request whose client went away, as nginx counts it."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


class Observed:
    """A request in progress. `failed`: what ended it; None: nothing. `status`: that of the answer,
    as far as it is known."""

    __slots__ = ("failed",)

    def __init__(self) -> None:
        self.failed: HttpError | None = None


class HttpObserver:
    """Observes the requests. `tracer`: None disables spans."""

    def __init__(
        self,
        tracer: Tracer | None,
        clock: Callable[[], float],
        measure: Callable[[str, str, int, float], None],
        *,
        is_on: bool,
    ) -> None:
        """`measure` receives the method, the route, the status and the duration in seconds of
        every request. `is_on`: whether anything is recorded at all."""
        self._tracer = tracer
        self._clock = clock
        self._measure = measure
        self._is_on = is_on

    @contextlib.contextmanager
    def observe(
        self, request: web.BaseRequest, found: Found | frozenset[str]
    ) -> Iterator[Observed]:
        """Records the request that is answered in this context, in the task that answers it."""
        observed = Observed()
        if not self._is_on:
            yield observed
            return
        route = found.route.path if isinstance(found, Found) else UNKNOWN_ROUTE
        method = request.method if request.method in _METHODS else "_OTHER"
        record = self._start(request, method, route)
        status = CLIENT_GONE
        try:
            yield observed
            status = 200 if observed.failed is None else observed.failed.status
        except (asyncio.CancelledError, ConnectionError):
            raise
        except BaseException:
            status = 500
            raise
        finally:
            self._end(record, method, route, status, observed.failed)

    def _start(self, request: web.BaseRequest, method: str, route: str) -> CallRecord:
        record = CallRecord(f"{method} {route}", self._clock())
        if self._tracer is not None:
            parent = propagate.extract(request.headers)
            record.span = span = self._tracer.start_span(
                record.method, parent, kind=SpanKind.SERVER
            )
            record.context = trace.set_span_in_context(span, parent)
            if span.is_recording():
                record.attributes = {
                    semconv.HTTP_METHOD: method,
                    semconv.HTTP_ROUTE: route,
                    **_peer(request.transport),
                }
        CURRENT.set(record)
        return record

    def _end(
        self, record: CallRecord, method: str, route: str, status: int, failed: HttpError | None
    ) -> None:
        duration_s = self._clock() - record.started_s
        self._measure(method, route, status, duration_s)
        text = "" if failed is None else failed.message
        if record.on_end is not None:
            record.on_end("OK" if status == 200 else str(status), text, duration_s)
        span, attributes = record.span, record.attributes
        if span is None:
            return
        if attributes is not None:
            attributes[semconv.HTTP_STATUS] = status
            if status >= 500:
                attributes[semconv.ERROR_TYPE] = str(status)
                span.set_status(Status(StatusCode.ERROR, text or None))
            span.set_attributes(attributes)
        span.end()


def _peer(transport: asyncio.BaseTransport | None) -> dict[str, str | int]:
    name = None if transport is None else transport.get_extra_info("peername")
    if not isinstance(name, tuple) or len(name) < 2:
        return {}
    return _peer_attributes(str(name[0]), int(name[1]))


@lru_cache(1024)
def _peer_attributes(host: str, port: int) -> dict[str, str | int]:
    return {semconv.NETWORK_PEER_ADDRESS: host, semconv.NETWORK_PEER_PORT: port}
