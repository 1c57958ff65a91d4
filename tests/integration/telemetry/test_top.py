"""The live fleet: WatchFleet of a real gateway, and what `moegate top` makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

import grpc
import msgspec
import pytest
from google.protobuf.duration_pb2 import Duration

from gateway.config.gateway import KeyConfig, KeyRole
from gateway.config.resolve.api_keys import key_sha256
from gateway.upstream.vllm_grpc.control_pb2 import ParallelismInfo, ServerInfo
from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from moegate.v1 import generation_pb2, usage_pb2, usage_pb2_grpc
from tests import serving
from tests.serving import METADATA, Serving, chat_request, first_message
from tests.vllm_control import control_server

OPERATOR = "mg-operator"
AS_OPERATOR = (("authorization", f"Bearer {OPERATOR}"),)


@pytest.fixture
async def gateway() -> AsyncIterator[Serving]:
    engine = SimulatedVllmConfig(served_model_name="m", speed=1.0)
    async with simulated_vllm(engine) as own, simulated_vllm(engine) as away:
        settings = serving.config(
            pools=[serving.pool([own.url], upstream_model="m", max_num_seqs=2)],
            remotes=[serving.remote(away.url, upstream_model="m")],
            keys=[KeyConfig(id="op", sha256=key_sha256(OPERATOR), role=KeyRole.OPERATOR)],
        )
        async with serving.serving(settings) as running:
            yield running


def watch(
    gateway: Serving, metadata: tuple[tuple[str, str], ...] = AS_OPERATOR, interval_s: float = 0.1
) -> grpc.aio.UnaryStreamCall[usage_pb2.WatchFleetRequest, usage_pb2.WatchFleetResponse]:
    interval = Duration()
    interval.FromNanoseconds(round(interval_s * 1e9))
    stub = usage_pb2_grpc.UsageServiceStub(gateway.channel)
    return stub.WatchFleet(usage_pb2.WatchFleetRequest(interval=interval), metadata=metadata)


@contextlib.asynccontextmanager
async def busy(gateway: Serving) -> AsyncIterator[None]:
    """A long stream runs."""
    call = gateway.stub.Generate(
        chat_request(max_output_tokens=4000, ignore_eos=True), metadata=METADATA
    )
    await first_message(call)
    yield
    call.cancel()


async def test_watching_shows_what_runs_and_how_fast(gateway: Serving) -> None:
    async with busy(gateway):
        call = watch(gateway)
        async for fleet in call:
            own, far = sorted(fleet.placements, key=lambda p: p.kind)
            if own.output_tokens_per_second > 0:
                break
        call.cancel()
    assert (own.placement, own.pool, own.model) == ("own/a", "own", serving.MODEL)
    assert own.serving
    assert own.running_requests == 1
    assert own.predicted_batch == 1
    assert own.distinct_experts > 0
    assert own.decode_step.ToNanoseconds() > 0
    assert own.kv_capacity_tokens > 0
    assert own.kv_capacity_source == own.context_source == usage_pb2.FIGURE_SOURCE_TOLD
    assert own.gauges_source == usage_pb2.FIGURE_SOURCE_TOLD
    assert (own.context_tokens, own.max_sequences) == (32_768, 2)
    assert own.max_sequences_source == usage_pb2.FIGURE_SOURCE_CONFIGURED
    assert far.kv_capacity_source == far.gauges_source == usage_pb2.FIGURE_SOURCE_UNKNOWN
    assert (far.placement, far.kind) == ("far", generation_pb2.PLACEMENT_KIND_REMOTE)
    assert not far.HasField("output_tokens_per_second"), "nothing ran there yet"
    [pool] = fleet.pools
    assert (pool.pool, pool.groups, pool.groups_serving) == ("own", 1, 1)


async def test_what_only_the_server_knows_is_asked_over_its_own_grpc() -> None:
    engine = SimulatedVllmConfig(served_model_name="m", speed=1.0)
    info = ServerInfo(
        parallelism=ParallelismInfo(data_parallel_size=1), max_model_len=9, max_running_requests=3
    )
    async with simulated_vllm(engine) as own, control_server(info.SerializeToString) as control:
        pool = msgspec.structs.replace(
            serving.pool([own.url], upstream_model="m"), max_num_seqs=None, grpc_port=control.port
        )
        keys = [KeyConfig(id="op", sha256=key_sha256(OPERATOR), role=KeyRole.OPERATOR)]
        settings = serving.config(pools=[pool], keys=keys)
        async with serving.serving(settings) as gateway, asyncio.timeout(serving.READY_S):
            call = watch(gateway)
            async for fleet in call:
                [one] = fleet.placements
                if one.max_sequences_source == usage_pb2.FIGURE_SOURCE_TOLD:
                    break
                assert one.max_sequences_source == usage_pb2.FIGURE_SOURCE_ASSUMED
            call.cancel()
    assert one.max_sequences == 3
    assert one.context_tokens == 32_768, "the list of models goes first"
    assert one.kv_capacity_source == usage_pb2.FIGURE_SOURCE_TOLD


@pytest.mark.parametrize("interval_s", [0.01, 61.0])
async def test_an_interval_has_bounds(gateway: Serving, interval_s: float) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch(gateway, interval_s=interval_s).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "interval" in (caught.value.details() or "")


async def test_only_an_operator_sees_the_fleet(gateway: Serving) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch(gateway, METADATA).read()
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def top(gateway: Serving, key: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "moegate", "top", "--once", "--key", key),
        *("--target", gateway.gateway.address),
        env={"COLUMNS": "160", "PATH": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(serving.READY_S):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_top_draws_pools_replicas_and_remotes(gateway: Serving) -> None:
    async with busy(gateway):
        status, out, err = await top(gateway, OPERATOR)
    assert (status, err) == (0, "")
    assert "moegate top" in out
    replica = next(line for line in out.splitlines() if " own/a " in line)
    assert replica.split()[1] == "1"
    assert any(" far " in line for line in out.splitlines())
    assert "allocated" in out
    assert "wider terminal" not in out


async def test_top_says_what_is_wrong(gateway: Serving) -> None:
    status, _, err = await top(gateway, "mg-unknown")
    assert status == 1
    assert "UNAUTHENTICATED" in err
    assert "--key" in err
