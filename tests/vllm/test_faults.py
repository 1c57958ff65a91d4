"""Real vLLM servers that start late, die and hang: what clients of the gateway are told.

Three servers of this file's own start at once, since a start takes most of a minute, and each
serves one fault. The first test must find them starting; whatever comes after waits for them.
The shared server is the healthy replica and outlives them all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import aiohttp
import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from msgspec import structs

from gateway.config.gateway import GatewayConfig, TimeoutsConfig
from gateway.doors.grpc.listening.health import INFERENCE
from moegate.v1 import generation_pb2, inference_pb2
from tests import serving
from tests.serving import (
    METADATA,
    Serving,
    chat_request,
    detail,
    first_message,
    partial_output,
    read_stream,
    trailer,
)
from tests.vllm.launch import (
    MODEL_NAME,
    START_LIMIT_S,
    StartedVllm,
    VllmProcess,
    started_vllm,
    unsupported_cpu,
)

LIMIT_S = 90.0
"""Bound on every wait once the servers are up: a call that hangs fails by it."""
ENDLESS_TOKENS = 7000
"""More than a test lets a stream run: half a minute on an idle machine."""
IDLE_S = 8.0

GROUP_KILLED, ENGINE_KILLED, SILENCED = range(3)
"""Which of the servers gets which fault."""


@pytest.fixture(scope="module")
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[StartedVllm]]:
    """The servers that will fail, not waited for."""
    if reason := unsupported_cpu():
        pytest.skip(reason)
    log_dir = tmp_path_factory.mktemp("faults")
    # No drain on SIGTERM: vLLM's default.
    flags = ["--shutdown-timeout=0", "--enable-server-load-tracking"]
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(started_vllm(log_dir, flags)) for _ in range(3)]


@pytest.fixture(scope="module")
def victims(starting: Sequence[StartedVllm]) -> Sequence[StartedVllm]:
    """The same, once they serve."""
    for victim in starting:
        victim.wait_until_serving()
    return starting


def in_front_of(
    *urls: str,
    first_token_s: float = TimeoutsConfig().first_token_s,
    idle_s: float = TimeoutsConfig().idle_s,
) -> GatewayConfig:
    """A gateway's settings, with the servers as replicas a, b, c in order."""
    timeouts = structs.replace(serving.CONNECTS, first_token_s=first_token_s, idle_s=idle_s)
    pool = serving.pool(urls, upstream_model=MODEL_NAME, max_num_seqs=32, timeouts=timeouts)
    return serving.config(pools=[pool], interactive=serving.PATIENT)


async def health(gateway: Serving, service: str = INFERENCE) -> int:
    stub = health_pb2_grpc.HealthStub(gateway.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    status: int = answer.status
    return status


async def until(condition: Callable[[], Awaitable[bool]], limit_s: float = LIMIT_S) -> None:
    async with asyncio.timeout(limit_s):
        while not await condition():
            await asyncio.sleep(0.05)


async def refusal(gateway: Serving) -> grpc.aio.AioRpcError:
    """How a request that cannot succeed ends."""
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
    return caught.value


def check_unavailable(error: grpc.aio.AioRpcError) -> None:
    """Nothing ran: another try is welcome, later."""
    assert error.code() is grpc.StatusCode.UNAVAILABLE, error.details()
    assert int(trailer(error, "grpc-retry-pushback-ms") or 0) > 0
    assert detail(error, error_details_pb2.RetryInfo).HasField("retry_delay")


async def broken_off(call: serving.Call) -> str:
    """Reads a stream that breaks after its first message: returns how the upstream failed."""
    messages = 1
    try:
        async with asyncio.timeout(LIMIT_S):
            while await call.read() is not grpc.aio.EOF:
                messages += 1
    except grpc.aio.AioRpcError as error:
        info, usage = partial_output(error)
        upstream = str(info.metadata["upstream"])
    else:
        pytest.fail("the stream ended well")
    assert usage.prompt_tokens > 0
    # The frame that ends an answer may still bring text of a token that was counted before it.
    assert messages - 1 <= usage.completion_tokens < ENDLESS_TOKENS
    return upstream


def endless(number: int) -> generation_pb2.GenerateRequest:
    return chat_request(f"Story {number}.", max_output_tokens=ENDLESS_TOKENS, ignore_eos=True)


def check_idle(gateway: Serving) -> None:
    assert gateway.gateway.pipeline.active_requests == 0
    assert repr(gateway.gateway.scheduler.core) == "<Scheduler: 0 queued, 0 running>"


def engine_pid(victim: StartedVllm) -> int:
    """Its EngineCore: the process that generates, one below the API server."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # Processes end while they are listed.
        with contextlib.suppress(OSError):
            pid = int(path.parent.name)
            is_engine = path.read_bytes().startswith(b"VLLM::EngineCore")
            if is_engine and os.getpgid(pid) == victim.process.pid:
                found.append(pid)
    [pid] = found
    return pid


# First: it must find the servers starting.
async def test_a_starting_vllm_enters_service_when_it_serves(
    starting: Sequence[StartedVllm],
) -> None:
    settings = in_front_of(*(victim.base_url for victim in starting))
    async with serving.serving(settings, ready=False) as gateway:
        states = gateway.gateway.scheduler.core.placements
        await serving.until(lambda: all(state.reason != "not probed yet" for state in states))
        assert not any(state.serving for state in states)
        assert await health(gateway) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await health(gateway, "") == health_pb2.HealthCheckResponse.NOT_SERVING
        check_unavailable(await refusal(gateway))

        async def all_serve() -> bool:
            assert all(victim.process.poll() is None for victim in starting)
            return all(state.serving for state in states)

        await until(all_serve, START_LIMIT_S)
        assert await health(gateway) == health_pb2.HealthCheckResponse.SERVING
        seen = await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
        assert seen.done is not None
        assert [attempt.outcome for attempt in seen.done.route.attempts] == ["ok"]


async def test_a_vllm_of_another_model_name_never_enters_service(vllm_server: VllmProcess) -> None:
    settings = serving.config(
        pools=[serving.pool([vllm_server.base_url], upstream_model="another-moe")]
    )
    async with serving.serving(settings, ready=False) as gateway:
        [state] = gateway.gateway.scheduler.core.placements
        await serving.until(lambda: state.reason != "not probed yet")
        assert state.reason == f"serves {MODEL_NAME}, not another-moe: mend upstream_model"
        assert not state.serving
        assert await health(gateway) == health_pb2.HealthCheckResponse.NOT_SERVING
        error = await refusal(gateway)
        check_unavailable(error)
        assert "mend upstream_model" in (error.details() or "")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(GROUP_KILLED, id="every process"),
        # The API server lives on for a moment: it tells its streams of it, and answers 500.
        pytest.param(ENGINE_KILLED, id="the engine"),
    ],
)
async def test_a_killed_vllm(
    victims: Sequence[StartedVllm], vllm_server: VllmProcess, fault: int
) -> None:
    victim = victims[fault]
    engine = engine_pid(victim)
    async with (
        serving.serving(in_front_of(victim.base_url)) as alone,
        serving.serving(in_front_of(victim.base_url, vllm_server.base_url)) as paired,
        aiohttp.ClientSession() as http,
    ):
        call = alone.stub.Generate(endless(0), metadata=METADATA)
        assert (await first_message(call)).delta.choices

        async def requests_held() -> int:
            async with http.get(f"{victim.base_url}/load") as response:
                load = await response.json()
            held: int = load["server_load"]
            return held

        # A stopped engine holds requests before their content for as long as it takes.
        os.kill(engine, signal.SIGSTOP)
        request = chat_request(max_output_tokens=8, ignore_eos=True)
        streams = [
            asyncio.create_task(read_stream(paired.stub.Generate(request, metadata=METADATA)))
            for _ in range(4)
        ]
        once = inference_pb2.GenerateOnceRequest(request=request)
        unary = [paired.stub.GenerateOnce(once, metadata=METADATA) for _ in range(4)]
        [on_victim, _] = paired.gateway.scheduler.core.placements

        async def all_held() -> bool:
            return await requests_held() == 1 + len(on_victim.residents) > 1

        await until(all_held)
        if fault == GROUP_KILLED:
            os.killpg(victim.process.pid, signal.SIGKILL)
        else:
            os.kill(engine, signal.SIGKILL)

        # Without another replica.
        assert await broken_off(call) == "server_error"
        check_unavailable(await refusal(alone))
        [state] = alone.gateway.scheduler.core.placements
        await serving.until(lambda: not state.serving)
        assert await health(alone) == health_pb2.HealthCheckResponse.NOT_SERVING
        check_unavailable(await refusal(alone))
        check_idle(alone)

        # With one: whoever had no content yet is answered there.
        async with asyncio.timeout(LIMIT_S):
            done = [seen.done for seen in await asyncio.gather(*streams)]
            done += [(await response).done for response in unary]
        moved = 0
        for end in done:
            assert end is not None
            assert end.usage.completion_tokens == 8
            *failed, last = end.route.attempts
            assert (last.placement, last.outcome, end.route.replica) == ("own/b", "ok", "b")
            assert [attempt.placement for attempt in failed] == ["own/a"] * len(failed)
            assert all(attempt.outcome.startswith("server_error") for attempt in failed)
            moved += len(failed)
        assert moved > 0
        await serving.until(lambda: not on_victim.serving)
        assert await health(paired) == health_pb2.HealthCheckResponse.SERVING
        seen = await read_stream(paired.stub.Generate(request, metadata=METADATA))
        assert seen.done is not None
        assert [attempt.placement for attempt in seen.done.route.attempts] == ["own/b"]
        check_idle(paired)


async def test_a_vllm_that_falls_silent_or_shuts_down_hangs_nobody(
    victims: Sequence[StartedVllm],
) -> None:
    victim = victims[SILENCED]
    engine = engine_pid(victim)
    settings = in_front_of(victim.base_url, first_token_s=60.0, idle_s=IDLE_S)
    async with serving.serving(settings) as gateway:

        async def failures_after(fault: Callable[[], None]) -> set[str]:
            """How the upstream fails streams with content that run when it happens."""
            calls = [gateway.stub.Generate(endless(i), metadata=METADATA) for i in range(3)]
            once = inference_pb2.GenerateOnceRequest(request=endless(3))
            unary = gateway.stub.GenerateOnce(once, metadata=METADATA)
            for call in calls:
                assert (await first_message(call)).delta.choices
            fault()
            failures = {await broken_off(call) for call in calls}
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async with asyncio.timeout(LIMIT_S):
                    await unary
            # Nothing of it was handed over: it may be tried again.
            check_unavailable(caught.value)
            check_idle(gateway)
            return failures

        # A hung engine: the API server answers everything but tokens.
        assert await failures_after(lambda: os.kill(engine, signal.SIGSTOP)) == {"timeout"}
        os.kill(engine, signal.SIGCONT)
        request = chat_request(max_output_tokens=8, ignore_eos=True)
        async with asyncio.timeout(LIMIT_S):
            seen = await read_stream(gateway.stub.Generate(request, metadata=METADATA))
        assert seen.done is not None

        # The API server kills its engine at once. If the engine is quicker, streams end with the
        # reason "abort" and [DONE]; if not, they get no other byte.
        failures = await failures_after(victim.process.terminate)
        assert failures <= {"server_error", "timeout"}
        [state] = gateway.gateway.scheduler.core.placements
        await serving.until(lambda: not state.serving)
        assert await health(gateway) == health_pb2.HealthCheckResponse.NOT_SERVING

        async def is_gone() -> bool:
            return victim.process.poll() is not None

        await until(is_gone)
