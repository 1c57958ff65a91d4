"""The main path on loopback: a gRPC client, the gateway, simulated vLLM servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.config.gateway import KeyConfig, TimeoutsConfig
from gateway.config.limits import KeyLimitsConfig, LimitsConfig
from gateway.config.resolve.api_keys import key_sha256
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from moegate.v1 import (
    chat_pb2,
    generation_pb2,
    inference_pb2,
)
from tests import serving
from tests.serving import METADATA, Serving, chat_request, details, read_stream, trailer

UPSTREAM = "sim-moe"


def engine(**settings: object) -> contextlib.AbstractAsyncContextManager[SimulatedVllm]:
    """A simulated vLLM whose steps take next to no time."""
    fast = {"served_model_name": UPSTREAM, "speed": 100.0, "enable_prompt_tokens_details": True}
    return simulated_vllm(SimulatedVllmConfig(**{**fast, **settings}))  # type: ignore[arg-type]


@pytest.fixture
async def sim() -> AsyncIterator[SimulatedVllm]:
    async with engine() as running:
        yield running


@pytest.fixture
async def gateway(sim: SimulatedVllm) -> AsyncIterator[Serving]:
    settings = serving.config(pools=[serving.pool([sim.url], upstream_model=UPSTREAM)])
    async with serving.serving(settings) as running:
        yield running


async def failure(
    gateway: Serving,
    request: generation_pb2.GenerateRequest,
    metadata: tuple[tuple[str, str], ...] = METADATA,
    timeout_s: float | None = None,
) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_stream(gateway.stub.Generate(request, metadata=metadata, timeout=timeout_s))
    return caught.value


async def test_a_stream_brings_text_then_the_account(gateway: Serving, sim: SimulatedVllm) -> None:
    seen = await read_stream(
        gateway.stub.Generate(chat_request(ignore_eos=True, request_id="mine"), metadata=METADATA)
    )
    assert seen.done is not None
    assert seen.texts[0]
    assert seen.finish_reasons == {0: generation_pb2.FINISH_REASON_LENGTH}
    done = seen.done
    assert done.request_id == "mine"
    assert done.usage.completion_tokens == 16
    assert done.usage.prompt_tokens > 0
    assert done.usage.HasField("cached_tokens")
    # Metered by the pool's price; no showback rate: what it is charged is unknown, not zero.
    assert done.cost.basis == generation_pb2.COST_BASIS_METERED
    assert done.cost.metered_nano_usd == sum(part.nano_usd for part in done.cost.parts) > 0
    assert not done.cost.HasField("charged_nano_usd")
    assert (done.route.target, done.route.replica) == ("own", "a")
    assert "keep every promise" in done.route.reason
    assert [attempt.outcome for attempt in done.route.attempts] == ["ok"]
    assert done.timings.ttft.ToNanoseconds() > 0
    assert done.timings.total.ToNanoseconds() >= done.timings.ttft.ToNanoseconds()
    gap_ns = done.timings.longest_gap.ToNanoseconds()
    assert done.timings.tpot.ToNanoseconds() <= gap_ns <= done.timings.total.ToNanoseconds()


async def test_a_unary_call_brings_the_same(gateway: Serving) -> None:
    sampling = generation_pb2.Sampling(seed=7)
    request = chat_request(choices=2, sampling=sampling)
    streamed = await read_stream(gateway.stub.Generate(request, metadata=METADATA))
    response = await gateway.stub.GenerateOnce(
        inference_pb2.GenerateOnceRequest(request=request), metadata=METADATA
    )
    assert {choice.index: choice.text for choice in response.choices} == streamed.texts
    assert streamed.done is not None
    assert response.done.usage.completion_tokens == streamed.done.usage.completion_tokens


async def test_logprobs_and_stop(gateway: Serving) -> None:
    request = chat_request(logprobs=2, ignore_eos=True, max_output_tokens=4)
    response = await gateway.stub.GenerateOnce(
        inference_pb2.GenerateOnceRequest(request=request), metadata=METADATA
    )
    [choice] = response.choices
    assert len(choice.logprobs) == 4
    assert "".join(entry.token for entry in choice.logprobs) == choice.text
    assert all(len(entry.top) == 2 for entry in choice.logprobs)


async def test_models_and_token_counts(gateway: Serving) -> None:
    models = await gateway.stub.ListModels(inference_pb2.ListModelsRequest(), metadata=METADATA)
    [model] = models.models
    assert (model.name, model.local_replicas, model.local_replicas_serving) == ("moe", 1, 1)
    assert model.context_tokens > 0
    ids = chat_pb2.TokenInput(token_ids=[1, 2, 3])
    counted = await gateway.stub.CountTokens(
        inference_pb2.CountTokensRequest(
            request=generation_pb2.GenerateRequest(model="moe", prompt="one two three")
        ),
        metadata=METADATA,
    )
    assert counted.exact
    assert counted.prompt_tokens > 0
    streamed = await read_stream(
        gateway.stub.Generate(
            generation_pb2.GenerateRequest(model="moe", prompt_tokens=ids, max_output_tokens=2),
            metadata=METADATA,
        )
    )
    assert streamed.done is not None
    assert streamed.done.usage.prompt_tokens == 3


async def test_who_may_not_call_is_told_so(sim: SimulatedVllm) -> None:
    other = KeyConfig(id="other", sha256=key_sha256("mg-other"), models=("moe2",))
    batch = KeyConfig(id="batch", sha256=key_sha256("mg-batch"), slo_classes=("batch",))  # type: ignore[arg-type]
    settings = serving.config(
        pools=[serving.pool([sim.url], upstream_model=UPSTREAM)], keys=[other, batch]
    )
    async with serving.serving(settings) as gateway:
        for metadata in ((), (("authorization", "Bearer mg-wrong"),), (("x-api-key", ""),)):
            error = await failure(gateway, chat_request(), metadata)
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "mg-wrong" not in (error.details() or "")
        error = await failure(gateway, chat_request(), (("x-api-key", "mg-other"),))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        models = await gateway.stub.ListModels(
            inference_pb2.ListModelsRequest(), metadata=(("x-api-key", "mg-other"),)
        )
        assert not models.models
        wanted = chat_request(
            slo=generation_pb2.Slo(slo_class=generation_pb2.SLO_CLASS_INTERACTIVE)
        )
        error = await failure(gateway, wanted, (("x-api-key", "mg-batch"),))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_key_at_its_limit_is_told_when_to_come_back(sim: SimulatedVllm) -> None:
    few = KeyConfig(
        id="few", sha256=key_sha256("mg-few"), limits=KeyLimitsConfig(requests_per_minute=2)
    )
    settings = serving.config(pools=[serving.pool([sim.url], upstream_model=UPSTREAM)], keys=[few])
    metadata = (("x-api-key", "mg-few"),)
    async with serving.serving(settings) as gateway:
        for _ in range(2):
            await read_stream(gateway.stub.Generate(chat_request(), metadata=metadata))
        error = await failure(gateway, chat_request(), metadata)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(trailer(error, "grpc-retry-pushback-ms") or 0) > 0
    assert any(isinstance(detail, error_details_pb2.RetryInfo) for detail in details(error))


async def test_faults_of_the_request(gateway: Serving) -> None:
    error = await failure(gateway, chat_request(priority=99))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    [bad] = details(error)
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert bad.field_violations[0].field == "priority"
    error = await failure(gateway, chat_request(model="nobody"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    [resource] = details(error)
    assert isinstance(resource, error_details_pb2.ResourceInfo)
    assert resource.resource_name == "nobody"
    error = await failure(gateway, chat_request("word " * 60_000))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "context" in (error.details() or "")
    tokens = chat_pb2.TokenInput(token_ids=[1] * 50_000)
    too_long = generation_pb2.GenerateRequest(model="moe", prompt_tokens=tokens)
    error = await failure(gateway, too_long)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_request_id_that_is_in_flight_is_refused(sim: SimulatedVllm) -> None:
    async with engine(speed=1.0) as slow:
        settings = serving.config(pools=[serving.pool([slow.url], upstream_model=UPSTREAM)])
        async with serving.serving(settings) as gateway:
            request = chat_request(request_id="twice", max_output_tokens=4000, ignore_eos=True)
            first = gateway.stub.Generate(request, metadata=METADATA)
            await first.read()
            error = await failure(gateway, request)
            assert error.code() is grpc.StatusCode.ALREADY_EXISTS
            first.cancel()


async def test_an_idempotency_key_is_good_for_one_generation(gateway: Serving) -> None:
    request = chat_request(idempotency_key="once", request_id="first")
    await read_stream(gateway.stub.Generate(request, metadata=METADATA))
    error = await failure(gateway, chat_request(idempotency_key="once", request_id="second"))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    [info] = details(error)
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert info.metadata["request_id"] == "first"
    # A request that is refused has not used its key up.
    refused = chat_request(idempotency_key="other", model="moe", max_output_tokens=1)
    refused.prompt_tokens.token_ids.extend([1] * 50_000)
    for _ in range(2):
        error = await failure(gateway, refused)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_deadline_that_passes_frees_the_engine() -> None:
    async with engine(speed=1.0) as slow:
        settings = serving.config(pools=[serving.pool([slow.url], upstream_model=UPSTREAM)])
        async with serving.serving(settings) as gateway:
            request = chat_request(max_output_tokens=4000, ignore_eos=True)
            error = await failure(gateway, request, timeout_s=0.5)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await serving.until(lambda: slow.open_requests == 0)
            await serving.until(lambda: gateway.gateway.pipeline.active_requests == 0)


async def test_the_default_deadline_holds_where_the_client_sets_none() -> None:
    async with engine(speed=1.0) as slow:
        settings = serving.config(
            pools=[serving.pool([slow.url], upstream_model=UPSTREAM)],
            limits=LimitsConfig(default_deadline_s=3.0),
        )
        async with serving.serving(settings) as gateway:
            request = chat_request(max_output_tokens=4000, ignore_eos=True)
            error = await failure(gateway, request)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert trailer(error, "moegate-usage-bin"), "content was sent: usage so far is told"


async def test_a_deadline_in_the_queue_is_told_at_once() -> None:
    async with engine(speed=1.0) as slow:
        settings = serving.config(
            pools=[serving.pool([slow.url], upstream_model=UPSTREAM, max_num_seqs=1)]
        )
        async with serving.serving(settings) as gateway:
            blocker = gateway.stub.Generate(
                chat_request(max_output_tokens=4000, ignore_eos=True), metadata=METADATA
            )
            await blocker.read()
            error = await failure(gateway, chat_request(), timeout_s=0.4)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            blocker.cancel()


async def test_a_full_queue_overflows_to_the_remote_and_what_must_stay_is_refused() -> None:
    async with engine(speed=1.0) as slow, engine() as far:
        settings = serving.config(
            pools=[serving.pool([slow.url], upstream_model=UPSTREAM, max_num_seqs=1)],
            remotes=[serving.remote(far.url, upstream_model=UPSTREAM)],
            limits=LimitsConfig(queue_requests=1),
        )
        async with serving.serving(settings) as gateway:
            long = chat_request(max_output_tokens=4000, ignore_eos=True)
            running = gateway.stub.Generate(long, metadata=METADATA)
            await running.read()
            waiting = gateway.stub.Generate(long, metadata=METADATA)
            scheduler = gateway.gateway.scheduler.core
            await serving.until(lambda: scheduler.queued_requests == 1)
            seen = await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
            assert seen.done is not None
            assert seen.done.route.kind == generation_pb2.PLACEMENT_KIND_REMOTE
            assert (seen.done.route.target, seen.done.route.replica) == ("far", "")
            assert "own servers saturated" in seen.done.route.reason
            private = chat_request(data_policy=generation_pb2.DataPolicy(local_only=True))
            error = await failure(gateway, private)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert int(trailer(error, "grpc-retry-pushback-ms") or 0) >= 200
            local_field = chat_request(sampling=generation_pb2.Sampling(top_k=5))
            error = await failure(gateway, local_field)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, "top_k is not dropped"
            running.cancel()
            waiting.cancel()


async def test_a_dead_replica_is_left_before_content_and_taken_back_when_it_serves() -> None:
    async with engine() as good:
        async with engine() as dying:
            settings = serving.config(
                pools=[serving.pool([dying.url, good.url], upstream_model=UPSTREAM)]
            )
            stack = contextlib.AsyncExitStack()
            gateway = await stack.enter_async_context(serving.serving(settings))
        async with stack:
            for _ in range(4):
                seen = await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
                assert seen.done is not None
                assert seen.done.route.replica == "b"
            await serving.until_serving(gateway.gateway, 1)


async def test_nothing_in_service_is_unavailable_and_unhealthy() -> None:
    settings = serving.config(
        pools=[
            serving.pool(
                ["http://127.0.0.1:1"],
                upstream_model=UPSTREAM,
                timeouts=TimeoutsConfig(connect_s=0.2),
            )
        ]
    )
    async with serving.serving(settings, ready=False) as gateway:
        error = await failure(gateway, chat_request())
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert int(trailer(error, "grpc-retry-pushback-ms") or 0) > 0
        health = health_pb2_grpc.HealthStub(gateway.channel)
        for name in ("", "moegate.v1.InferenceService"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_health_reflection_and_services_of_later_versions(gateway: Serving) -> None:
    health = health_pb2_grpc.HealthStub(gateway.channel)
    answer = await health.Check(
        health_pb2.HealthCheckRequest(service="moegate.v1.InferenceService")
    )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflect = reflection_pb2_grpc.ServerReflectionStub(gateway.channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    [listed] = [reply async for reply in reflect.ServerReflectionInfo(iter([ask]))]
    names = {service.name for service in listed.list_services_response.service}
    assert "moegate.v1.InferenceService" in names
    for method in ("LaterService/Get", "InferenceService/Later"):
        later: Any = gateway.channel.unary_unary(f"/moegate.v1.{method}")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await later(b"", metadata=METADATA)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_draining_lets_streams_finish() -> None:
    async with engine(speed=20.0) as slow:
        settings = serving.config(pools=[serving.pool([slow.url], upstream_model=UPSTREAM)])
        async with serving.serving(settings) as gateway:
            request = chat_request(max_output_tokens=200, ignore_eos=True)
            call = gateway.stub.Generate(request, metadata=METADATA)
            await call.read()
            reading = asyncio.create_task(read_stream(call))
            # The stream must still come to its end.
            await asyncio.sleep(0)
            await gateway.gateway.drain()
            # On a busy machine the last messages are sent before they are read.
            seen = await reading
        assert seen.done is not None
        assert seen.done.usage.completion_tokens == 200


async def test_explicit_slo_figures_are_taken_from_a_key_that_may(sim: SimulatedVllm) -> None:
    key = KeyConfig(id="fast", sha256=key_sha256("mg-fast"), min_ttft_s=1.0, min_tpot_s=0.05)
    settings = serving.config(pools=[serving.pool([sim.url], upstream_model=UPSTREAM)], keys=[key])
    slo = generation_pb2.Slo(ttft=Duration(seconds=1), tpot=Duration(nanos=50_000_000))
    async with serving.serving(settings) as gateway:
        request, metadata = chat_request(slo=slo), (("x-api-key", "mg-fast"),)
        seen = await read_stream(gateway.stub.Generate(request, metadata=metadata))
        assert seen.done is not None
        error = await failure(gateway, request)
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "slo.ttft: 1 s is below 2 s" in (error.details() or "")
