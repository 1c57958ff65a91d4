"""Every RPC takes from the limits of its key, whatever becomes of it; over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from gateway.config.gateway import KeyConfig, KeyRole
from gateway.config.limits import KeyLimitsConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.config.telemetry import TelemetryConfig
from gateway.doors.grpc.listening import request_bounds
from gateway.doors.grpc.listening.held_slots import GENERATIONS
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from moegate.v1 import inference_pb2, usage_pb2, usage_pb2_grpc
from tests import serving
from tests.gateway.doors.grpc.listening.test_key_check import METHODS
from tests.serving import METADATA, Serving, chat_request, detail, read_stream, trailer

FEW = (("x-api-key", "mg-few"),)
ONE = (("x-api-key", "mg-one"),)
NO_MESSAGE = b"\xff" * 10


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedVllm]:
    async with simulated_vllm(SimulatedVllmConfig(served_model_name="sim", speed=20.0)) as running:
        yield running


@pytest.fixture
async def gateway(engine: SimulatedVllm) -> AsyncIterator[Serving]:
    keys = [
        KeyConfig(id=name, sha256=key_sha256(f"mg-{name}"), role=KeyRole.OPERATOR, limits=limits)
        for name, limits in (
            ("few", KeyLimitsConfig(requests_per_minute=2)),
            ("one", KeyLimitsConfig(concurrent_requests=1)),
        )
    ]
    pools = [serving.pool([engine.url], upstream_model="sim")]
    telemetry = TelemetryConfig(metrics_listen="127.0.0.1:0")
    settings = serving.config(pools=pools, keys=keys, telemetry=telemetry)
    async with serving.serving(settings) as running:
        yield running


async def error_of(
    gateway: Serving, method: str, raw: bytes, metadata: Any, *, streamed: bool
) -> grpc.aio.AioRpcError | None:
    """Sends raw bytes as a request and returns the error; None: it is answered."""
    make: Any = gateway.channel.unary_stream if streamed else gateway.channel.unary_unary
    call = make(method)(raw, metadata=metadata)
    try:
        await (call.read() if streamed else call)
    except grpc.aio.AioRpcError as error:
        return error
    finally:
        call.cancel()
    return None


def is_limit(error: grpc.aio.AioRpcError | None, limit: str) -> bool:
    """Whether an RPC was refused by a limit of its key, with all that a client needs to retry."""
    if error is None or error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
        return False
    assert detail(error, error_details_pb2.ErrorInfo).reason == "KEY_LIMIT"
    assert f"is at its limit {limit}" in (error.details() or "")
    assert detail(error, error_details_pb2.RetryInfo).retry_delay.ToMilliseconds() > 0
    assert int(trailer(error, "grpc-retry-pushback-ms") or 0) > 0
    return True


@pytest.mark.parametrize("raw", [b"", NO_MESSAGE], ids=["empty", "malformed"])
@pytest.mark.parametrize(("method", "streamed"), METHODS)
async def test_every_rpc_is_one_request_of_its_key(
    gateway: Serving, method: str, streamed: bool, raw: bytes
) -> None:
    for _ in range(2):
        error = await error_of(gateway, method, raw, FEW, streamed=streamed)
        assert not is_limit(error, "requests_per_minute")
    error = await error_of(gateway, method, raw, FEW, streamed=streamed)
    assert is_limit(error, "requests_per_minute")
    other = await error_of(gateway, method, raw, METADATA, streamed=streamed)
    assert not is_limit(other, "requests_per_minute"), "another key has its own limits"


async def test_refusals_are_counted_and_the_log_names_the_key_once_a_minute(
    gateway: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    instruments = gateway.gateway.telemetry.instruments
    assert instruments is not None
    labels = {"moegate_refusal_reason": "KEY_LIMIT"}
    caplog.set_level("INFO", "gateway.doors.entry.key_limits")
    models = inference_pb2.ListModelsRequest()
    for number in range(22):
        call = gateway.stub.ListModels(models, metadata=FEW)
        assert (await call.code() is grpc.StatusCode.OK) == (number < 2)
    counted = instruments.registry.get_sample_value("moegate_rpc_refusals_total", labels)
    assert counted == 20
    (record,) = (found for found in caplog.records if "is at its limit" in found.getMessage())
    assert "key few of tenant team is at its limit requests_per_minute" in record.getMessage()


async def test_all_rpcs_take_from_one_rate(gateway: Serving) -> None:
    await gateway.stub.ListModels(inference_pb2.ListModelsRequest(), metadata=FEW)
    seen = await read_stream(gateway.stub.Generate(chat_request(), metadata=FEW))
    assert seen.done is not None, "a generation is one request, not two"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_stream(gateway.stub.Generate(chat_request(), metadata=FEW))
    assert is_limit(caught.value, "requests_per_minute")


async def test_a_key_at_its_rate_makes_the_gateway_read_nothing(
    gateway: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        await gateway.stub.ListModels(inference_pb2.ListModelsRequest(), metadata=FEW)

    async def must_not(*_: object) -> object:
        raise AssertionError("a request was read although its key is at its rate")

    monkeypatch.setattr(request_bounds, "parse_message", must_not)
    for method, streamed in METHODS:
        error = await error_of(gateway, method, b"", FEW, streamed=streamed)
        assert is_limit(error, "requests_per_minute")


@pytest.mark.parametrize(("method", "streamed"), METHODS)
async def test_an_rpc_holds_a_slot_only_while_it_runs(
    gateway: Serving, method: str, streamed: bool
) -> None:
    usage: Any = usage_pb2_grpc.UsageServiceStub(gateway.channel)
    watch = usage.WatchFleet(usage_pb2.WatchFleetRequest(), metadata=ONE)
    await watch.read()
    raw = b""
    if method in GENERATIONS:  # takes its slot when it is submitted, so it must be well-formed
        request = chat_request()
        once = inference_pb2.GenerateOnceRequest(request=request)
        raw = (request if streamed else once).SerializeToString()
    error = await error_of(gateway, method, raw, ONE, streamed=streamed)
    assert is_limit(error, "concurrent_requests")
    watch.cancel()
    async with asyncio.timeout(serving.READY_S):
        while is_limit(
            await error_of(gateway, method, raw, ONE, streamed=streamed), "concurrent_requests"
        ):
            await asyncio.sleep(0.01)


async def test_a_generation_holds_one_slot_and_frees_it(gateway: Serving) -> None:
    endless = chat_request(max_output_tokens=4000, ignore_eos=True)
    stream = gateway.stub.Generate(endless, metadata=ONE)
    await stream.read()
    quote = inference_pb2.QuoteRequest(request=chat_request())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.stub.Quote(quote, metadata=ONE)
    assert is_limit(caught.value, "concurrent_requests")
    stream.cancel()
    await serving.until(lambda: gateway.gateway.pipeline.active_requests == 0)
    for _ in range(3):
        await gateway.stub.Quote(quote, metadata=ONE)
