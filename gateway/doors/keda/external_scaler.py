"""KEDA's external scaler (gRPC): KEDA asks how many replicas a pool should have.

The only metric is the wanted count, with the target 1, so that the HPA which KEDA makes sets just
that count. A trigger tells the pool and the limits in its metadata.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn, Protocol

import grpc

from gateway.config.gateway import GatewayConfig
from gateway.doors.entry.calls_in_progress import CallsInProgress
from gateway.doors.grpc.listening.grpc_server import grpc_server
from gateway.doors.grpc.listening.open_rpcs import OpenRpcs
from gateway.doors.grpc.listening.port import bind, server_options
from gateway.doors.grpc.rpc_context import BoundedWriter, Context, rpc_errors
from gateway.doors.keda.externalscaler_pb2 import (
    GetMetricSpecResponse,
    GetMetricsRequest,
    GetMetricsResponse,
    IsActiveResponse,
    MetricSpec,
    MetricValue,
    ScaledObjectRef,
)
from gateway.doors.keda.trigger import BadTrigger, limits_of, pool_of
from gateway.scheduling.replica_counts import NotMeasured, UnknownPool
from scheduler.overflow.replica_count import ReplicaLimits, WantedReplicas

SERVICE = "externalscaler.ExternalScaler"
METRIC = "wanted_replicas"
MAX_CONNECTIONS = 64
"""Most connections to the port: KEDA keeps one for each trigger."""
STREAM_S = 5.0
"""Time between two looks of a stream that tells whether a pool is active."""


class Counts(Protocol):
    """Who knows the counts."""

    async def wanted(self, pool: str, limits: ReplicaLimits) -> WantedReplicas:
        """How many replicas the pool should have."""

    async def waits(self, pool: str) -> bool:
        """Whether requests wait for a server of the pool."""


class ExternalScaler:
    """The service. It holds nothing: each RPC tells pool and limits."""

    def __init__(self, counts: Counts, write_limit_s: float) -> None:
        """`write_limit_s`: how long one write of a stream may block."""
        self._counts = counts
        self._write_limit_s = write_limit_s

    async def is_active(self, request: ScaledObjectRef, context: Context) -> IsActiveResponse:
        """Whether the pool should have any replica."""
        return IsActiveResponse(result=await self._active(request, context))

    async def stream_is_active(self, request: ScaledObjectRef, context: Context) -> None:
        """The same now, and whenever it changes."""
        writer = BoundedWriter(context, self._write_limit_s)
        last: bool | None = None
        async with rpc_errors(context):
            while True:
                active = await self._active(request, context)
                if active != last:
                    await writer.write(IsActiveResponse(result=active))
                    last = active
                await asyncio.sleep(STREAM_S)

    async def metric_spec(
        self, request: ScaledObjectRef, context: Context
    ) -> GetMetricSpecResponse:
        """The metric and its target. Faults of the metadata show here first."""
        try:
            pool_of(request.scalerMetadata)
            limits_of(request.scalerMetadata)
        except BadTrigger as error:
            await _refuse(context, error)
        spec = MetricSpec(metricName=METRIC, targetSize=1, targetSizeFloat=1.0)
        return GetMetricSpecResponse(metricSpecs=[spec])

    async def metrics(self, request: GetMetricsRequest, context: Context) -> GetMetricsResponse:
        """The wanted count."""
        metadata = request.scaledObjectRef.scalerMetadata
        try:
            found = await self._counts.wanted(pool_of(metadata), limits_of(metadata))
        except (BadTrigger, UnknownPool, NotMeasured) as error:
            await _refuse(context, error)
        count = found.replicas
        value = MetricValue(metricName=METRIC, metricValue=count, metricValueFloat=count)
        return GetMetricsResponse(metricValues=[value])

    async def _active(self, request: ScaledObjectRef, context: Context) -> bool:
        metadata = request.scalerMetadata
        try:
            pool, limits = pool_of(metadata), limits_of(metadata)
            if await self._counts.waits(pool):
                return True
            return (await self._counts.wanted(pool, limits)).replicas > 0
        except (BadTrigger, UnknownPool, NotMeasured) as error:
            await _refuse(context, error)


async def _refuse(context: Context, error: Exception) -> NoReturn:
    if isinstance(error, UnknownPool):
        code = grpc.StatusCode.NOT_FOUND
    elif isinstance(error, NotMeasured):
        code = grpc.StatusCode.UNAVAILABLE
    else:
        code = grpc.StatusCode.INVALID_ARGUMENT
    await context.abort(code, str(error))
    raise AssertionError("abort returned")


@contextlib.asynccontextmanager
async def scaler_port(
    counts: Counts, config: GatewayConfig, refused: Callable[[str], None]
) -> AsyncIterator[str | None]:
    """Serves the external scaler alone, without TLS and keys, until the context exits. `refused`
    receives the reason of every RPC that is one too many.

    Yields the bound address; yields None if `server.scaler_listen` is absent. Raises OSError if it
    cannot bind.
    """
    listen = config.server.scaler_listen
    if listen is None:
        yield None
        return
    in_progress = CallsInProgress(lambda: config.limits, refused)
    open_rpcs = OpenRpcs(lambda: config.limits, in_progress)
    server = grpc_server(server_options(config, MAX_CONNECTIONS), (open_rpcs,))
    _add(ExternalScaler(counts, config.server.blocked_write_s), server)
    address = bind(server, listen, None, field="server.scaler_listen")
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


def _add(scaler: ExternalScaler, server: grpc.aio.Server) -> None:
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    ref, active = ScaledObjectRef.FromString, IsActiveResponse.SerializeToString
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "IsActive": unary(scaler.is_active, ref, active),
        "StreamIsActive": stream(scaler.stream_is_active, ref, active),
        "GetMetricSpec": unary(scaler.metric_spec, ref, GetMetricSpecResponse.SerializeToString),
        "GetMetrics": unary(
            scaler.metrics, GetMetricsRequest.FromString, GetMetricsResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)
