"""KEDA's calls, over real gRPC: to the service alone, and to a gateway."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from gateway.config.gateway import GatewayConfig
from gateway.doors.keda.external_scaler import METRIC, SERVICE, scaler_port
from gateway.doors.keda.externalscaler_pb2 import (
    GetMetricSpecResponse,
    GetMetricsRequest,
    GetMetricsResponse,
    IsActiveResponse,
    ScaledObjectRef,
)
from gateway.fronts.scheduler_side import running_scheduler_side
from gateway.scheduling.replica_counts import NotMeasured, UnknownPool
from gateway.server import running_gateway
from scheduler.overflow.replica_count import ReplicaLimits, WantedReplicas
from tests import serving

METADATA = {"pool": "own", "maxReplicas": "8"}


class Counts:
    """Counts that a test sets."""

    def __init__(self) -> None:
        self.replicas = 3
        self.waiting = False
        self.measured = True
        self.limits: ReplicaLimits | None = None

    async def wanted(self, pool: str, limits: ReplicaLimits) -> WantedReplicas:
        self.limits = limits
        if not self.measured:
            raise NotMeasured("ask again")
        return WantedReplicas(replicas=self.replicas, reason="")

    async def waits(self, pool: str) -> bool:
        if pool != "own":
            raise UnknownPool(f"no pool is called {pool!r}: the pools are own")
        return self.waiting


class Keda:
    """The calls of KEDA."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def _ref(self, metadata: dict[str, str] | None) -> ScaledObjectRef:
        return ScaledObjectRef(name="x", namespace="n", scalerMetadata=metadata or METADATA)

    async def _call(self, method: str, request: Any, answer: Any) -> Any:
        call: Any = self._channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return await call(request, timeout=serving.READY_S)

    async def active(self, metadata: dict[str, str] | None = None) -> bool:
        answer = await self._call("IsActive", self._ref(metadata), IsActiveResponse)
        return bool(answer.result)

    async def spec(self, metadata: dict[str, str] | None = None) -> list[tuple[str, int, float]]:
        answer = await self._call("GetMetricSpec", self._ref(metadata), GetMetricSpecResponse)
        return [(s.metricName, s.targetSize, s.targetSizeFloat) for s in answer.metricSpecs]

    async def metrics(self) -> list[tuple[str, int, float]]:
        request = GetMetricsRequest(scaledObjectRef=self._ref(None), metricName=METRIC)
        answer = await self._call("GetMetrics", request, GetMetricsResponse)
        return [(v.metricName, v.metricValue, v.metricValueFloat) for v in answer.metricValues]

    async def first_of_stream(self) -> bool:
        call: Any = self._channel.unary_stream(
            f"/{SERVICE}/StreamIsActive",
            request_serializer=ScaledObjectRef.SerializeToString,
            response_deserializer=IsActiveResponse.FromString,
        )(self._ref(None))
        first = await call.read()
        call.cancel()
        return bool(first.result)


def config_of(listen: str | None = "127.0.0.1:0") -> GatewayConfig:
    config = serving.config(pools=[serving.pool(["http://127.0.0.1:1"])])
    server = msgspec.structs.replace(config.server, scaler_listen=listen)
    return msgspec.structs.replace(config, server=server)


@contextlib.asynccontextmanager
async def keda_of(counts: Counts) -> AsyncIterator[Keda]:
    async with scaler_port(counts, config_of(), lambda reason: None) as address:
        assert address is not None
        async with grpc.aio.insecure_channel(address) as channel:
            yield Keda(channel)


async def test_the_count_is_told_with_the_target_one() -> None:
    counts = Counts()
    async with keda_of(counts) as keda:
        assert await keda.spec() == [(METRIC, 1, 1.0)]
        assert await keda.metrics() == [(METRIC, 3, 3.0)]
        assert counts.limits == ReplicaLimits(least=1, most=8)


async def test_a_pool_is_active_while_it_is_wanted_or_awaited() -> None:
    counts = Counts()
    async with keda_of(counts) as keda:
        assert await keda.active()
        assert await keda.first_of_stream()
        counts.replicas = 0
        assert not await keda.active()
        assert not await keda.first_of_stream()
        counts.waiting, counts.measured = True, False
        assert await keda.active()


async def test_faults_are_told_in_words() -> None:
    counts = Counts()
    counts.measured = False
    async with keda_of(counts) as keda:
        for code, words, call in (
            (
                grpc.StatusCode.NOT_FOUND,
                "the pools are own",
                keda.active({**METADATA, "pool": "x"}),
            ),
            (grpc.StatusCode.INVALID_ARGUMENT, "name the pool", keda.spec({"maxReplicas": "1"})),
            (grpc.StatusCode.INVALID_ARGUMENT, "maxReplicas", keda.active({"pool": "own"})),
            (grpc.StatusCode.UNAVAILABLE, "ask again", keda.metrics()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is code
            assert words in str(caught.value.details())


async def test_a_gateway_answers_keda(tmp_path: Path) -> None:
    async with running_gateway(config_of(), tmp_path) as gateway:
        assert gateway.scaler_address is not None
        async with grpc.aio.insecure_channel(gateway.scaler_address) as channel:
            keda = Keda(channel)
            assert await keda.spec() == [(METRIC, 1, 1.0)]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await keda.metrics()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_scheduler_of_several_fronts_answers_keda(tmp_path: Path) -> None:
    async with running_scheduler_side(config_of(), tmp_path, tmp_path, addresses={}) as side:
        assert side.scaler_address is not None
        async with grpc.aio.insecure_channel(side.scaler_address) as channel:
            assert await Keda(channel).spec() == [(METRIC, 1, 1.0)]


async def test_without_an_address_nobody_listens(tmp_path: Path) -> None:
    async with running_gateway(config_of(None), tmp_path) as gateway:
        assert gateway.scaler_address is None
