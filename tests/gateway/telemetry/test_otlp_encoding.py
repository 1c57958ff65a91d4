"""Spans as OTLP: what is written at once is what the library makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from gateway.telemetry import otlp_encoding
from gateway.telemetry.otlp_encoding import encoded

INTS = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=300)
VALUES = st.one_of(
    st.booleans(),
    INTS,
    st.floats(allow_nan=False),
    TEXT,
    st.lists(TEXT, max_size=3),
    st.lists(INTS),
)
ATTRIBUTES = st.dictionaries(TEXT.filter(bool), VALUES, max_size=12)
REMOTE = SpanContext(
    trace_id=2**127 + 5,
    span_id=77,
    is_remote=True,
    trace_flags=TraceFlags(TraceFlags.SAMPLED),
    trace_state=TraceState([("vendor", "a"), ("other", "b")]),
)


class Recorder:
    """A provider that keeps what ends."""

    def __init__(self, limits: SpanLimits | None = None) -> None:
        self.kept = InMemorySpanExporter()
        self.provider = TracerProvider(span_limits=limits, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.kept))

    def span(
        self,
        attributes: Mapping[str, AttributeValue],
        *,
        name: str = "chat moe",
        parent: SpanContext | None = None,
        kind: SpanKind = SpanKind.CLIENT,
        links: Sequence[Link] = (),
        status: Status | None = None,
        event: Mapping[str, AttributeValue] | None = None,
        scope: str = "moegate",
    ) -> None:
        context = None if parent is None else trace.set_span_in_context(NonRecordingSpan(parent))
        tracer = self.provider.get_tracer(scope)
        span = tracer.start_span(name, context, kind=kind, links=links)
        span.set_attributes(attributes)
        if event is not None:
            span.add_event("moegate.decision", event)
        if status is not None:
            span.set_status(status)
        span.end()

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.kept.get_finished_spans()


@given(
    ATTRIBUTES,
    ATTRIBUTES,
    TEXT,
    st.sampled_from(SpanKind),
    st.sampled_from([None, REMOTE]),
    st.sampled_from([None, Status(StatusCode.OK), Status(StatusCode.ERROR, "it broke: ä")]),
)
def test_a_batch_is_what_the_library_makes_of_it(
    attributes: dict[str, AttributeValue],
    of_event: dict[str, AttributeValue],
    name: str,
    kind: SpanKind,
    parent: SpanContext | None,
    status: Status | None,
) -> None:
    recorder = Recorder()
    recorder.span({})
    recorder.span(attributes, name=name, kind=kind, parent=parent, status=status, event=of_event)
    expected = encode_spans(recorder.spans)
    with patch.object(otlp_encoding, "encode_spans", wraps=encode_spans) as library:
        assert encoded(recorder.spans) == expected
    [call] = library.call_args_list
    assert len(call.args[0]) == 1, "asked for the envelope alone"


def test_a_value_of_another_type_is_not_taken_for_one_that_is_equal() -> None:
    recorder = Recorder()
    for value in (1, True, 1.0, "1", 0, False):
        recorder.span({"same": value})
    assert encoded(recorder.spans) == encode_spans(recorder.spans)


def test_what_limits_dropped_is_told() -> None:
    recorder = Recorder(SpanLimits(max_span_attributes=2, max_event_attributes=1, max_events=1))
    recorder.span({"a": 1, "b": 2, "c": 3}, event={"x": 1, "y": 2})
    [span] = encoded(recorder.spans).resource_spans[0].scope_spans[0].spans
    assert (span.dropped_attributes_count, span.events[0].dropped_attributes_count) == (1, 1)
    assert encoded(recorder.spans) == encode_spans(recorder.spans)


@pytest.mark.parametrize("odd", ["link", "bytes", "mapping", "scope", "resource"])
def test_what_is_not_the_gateways_goes_the_librarys_way(odd: str) -> None:
    recorder = Recorder()
    recorder.span({"a": 1})
    match odd:
        case "link":
            recorder.span({}, links=[Link(REMOTE, {"why": "batch"})])
        case "bytes":
            recorder.span({"raw": b"\x00\xff"})
        case "mapping":
            recorder.span({"deep": {"a": 1}})
        case "scope":
            recorder.span({}, scope="another")
    spans = recorder.spans
    if odd == "resource":
        other = Recorder()
        other.span({})
        spans = (*spans, *other.spans)
    assert encoded(spans) == encode_spans(spans)


def test_long_texts_are_not_remembered() -> None:
    """Prompts of 64 KiB, where they are recorded, would fill the memory."""
    recorder = Recorder()
    remembered = otlp_encoding._attribute.cache_info().misses
    for number in range(3):
        recorder.span({"gen_ai.input.messages": f"{number}" * 65_536})
    spans = recorder.spans
    assert encoded(spans) == encode_spans(spans)
    assert otlp_encoding._attribute.cache_info().misses == remembered
