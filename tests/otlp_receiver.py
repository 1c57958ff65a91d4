"""A real OTLP gRPC receiver: what an OpenTelemetry collector would be sent, as plain values."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from tests import serving


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedSpan:
    """One span. Ids are hex digits; `status`: UNSET, OK or ERROR; `dropped`: attributes that the
    limits left out."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    trace_state: str
    attributes: dict[str, Any]
    dropped: int
    events: dict[str, dict[str, Any]]
    status: str
    message: str
    start_ns: int
    end_ns: int
    resource: dict[str, Any]


@dataclass
class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what comes."""

    endpoint: str = ""
    spans: list[ReceivedSpan] = field(default_factory=list)

    async def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: object
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for of_resource in request.resource_spans:
            resource = _plain(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                self.spans.extend(_span(span, resource) for span in of_scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    async def until(self, *names: str) -> list[ReceivedSpan]:
        """Waits until spans of these names have come, each as often as it is named."""
        await serving.until(
            lambda: all(
                sum(span.name == name for span in self.spans) >= names.count(name) for name in names
            )
        )
        return self.spans

    def one(self, name: str) -> ReceivedSpan:
        """The only span of that name."""
        [found] = [span for span in self.spans if span.name == name]
        return found

    def children(self, parent: ReceivedSpan) -> list[ReceivedSpan]:
        """Its children in order of their start."""
        found = [span for span in self.spans if span.parent_id == parent.span_id]
        return sorted(found, key=lambda span: span.start_ns)


@contextlib.asynccontextmanager
async def receiver(listen: str = "127.0.0.1:0") -> AsyncIterator[Receiver]:
    """Runs one on a free port."""
    found = Receiver()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(found, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port(listen)
    found.endpoint = f"http://127.0.0.1:{port}"
    await server.start()
    try:
        yield found
    finally:
        await server.stop(0)


def _span(span: trace_pb2.Span, resource: dict[str, Any]) -> ReceivedSpan:
    return ReceivedSpan(
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        trace_state=span.trace_state,
        attributes=_plain(span.attributes),
        dropped=span.dropped_attributes_count,
        events={event.name: _plain(event.attributes) for event in span.events},
        status=trace_pb2.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        message=span.status.message,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        resource=resource,
    )


def _plain(attributes: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in attributes}


def _value(value: common_pb2.AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return None if kind is None else getattr(value, kind)
