"""A gateway that overflows to another one: real gRPC between them, and a simulated vLLM behind."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
import trustme

from gateway.config.gateway import GatewayConfig, RemoteConfig, SecretConfig, TimeoutsConfig
from gateway.config.limits import LimitsConfig
from gateway.config.remote import OtherGatewayConfig, RemoteApi
from gateway.config.server import TlsConfig
from gateway.upstream.moegate.client import MoegateClient
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2
from scheduler.metering.settlement import SettledAttempt, Sink
from tests import serving
from tests.misbehaving import Script, Side, Upstream, listening, misbehaving
from tests.serving import (
    KEY,
    METADATA,
    MODEL,
    Serving,
    chat_request,
    first_message,
    read_stream,
    until,
)

ENGINE = SimulatedVllmConfig(served_model_name="sim", speed=20.0)
SLOW = SimulatedVllmConfig(served_model_name="sim", speed=0.5, max_num_seqs=1)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEGATE_INNER_KEY", KEY)


def beyond(address: str, name: str = "far", **fields: Any) -> RemoteConfig:
    """The gateway at that address, as a remote."""
    made = RemoteConfig(
        name=name,
        remote_class="eu",
        model=MODEL,
        api=RemoteApi.MOEGATE,
        url=f"grpc://{address}",
        api_key=SecretConfig(env="MOEGATE_INNER_KEY"),
        timeouts=TimeoutsConfig(connect_s=2.0, first_token_s=30.0, idle_s=30.0, total_s=60.0),
    )
    return msgspec.structs.replace(made, **fields)


def outer_config(*remotes: RemoteConfig) -> GatewayConfig:
    return serving.config(remotes=remotes)


@contextlib.asynccontextmanager
async def two(
    engine: SimulatedVllmConfig = ENGINE,
    *,
    limits: LimitsConfig | None = None,
    sinks: tuple[Sink, ...] = (),
) -> AsyncIterator[tuple[Serving, Serving, SimulatedVllm]]:
    """The outer gateway, the inner one, and the engine behind that. `sinks`: of the outer one."""
    async with simulated_vllm(engine) as vllm:
        own = serving.pool([vllm.url], upstream_model="sim", max_num_seqs=engine.max_num_seqs)
        async with (
            serving.serving(serving.config(pools=[own], limits=limits)) as inner,
            serving.serving(outer_config(beyond(inner.gateway.address)), sinks=sinks) as outer,
        ):
            yield outer, inner, vllm


async def closes(*gateways: Serving) -> None:
    """Nothing runs or waits in any of them."""
    for served in gateways:
        scheduler = served.gateway.scheduler.core
        await until(lambda scheduler=scheduler: repr(scheduler).endswith(" 0 queued, 0 running>"))  # type: ignore[misc]
        await until(lambda served=served: served.gateway.pipeline.active_requests == 0)  # type: ignore[misc]


async def refused(gateway: Serving, **fields: Any) -> grpc.aio.AioRpcError:
    call = gateway.stub.Generate(chat_request(**fields), metadata=METADATA)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_stream(call)
    return caught.value


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"choices": 2, "max_output_tokens": 5},
        {"prompt": "Once upon a time"},
        {"prompt_tokens": {"token_ids": [1, 2, 3, 4]}, "ignore_eos": True},
    ],
)
async def test_an_answer_is_the_same_through_another_gateway(fields: dict[str, Any]) -> None:
    request = chat_request(sampling={"seed": 7}, **fields)
    async with two() as (outer, inner, _):
        near = await read_stream(inner.stub.Generate(request, metadata=METADATA))
        far = await read_stream(outer.stub.Generate(request, metadata=METADATA))
        assert near.done is not None
        assert far.done is not None
        assert far.finish_reasons == near.finish_reasons
        assert far.done.model == near.done.model == "sim"
        usage = far.done.usage
        assert usage.prompt_tokens == near.done.usage.prompt_tokens
        assert usage.completion_tokens == near.done.usage.completion_tokens
        assert not usage.estimated
        assert {index: len(text) for index, text in far.texts.items()}.keys() == near.texts.keys()
        if not fields:
            assert far.texts == near.texts
        assert far.done.route.kind == generation_pb2.PLACEMENT_KIND_REMOTE
        assert far.done.route.target == "far"
        once = await outer.stub.GenerateOnce(
            inference_pb2.GenerateOnceRequest(request=request), metadata=METADATA
        )
        assert {c.index: len(c.text) > 0 for c in once.choices} == dict.fromkeys(near.texts, True)
        await closes(outer, inner)


async def test_logprobs_come_through() -> None:
    async with two() as (outer, _, _):
        request = inference_pb2.GenerateOnceRequest(
            request=chat_request(logprobs=2, max_output_tokens=4)
        )
        answer = await outer.stub.GenerateOnce(request, metadata=METADATA)
        (choice,) = answer.choices
        assert len(choice.logprobs) == answer.done.usage.completion_tokens
        assert all(len(entry.top) == 2 and entry.logprob <= 0 for entry in choice.logprobs)


def full_request() -> generation_pb2.GenerateRequest:
    image = chat_pb2.ContentPart(image={"data": b"\x89PNG", "media_type": "image/png"})
    call = chat_pb2.ToolCall(id="c1", name="look", arguments_json='{"q":1}')
    tool = chat_pb2.ToolDefinition(name="look", description="Looks.", parameters_json_schema="{}")
    chat = chat_pb2.ChatInput(
        messages=[
            {"role": chat_pb2.ROLE_SYSTEM, "parts": [{"text": "Be short."}]},
            {"role": chat_pb2.ROLE_USER, "parts": [{"text": "And?"}, image], "name": "ann"},
            {"role": chat_pb2.ROLE_ASSISTANT, "tool_calls": [call], "reasoning_text": "Hm."},
            {"role": chat_pb2.ROLE_TOOL, "parts": [{"text": "42"}], "tool_call_id": "c1"},
        ],
        tools=[tool],
        tool_choice={"function_name": "look"},
        response_format={"json_schema": {"name": "s", "schema_json": "{}", "strict": True}},
    )
    return chat_request(
        chat=chat,
        sampling={"temperature": 0.5, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1},
        stop=["END"],
        ignore_eos=True,
    )


async def test_the_engine_is_asked_the_same_through_another_gateway() -> None:
    engine = Upstream(Side.LOCAL, Script())
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(listening(engine))
        inner = await stack.enter_async_context(
            serving.serving(serving.config(pools=[serving.pool([engine.url])]))
        )
        outer = await stack.enter_async_context(
            serving.serving(outer_config(beyond(inner.gateway.address)))
        )
        for gateway in (inner, outer):
            await read_stream(gateway.stub.Generate(full_request(), metadata=METADATA))
        near, far = engine.bodies
        for body in (near, far):
            body.pop("request_id", None)
            body.pop("stream_interval", None)
        assert near["tools"]
        assert near["response_format"]
        assert far == near


async def test_an_own_pool_that_is_full_overflows_to_the_other_gateway() -> None:
    async with simulated_vllm(ENGINE) as far, simulated_vllm(SLOW) as near:
        there = serving.config(pools=[serving.pool([far.url], upstream_model="sim")])
        async with serving.serving(there) as inner:
            own = serving.pool([near.url], upstream_model="sim", max_num_seqs=1)
            here = serving.config(pools=[own], remotes=[beyond(inner.gateway.address)])
            async with serving.serving(here) as outer:
                long = chat_request(max_output_tokens=150, ignore_eos=True)
                calls = [outer.stub.Generate(long, metadata=METADATA) for _ in range(8)]
                answers = await asyncio.gather(*map(read_stream, calls))
                targets = [seen.done.route.target for seen in answers if seen.done is not None]
                assert len(targets) == 8
                assert "far" in targets
                await closes(outer, inner)


async def test_a_client_that_leaves_frees_the_engine_behind_the_other_gateway() -> None:
    async with two(SLOW) as (outer, inner, vllm):
        call = outer.stub.Generate(
            chat_request(max_output_tokens=4000, ignore_eos=True), metadata=METADATA
        )
        await first_message(call)
        assert vllm.open_requests == 1
        call.cancel()
        await until(lambda: vllm.open_requests == 0)
        await closes(outer, inner)


async def test_clients_that_leave_at_random_leave_nothing_in_either_gateway() -> None:
    rng = random.Random(8)

    async def one(outer: Serving) -> None:
        call = outer.stub.Generate(
            chat_request(max_output_tokens=200, ignore_eos=True), metadata=METADATA
        )
        reading = asyncio.create_task(read_stream(call))
        await asyncio.wait((reading,), timeout=rng.random() * 0.5)
        call.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    async with two() as (outer, inner, vllm):
        await asyncio.gather(*(one(outer) for _ in range(40)))
        await until(lambda: vllm.open_requests == 0)
        await closes(outer, inner)
        # The channel has come through it all: it serves on.
        await read_stream(outer.stub.Generate(chat_request(), metadata=METADATA))


async def test_a_saturated_gateway_is_spared_for_as_long_as_it_asks() -> None:
    settled: list[SettledAttempt] = []
    limits = LimitsConfig(queue_requests=1)
    async with two(SLOW, limits=limits, sinks=(settled.append,)) as (outer, inner, _):
        long = chat_request(max_output_tokens=4000, ignore_eos=True)
        running = inner.stub.Generate(long, metadata=METADATA)
        await first_message(running)
        waiting = inner.stub.Generate(long, metadata=METADATA)
        queued = asyncio.create_task(waiting.read())
        await until(lambda: "1 queued" in repr(inner.gateway.scheduler.core))
        error = await refused(outer)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        trailers = dict(error.trailing_metadata() or ())
        pause_s = int(str(trailers["grpc-retry-pushback-ms"])) / 1000
        assert pause_s > 0
        # It is paused now: the next request waits here, not there.
        late = outer.stub.Generate(chat_request(), metadata=METADATA, timeout=pause_s / 2)
        with pytest.raises(grpc.aio.AioRpcError):
            await read_stream(late)
        assert len(settled) == 1
        running.cancel()
        waiting.cancel()
        await asyncio.gather(queued, return_exceptions=True)
        await closes(outer, inner)


async def test_a_gateway_that_dies_after_content_leaves_a_partial_answer() -> None:
    async with two(SLOW) as (outer, inner, _):
        call = outer.stub.Generate(
            chat_request(max_output_tokens=4000, ignore_eos=True), metadata=METADATA
        )
        await first_message(call)
        await inner.gateway.server.stop(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_stream(call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "incomplete" in (caught.value.details() or "")
        await closes(outer)


async def test_a_gateway_that_is_dead_is_replaced_by_another_one() -> None:
    async with two() as (_, dead, _), two() as (_, alive, _):
        remotes = (beyond(dead.gateway.address, "far"), beyond(alive.gateway.address, "near"))
        async with serving.serving(outer_config(*remotes)) as outer:
            await read_stream(outer.stub.Generate(chat_request(), metadata=METADATA))
            await dead.gateway.server.stop(0)
            for _ in range(6):
                seen = await read_stream(outer.stub.Generate(chat_request(), metadata=METADATA))
                assert seen.done is not None
                assert seen.done.route.target == "near"
            await closes(outer)


async def test_a_gateway_that_comes_back_is_used_again() -> None:
    async with simulated_vllm(ENGINE) as vllm:
        there = serving.config(pools=[serving.pool([vllm.url], upstream_model="sim")])
        async with contextlib.AsyncExitStack() as first_life:
            inner = await first_life.enter_async_context(serving.serving(there))
            address = inner.gateway.address
            outer = await first_life.enter_async_context(
                serving.serving(outer_config(beyond(address)))
            )
            await read_stream(outer.stub.Generate(chat_request(), metadata=METADATA))
            await inner.gateway.server.stop(0)
            assert "no connection" in str((await refused(outer)).details())
            again = msgspec.structs.replace(there.server, listen=address)
            async with serving.serving(msgspec.structs.replace(there, server=again)):
                async with asyncio.timeout(serving.READY_S):
                    while True:
                        with contextlib.suppress(grpc.aio.AioRpcError):
                            call = outer.stub.Generate(chat_request(), metadata=METADATA)
                            await read_stream(call)
                            break
                        await asyncio.sleep(0.1)


async def test_a_server_that_accepts_and_says_nothing_is_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        short = TimeoutsConfig(connect_s=0.3, first_token_s=30.0, idle_s=30.0, total_s=60.0)
        async with serving.serving(outer_config(beyond(address, timeouts=short))) as outer:
            assert "no connection" in str((await refused(outer)).details())
            await closes(outer)


async def test_two_gateways_that_overflow_to_each_other_do_not_pass_a_request_round() -> None:
    first = outer_config(beyond("127.0.0.1:9", "second"))
    async with serving.serving(first) as a:
        second = outer_config(beyond(a.gateway.address, "first"))
        async with serving.serving(second) as b:
            old = a.gateway.parts.fleet.connections.clients["second"]
            assert isinstance(old, MoegateClient)
            await refused(a)
            again = outer_config(beyond(b.gateway.address, "second"))
            await a.gateway.reload(again, Path.cwd())
            await until(lambda: old._closed)
            error = await refused(a)
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "moegate-hops" in (error.details() or "")
            assert "overflow to each other" in (error.details() or "")
            await closes(a, b)


async def test_a_chain_of_three_needs_to_be_allowed() -> None:
    async with two() as (middle, _, _):
        longer = beyond(
            middle.gateway.active.config.remotes[0].url.removeprefix("grpc://"),
            gateway=OtherGatewayConfig(max_hops=2),
        )
        async with serving.serving(outer_config(beyond(middle.gateway.address))) as outer:
            error = await refused(outer)
            assert "moegate-hops" in (error.details() or "")
            await middle.gateway.reload(outer_config(longer), Path.cwd())
            seen = await read_stream(outer.stub.Generate(chat_request(), metadata=METADATA))
            assert seen.done is not None
            await closes(outer, middle)


async def test_a_wrong_key_sets_the_gateway_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEGATE_WRONG_KEY", "mg-wrong")
    async with two() as (_, inner, _):
        made = beyond(inner.gateway.address, api_key=SecretConfig(env="MOEGATE_WRONG_KEY"))
        async with serving.serving(outer_config(made)) as outer:
            error = await refused(outer)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert "mg-wrong" not in (error.details() or "")


async def test_over_tls_with_an_authority_of_its_own(tmp_path: Path) -> None:
    authority = trustme.CA()
    pair = authority.issue_cert("127.0.0.1")
    pair.private_key_pem.write_to_path(tmp_path / "tls.key")
    pair.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    async with simulated_vllm(ENGINE) as vllm:
        there = serving.config(pools=[serving.pool([vllm.url], upstream_model="sim")])
        tls = msgspec.structs.replace(there.server, tls=TlsConfig(cert="tls.crt", key="tls.key"))
        there = msgspec.structs.replace(there, server=tls)
        async with serving.serving_in(tmp_path, there) as inner:
            url = f"grpcs://{inner.gateway.address}"
            trusting = beyond("", url=url, gateway=OtherGatewayConfig(ca=str(tmp_path / "ca.crt")))
            async with serving.serving(outer_config(trusting)) as outer:
                await read_stream(outer.stub.Generate(chat_request(), metadata=METADATA))
            async with serving.serving(outer_config(beyond("", url=url))) as outer:
                error = await refused(outer)
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                assert "no connection" in (error.details() or "")


async def test_the_other_gateway_learns_deadline_class_trace_and_hops_and_no_id() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with misbehaving(Side.MOEGATE, Script()) as bench:
        slo = generation_pb2.Slo(slo_class=generation_pb2.SLO_CLASS_BATCH)
        request = chat_request(request_id="mine", session_id="s", slo=slo, priority=-2)
        metadata = (*METADATA, ("traceparent", trace))
        await read_stream(bench.served.stub.Generate(request, metadata=metadata, timeout=20))
        (headers,) = bench.upstreams[0].headers
        # gRPC rounds it up on the wire, to a tenth of a second here.
        assert 0 < float(headers["grpc-timeout"]) <= 20.2
        assert headers["moegate-hops"] == "1"
        assert headers["traceparent"].split("-")[1] == trace.split("-")[1]
        assert "authorization" not in headers, "the caller's key is not passed on"
        assert "mine" not in str(headers)
        (told,) = bench.upstreams[0].bodies
        assert told["slo"] == {"slo_class": "SLO_CLASS_BATCH"}
        assert told["priority"] == -2
        assert {"request_id", "session_id"}.isdisjoint(told)


async def test_hops_that_are_no_number_are_refused() -> None:
    async with two() as (outer, _, _):
        metadata = (*METADATA, ("moegate-hops", "many"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_stream(outer.stub.Generate(chat_request(), metadata=metadata))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
