"""Traces at a real OTLP receiver: the span tree, its attributes and statuses, for every end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest

from gateway.config.limits import LimitsConfig
from gateway.config.telemetry import TelemetryConfig
from gateway.telemetry import semconv
from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from moegate.v1 import generation_pb2, inference_pb2
from tests import serving
from tests.otlp_receiver import ReceivedSpan, Receiver
from tests.scripted import GOOD, ROLE, Scripted, upstreams, word
from tests.serving import METADATA, Serving, chat_request, first_message, read_stream

RPC = "moegate.v1.InferenceService/Generate"
CHAT = f"chat {serving.MODEL}"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = ("traceparent", f"00-{TRACE}-{PARENT}-01")


async def generate(
    gateway: Serving, *metadata: tuple[str, str], **fields: object
) -> generation_pb2.Done:
    call = gateway.stub.Generate(chat_request(**fields), metadata=(*METADATA, *metadata))  # type: ignore[arg-type]
    seen = await read_stream(call)
    assert seen.done is not None
    return seen.done


async def failed(gateway: Serving, timeout_s: float | None = None) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_stream(
            gateway.stub.Generate(chat_request(), metadata=METADATA, timeout=timeout_s)
        )
    return caught.value.code()


def subset(span: ReceivedSpan, expected: dict[str, object]) -> bool:
    return expected.items() <= span.attributes.items()


def with_outcome(otlp: Receiver, outcome: str) -> list[ReceivedSpan]:
    return [span for span in otlp.spans if span.attributes.get("moegate.outcome") == outcome]


@contextlib.asynccontextmanager
async def full(gateway: Serving) -> AsyncIterator[None]:
    """One long request runs on the only slot, another fills the queue; both leave at the end."""
    long = chat_request(max_output_tokens=2000, ignore_eos=True)
    running = gateway.stub.Generate(long, metadata=METADATA)
    await first_message(running)
    waiting = gateway.stub.Generate(long, metadata=METADATA)
    scheduler = gateway.gateway.scheduler.core
    await serving.until(lambda: scheduler.queued_requests == 1)
    yield
    waiting.cancel()
    await serving.until(lambda: scheduler.queued_requests == 0)
    running.cancel()


async def test_success_is_one_trace_from_the_caller_to_the_engine(otlp: Receiver) -> None:
    engine = Scripted(frames=GOOD)
    async with upstreams(engine) as gateway:
        done = await generate(gateway, SAMPLED, request_id="r1", session_id="talk")
    await otlp.until(RPC, "admission", CHAT)
    rpc, admission, attempt = otlp.one(RPC), otlp.one("admission"), otlp.one(CHAT)
    assert len(otlp.spans) == 3, "the gateway's probes are no requests"
    assert {span.trace_id for span in otlp.spans} == {TRACE}
    assert (rpc.parent_id, rpc.kind, rpc.status) == (PARENT, "SERVER", "UNSET")
    assert otlp.children(rpc) == [admission, attempt]
    assert (admission.kind, attempt.kind) == ("INTERNAL", "CLIENT")
    assert rpc.start_ns <= admission.start_ns <= admission.end_ns
    assert admission.end_ns <= attempt.start_ns <= attempt.end_ns <= rpc.end_ns
    assert rpc.resource["service.name"] == "moegate"
    assert subset(
        rpc,
        {
            "rpc.system.name": "grpc",
            "rpc.method": RPC,
            "rpc.status_code": "OK",
            "network.peer.address": "127.0.0.1",
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": serving.MODEL,
            "gen_ai.conversation.id": "talk",
            "gen_ai.usage.input_tokens": 5,
            "gen_ai.usage.output_tokens": 2,
            "moegate.request.id": "r1",
            "moegate.tenant": "team",
            "moegate.key.id": "test",
            "moegate.slo.class": "interactive",
            "moegate.placement": "own/a",
            "moegate.route": "local",
            "moegate.outcome": "ok",
            "moegate.attempts": 1,
        },
    )
    assert "error.type" not in rpc.attributes
    assert subset(
        admission,
        {
            "moegate.slo.class": "interactive",
            "moegate.queue.position": 0,
            "moegate.outcome": "dispatched",
        },
    )
    assert 0 <= admission.attributes["moegate.queue.duration"] < serving.READY_S
    decision = admission.events["moegate.decision"]
    assert decision["moegate.decision.chosen"] == "own/a"
    assert decision["moegate.decision.reason"] == done.route.reason
    assert decision["moegate.decision.chosen.ttft"] > 0
    assert decision["moegate.decision.chosen.tpot"] > 0
    assert decision["moegate.decision.tier"] == "local"
    assert decision["moegate.decision.candidates"] == 1
    assert subset(
        attempt,
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.stream": True,
            "gen_ai.request.max_tokens": 16,
            "gen_ai.request.model": serving.MODEL,
            "gen_ai.response.model": "m",
            "gen_ai.response.finish_reasons": ["length"],
            "gen_ai.usage.input_tokens": 5,
            "gen_ai.usage.output_tokens": 2,
            "server.address": "127.0.0.1",
            "server.port": int(engine.url.rpartition(":")[2]),
            "moegate.placement": "own/a",
            "moegate.attempt": 1,
            "moegate.outcome": "ok",
        },
    )
    assert attempt.attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert not any("messages" in name for span in otlp.spans for name in span.attributes)
    # The engine got the attempt's span as its parent, not the caller's.
    assert engine.headers["traceparent"] == f"00-{TRACE}-{attempt.span_id}-01"


async def test_failover_has_a_span_for_each_attempt_and_each_decision(otlp: Receiver) -> None:
    async with upstreams(Scripted(status=503), Scripted(frames=GOOD)) as gateway:
        await generate(gateway)
    await otlp.until(RPC, "admission", "admission", CHAT, CHAT)
    rpc = otlp.one(RPC)
    children = otlp.children(rpc)
    assert [span.name for span in children] == ["admission", CHAT, "admission", CHAT]
    first, second = children[1], children[3]
    decision = children[0].events["moegate.decision"]
    assert decision["moegate.decision.chosen"] == "own/a"
    assert decision["moegate.decision.rejected"] == "own/b"
    assert decision["moegate.decision.rejected.ttft"] > 0
    assert decision["moegate.decision.rejected.tpot"] > 0
    assert decision["moegate.decision.rejected.reason"]
    assert (first.status, second.status, rpc.status) == ("ERROR", "UNSET", "UNSET")
    assert subset(first, {"moegate.placement": "own/a", "moegate.outcome": "retryable"})
    assert first.attributes["error.type"]
    assert first.message
    assert subset(second, {"moegate.placement": "own/b", "moegate.attempt": 2})
    assert subset(rpc, {"moegate.attempts": 2, "moegate.outcome": "ok"})


async def test_overflow_is_told_with_its_reason(otlp: Receiver) -> None:
    near = SimulatedVllmConfig(served_model_name="m", speed=0.05)
    far = SimulatedVllmConfig(served_model_name="m", speed=100.0)
    async with simulated_vllm(near) as own, simulated_vllm(far) as away:
        settings = serving.config(
            pools=[serving.pool([own.url], upstream_model="m", max_num_seqs=1)],
            remotes=[serving.remote(away.url, upstream_model="m")],
            limits=LimitsConfig(queue_requests=1),
        )
        async with serving.serving(settings) as gateway, full(gateway):
            done = await generate(gateway)
    assert done.route.kind == generation_pb2.PLACEMENT_KIND_REMOTE
    await otlp.until(RPC, RPC, RPC)
    [attempt] = [
        span for span in otlp.spans if span.attributes.get("gen_ai.provider.name") == "far"
    ]
    assert subset(attempt, {"moegate.route": "overflow", "moegate.placement": "far"})
    [rpc] = [span for span in otlp.spans if span.span_id == attempt.parent_id]
    admission = otlp.children(rpc)[0]
    overflow = admission.events[semconv.EVENT_OVERFLOW]
    assert overflow["moegate.overflow.reason"] == done.route.reason
    assert subset(rpc, {"moegate.route": "overflow", "moegate.outcome": "ok"})


async def test_a_client_that_leaves_is_no_error(otlp: Receiver) -> None:
    engine = Scripted(frames=[ROLE, word(1)], end="hang")
    async with upstreams(engine) as gateway:
        call = gateway.stub.Generate(chat_request(), metadata=METADATA)
        await first_message(call)
        call.cancel()
        await engine.left.wait()
        await otlp.until(RPC, CHAT)
    rpc, attempt = otlp.one(RPC), otlp.one(CHAT)
    assert (rpc.status, attempt.status) == ("UNSET", "UNSET")
    assert subset(rpc, {"rpc.status_code": "CANCELLED", "moegate.outcome": "cancelled"})
    assert "error.type" not in rpc.attributes
    assert subset(attempt, {"moegate.outcome": "cancelled", "gen_ai.usage.output_tokens": 1})


async def test_a_deadline_is_an_error_of_both(otlp: Receiver) -> None:
    async with upstreams(Scripted(frames=[ROLE, word(1)], end="hang")) as gateway:
        assert await failed(gateway, timeout_s=0.5) is grpc.StatusCode.DEADLINE_EXCEEDED
        await otlp.until(RPC, CHAT)
    rpc, attempt = otlp.one(RPC), otlp.one(CHAT)
    assert (rpc.status, attempt.status) == ("ERROR", "ERROR")
    assert subset(rpc, {"rpc.status_code": "DEADLINE_EXCEEDED", "error.type": "DEADLINE_EXCEEDED"})
    assert subset(attempt, {"error.type": "deadline"})


async def test_a_refusal_is_an_answer_and_no_error(otlp: Receiver) -> None:
    near = SimulatedVllmConfig(served_model_name="m", speed=0.05)
    async with simulated_vllm(near) as own:
        settings = serving.config(
            pools=[serving.pool([own.url], upstream_model="m", max_num_seqs=1)],
            limits=LimitsConfig(queue_requests=1),
        )
        async with serving.serving(settings) as gateway:
            async with full(gateway):
                assert await failed(gateway) is grpc.StatusCode.RESOURCE_EXHAUSTED
            await otlp.until(RPC, RPC, RPC)
    [rpc] = [span for span in with_outcome(otlp, "refused") if span.name == RPC]
    assert rpc.status == "UNSET"
    assert subset(rpc, {"rpc.status_code": "RESOURCE_EXHAUSTED", "moegate.attempts": 0})
    [admission] = otlp.children(rpc)
    assert subset(admission, {"moegate.outcome": "refused", "moegate.refusal.reason": "queue_full"})
    assert admission.attributes["moegate.retry_after"] > 0
    # The one that was in the queue when its client left says so.
    left = [span for span in with_outcome(otlp, "cancelled") if span.name == "admission"]
    assert [s.attributes["moegate.queue.position"] for s in left] == [1]


async def test_partial_output_is_an_error_with_the_usage_so_far(otlp: Receiver) -> None:
    async with upstreams(Scripted(frames=[ROLE, word(1)], end="cut")) as gateway:
        assert await failed(gateway) is grpc.StatusCode.UNAVAILABLE
        await otlp.until(RPC, CHAT)
    rpc, attempt = otlp.one(RPC), otlp.one(CHAT)
    assert (rpc.status, attempt.status) == ("ERROR", "ERROR")
    assert subset(
        rpc,
        {
            "rpc.status_code": "UNAVAILABLE",
            "error.type": "UNAVAILABLE",
            "moegate.partial_output": True,
            "moegate.outcome": "partial",
            "gen_ai.usage.output_tokens": 1,
        },
    )
    assert "incomplete" in rpc.message
    assert subset(attempt, {"moegate.outcome": "failed", "gen_ai.usage.output_tokens": 1})


async def test_other_rpcs_have_a_span_of_their_own(otlp: Receiver) -> None:
    async with upstreams(Scripted(frames=GOOD)) as gateway:
        await gateway.stub.ListModels(inference_pb2.ListModelsRequest(), metadata=METADATA)
        with pytest.raises(grpc.aio.AioRpcError):
            await gateway.stub.ListModels(inference_pb2.ListModelsRequest())
    name = "moegate.v1.InferenceService/ListModels"
    await otlp.until(name, name)
    codes = [(span.attributes["rpc.status_code"], span.status) for span in otlp.spans]
    assert sorted(codes) == [("OK", "UNSET"), ("UNAUTHENTICATED", "UNSET")]


async def test_a_caller_that_does_not_sample_is_respected(otlp: Receiver) -> None:
    engine = Scripted(frames=GOOD)
    async with upstreams(engine) as gateway:
        await generate(gateway, ("traceparent", f"00-{TRACE}-{PARENT}-00"))
        unsampled = engine.headers["traceparent"]
        await generate(gateway, SAMPLED)
        await otlp.until(RPC)
    assert len([span for span in otlp.spans if span.name == RPC]) == 1
    version, trace, _, flags = unsampled.split("-")
    assert (version, trace, int(flags, 16) & 1) == ("00", TRACE, 0)


async def test_the_sampler_of_the_environment_holds(
    otlp: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    engine = Scripted(frames=GOOD)
    async with upstreams(engine) as gateway:
        await generate(gateway)
        assert not int(engine.headers["traceparent"][-2:], 16) & 1
        await generate(gateway, SAMPLED)
        await otlp.until(RPC)
    assert {span.trace_id for span in otlp.spans} == {TRACE}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
    ],
)
async def test_what_the_environment_turns_off_is_off(
    otlp: Receiver, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    engine = Scripted(frames=GOOD)
    async with upstreams(engine) as gateway:
        await generate(gateway, SAMPLED)
        assert not gateway.gateway.telemetry.is_on
    # The caller's own trace goes on to the engine all the same.
    assert engine.headers["traceparent"] == SAMPLED[1]
    assert otlp.spans == []


async def test_content_is_recorded_only_where_it_is_switched_on(otlp: Receiver) -> None:
    engine = Scripted(frames=GOOD)
    on = TelemetryConfig(record_content=True)
    async with upstreams(engine, telemetry=on) as gateway:
        await generate(gateway)
        await otlp.until(RPC, CHAT)
    attempt = otlp.one(CHAT)
    assert "Tell me a story." in attempt.attributes["gen_ai.input.messages"]
    assert " w1 w2" in attempt.attributes["gen_ai.output.messages"]


async def test_a_collector_that_is_gone_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    async with asyncio.timeout(serving.READY_S), upstreams(Scripted(frames=GOOD)) as gateway:
        await generate(gateway)
