"""Spans on the wire: what the provider of the environment sends to a real OTLP receiver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from gateway.telemetry.tracing import tracer_provider
from tests.otlp_receiver import ReceivedSpan, Receiver, receiver

CALLER = SpanContext(
    trace_id=2**127 + 5,
    span_id=77,
    is_remote=True,
    trace_flags=TraceFlags(TraceFlags.SAMPLED),
    trace_state=TraceState([("vendor", "a"), ("other", "b")]),
)


@pytest.fixture
async def otlp(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    async with receiver() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.endpoint)
        yield running


def provider() -> TracerProvider:
    found = tracer_provider()
    assert found is not None
    return found


async def sent(otlp: Receiver, tracing: TracerProvider) -> list[ReceivedSpan]:
    """What the receiver has once the provider has ended."""
    await asyncio.to_thread(tracing.shutdown)
    return otlp.spans


@pytest.mark.parametrize(
    "value",
    [
        *(1, True, 1.0, "1", 0, False, 0.0, ""),
        *(-(2**63), 2**63 - 1, 1e308, -0.25, "ä\N{GRINNING FACE}", "x" * 65_536),
        *(["a", "b"], [1, -1], [0.5], [True, False], []),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_a_value_arrives_as_it_was_with_its_type(
    otlp: Receiver, value: AttributeValue
) -> None:
    tracing = provider()
    span = tracing.get_tracer("moegate").start_span("chat moe")
    span.set_attributes({"own": value})
    span.add_event("moegate.decision", {"own": value})
    span.end()
    [received] = await sent(otlp, tracing)
    for found in (received.attributes["own"], received.events["moegate.decision"]["own"]):
        assert (found, type(found)) == (value, type(value))


async def test_a_span_arrives_with_its_parent_kind_status_and_times(otlp: Receiver) -> None:
    tracing = provider()
    context = trace.set_span_in_context(NonRecordingSpan(CALLER))
    span = tracing.get_tracer("moegate").start_span("chät", context, kind=SpanKind.CLIENT)
    span.set_status(Status(StatusCode.ERROR, "it broke: ä"))
    span.end()
    [received] = await sent(otlp, tracing)
    assert (received.trace_id, received.parent_id) == (f"{2**127 + 5:032x}", f"{77:016x}")
    assert received.trace_state == "vendor=a,other=b"
    assert (received.name, received.kind) == ("chät", "CLIENT")
    assert (received.status, received.message) == ("ERROR", "it broke: ä")
    assert 0 < received.start_ns <= received.end_ns
    assert received.resource["service.name"] == "moegate"


async def test_the_attributes_that_a_limit_drops_are_counted(
    otlp: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "2")
    tracing = provider()
    span = tracing.get_tracer("moegate").start_span("chat moe")
    span.set_attributes({"a": 1, "b": 2, "c": 3})
    span.end()
    [received] = await sent(otlp, tracing)
    assert (len(received.attributes), received.dropped) == (2, 1)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
    ],
    ids=str,
)
def test_without_an_endpoint_or_a_known_exporter_there_is_no_provider(
    environ: dict[str, str],
) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"} if environ else {}
    assert tracer_provider({**endpoint, **environ}) is None
