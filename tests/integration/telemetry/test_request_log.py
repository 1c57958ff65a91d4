"""The JSON log of a gateway: one line for every settled request, however it ended."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from gateway.config.telemetry import LogFormat
from gateway.telemetry import logs
from moegate.v1 import inference_pb2
from tests import serving
from tests.otlp_receiver import receiver
from tests.scripted import GOOD, ROLE, Scripted, upstreams, word
from tests.serving import KEY, METADATA, chat_request, first_message, read_stream

TEXT = "a prompt that nobody may read in a log"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root, requests = logging.getLogger().level, logs.REQUESTS.level
    with logs.logging_to(stream, LogFormat.JSON, "INFO"):
        yield stream
    logging.getLogger().setLevel(root)
    logs.REQUESTS.setLevel(requests)


async def lines(stream: io.StringIO, number: int) -> list[dict[str, Any]]:
    """The lines of requests, once there are so many."""

    def found() -> list[dict[str, Any]]:
        every = [json.loads(line) for line in stream.getvalue().splitlines()]
        return [line for line in every if line["logger"] == logs.REQUESTS.name]

    await serving.until(lambda: len(found()) >= number)
    return found()


async def test_a_request_leaves_one_line_with_its_trace_and_its_account(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiver() as otlp:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        async with upstreams(Scripted(frames=GOOD)) as gateway:
            request = chat_request(TEXT, request_id="r1", session_id="talk")
            seen = await read_stream(gateway.stub.Generate(request, metadata=METADATA))
            await gateway.stub.ListModels(inference_pb2.ListModelsRequest(), metadata=METADATA)
            [line] = await lines(written, 1)
            await otlp.until("moegate.v1.InferenceService/Generate")
    rpc = otlp.one("moegate.v1.InferenceService/Generate")
    assert (line["trace_id"], line["span_id"]) == (rpc.trace_id, rpc.span_id)
    assert seen.done is not None
    expected = {
        "request_id": "r1",
        "tenant": "team",
        "key_id": "test",
        "model": serving.MODEL,
        "slo_class": "interactive",
        "session_id": "talk",
        "outcome": "ok",
        "code": "OK",
        "attempts": 1,
        "placement": "own/a",
        "route": "local",
        "reason": seen.done.route.reason,
        "prompt_tokens": 5,
        "output_tokens": 2,
    }
    assert expected.items() <= line.items()
    assert line["duration_s"] >= line["ttft_s"] > 0
    assert isinstance(line["metered_nano_usd"], int)
    text = written.getvalue()
    assert TEXT not in text
    assert KEY not in text


async def test_a_request_that_ends_badly_leaves_one_too(written: io.StringIO) -> None:
    cut = Scripted(frames=[ROLE, word(1)], end="cut")
    async with upstreams(cut) as gateway:
        with pytest.raises(grpc.aio.AioRpcError):
            await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
        await lines(written, 1)
    hanging = Scripted(frames=[ROLE, word(1)], end="hang")
    async with upstreams(hanging) as gateway:
        call = gateway.stub.Generate(chat_request(), metadata=METADATA)
        await first_message(call)
        call.cancel()
        partial, cancelled = await lines(written, 2)
    assert (partial["outcome"], partial["code"]) == ("partial", "UNAVAILABLE")
    assert "incomplete" in partial["detail"]
    assert (cancelled["outcome"], cancelled["code"]) == ("cancelled", "CANCELLED")
    assert "trace_id" not in partial, "no tracer, no trace"
