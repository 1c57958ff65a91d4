"""One trace through the gateway and a real vLLM: the engine's span hangs on the attempt's."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from moegate.v1 import generation_pb2
from tests import serving
from tests.otlp_receiver import Receiver, receiver
from tests.serving import METADATA, chat_request, read_stream
from tests.vllm.launch import VllmProcess, running_vllm, unsupported_cpu

ENGINE = "llm_request"


@pytest.fixture(scope="module")
def traced_vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VllmProcess, str]]:
    """A vLLM that sends its spans to an address, and that address: nobody listens there yet."""
    if reason := unsupported_cpu():
        pytest.skip(reason)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    flags = (f"--otlp-traces-endpoint=grpc://{address}",)
    with running_vllm(tmp_path_factory.mktemp("traced"), flags) as server:
        yield server, address


async def test_gateway_and_engine_share_one_trace(
    traced_vllm: tuple[VllmProcess, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, address = traced_vllm
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{address}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gateway-under-test")
    settings = serving.config(pools=[serving.pool([server.base_url], upstream_model=server.model)])
    async with receiver(address) as otlp, serving.serving(settings) as gateway:
        call = gateway.stub.Generate(
            chat_request(max_output_tokens=8, ignore_eos=True), metadata=METADATA
        )
        seen = await read_stream(call)
        await serving.until(lambda: bool(engine_spans(otlp)))
        check(otlp, seen.done)


def engine_spans(otlp: Receiver) -> list[object]:
    """Spans of the engine in a trace that the gateway has too."""
    mine = {span.trace_id for span in otlp.spans if span.kind == "CLIENT"}
    return [span for span in otlp.spans if span.name == ENGINE and span.trace_id in mine]


def check(otlp: Receiver, done: generation_pb2.Done | None) -> None:
    """The tree: RPC, then attempt, then the engine's own span, with the same counts of tokens."""
    rpc = otlp.one("moegate.v1.InferenceService/Generate")
    attempt = otlp.one(f"chat {serving.MODEL}")
    [engine] = [
        span for span in otlp.spans if span.name == ENGINE and span.trace_id == rpc.trace_id
    ]
    assert attempt.parent_id == rpc.span_id
    assert engine.parent_id == attempt.span_id
    assert attempt.start_ns <= engine.start_ns <= engine.end_ns <= attempt.end_ns + 1_000_000_000
    assert rpc.resource["service.name"] == "gateway-under-test"
    assert done is not None
    assert attempt.attributes["gen_ai.usage.output_tokens"] == 8
    assert engine.attributes["gen_ai.usage.completion_tokens"] == 8
    assert engine.attributes["gen_ai.usage.prompt_tokens"] == done.usage.prompt_tokens
