"""The standard services of gRPC: health of the service (readiness) and of the process (liveness),
and reflection.

The empty service name and the inference service's name follow the fleet: they are NOT_SERVING while
no placement can serve, so load balancers choose another gateway. `PROCESS` is SERVING as long as
the event loop runs. Liveness probes must use `PROCESS`, because restarting the gateway cannot
repair a vLLM server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from gateway.config.gateway import GatewayConfig
from gateway.delivery.watches import Watches
from gateway.doors.entry.calls_in_progress import CallsInProgress
from gateway.doors.grpc.listening.grpc_server import grpc_server
from gateway.doors.grpc.listening.open_rpcs import OpenRpcs
from gateway.doors.grpc.listening.port import bind, server_options
from gateway.doors.grpc.rpc_context import BoundedWriter, Context, rpc_errors
from moegate.v1 import admin_pb2, inference_pb2, usage_pb2

INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
USAGE = usage_pb2.DESCRIPTOR.services_by_name["UsageService"].full_name
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
PROCESS = "moegate.process"

MAX_PROBES = 256
"""Most connections to the port for health checks."""

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Status by service name. `begin_drain` sets every status to NOT_SERVING for good."""

    def __init__(self, watches: Watches, write_limit_s: float) -> None:
        """`write_limit_s`: how long one write to a watcher may block."""
        self._watches = watches
        self._write_limit_s = write_limit_s
        self._statuses: dict[str, int] = {"": NOT_SERVING}
        self._changed = asyncio.Event()
        self._draining = False

    def publish(self, serves: bool) -> None:
        """Sets the status of the service and of the process. Has no effect once draining has
        begun."""
        if not self._draining:
            own = SERVING if serves else NOT_SERVING
            self._replace({PROCESS: SERVING, "": own, INFERENCE: own})

    def begin_drain(self) -> None:
        """Sets every status to NOT_SERVING and tells the watchers. The watches stay open."""
        self._draining = True
        self._replace(dict.fromkeys(self._statuses, NOT_SERVING))

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """Returns the status of a service, or NOT_FOUND."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no service has this name")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """Streams the status of a service, now and at each change. A drain ends it."""
        async with rpc_errors(context), self._watches.open():
            writer = BoundedWriter(context, self._write_limit_s)
            last: int | None = None
            while True:
                changed = self._changed
                status = self._statuses.get(request.service, UNKNOWN)
                if status != last:
                    await writer.write(health_pb2.HealthCheckResponse(status=status))
                    last = status
                await changed.wait()

    def _replace(self, statuses: dict[str, int]) -> None:
        if statuses != self._statuses:
            self._statuses = statuses
            self._changed.set()
            self._changed = asyncio.Event()


class ReflectionService(reflection_pb2_grpc.ServerReflectionServicer):  # type: ignore[misc]
    """Server reflection with bounded writes, which a drain ends."""

    def __init__(self, watches: Watches, write_limit_s: float) -> None:
        """`write_limit_s`: how long one write may block."""
        names = (INFERENCE, USAGE, ADMIN, HEALTH, reflection.SERVICE_NAME)
        self._reflection = reflection.aio.ReflectionServicer(names)
        self._watches = watches
        self._write_limit_s = write_limit_s

    async def ServerReflectionInfo(
        self,
        requests: AsyncIterator[reflection_pb2.ServerReflectionRequest],
        context: Context,
    ) -> None:
        """Answers questions about the services."""
        async with rpc_errors(context), self._watches.open():
            writer = BoundedWriter(context, self._write_limit_s)
            async for answer in self._reflection.ServerReflectionInfo(requests, context):
                await writer.write(answer)


@contextlib.asynccontextmanager
async def health_port(
    servicer: HealthService, config: GatewayConfig, refused: Callable[[str], None]
) -> AsyncIterator[str | None]:
    """Serves the health service alone, without TLS, until the context exits. It has the bounds of
    the other port; `refused` receives the reason of every RPC that is one too many.

    Yields the bound address; yields None if `server.health_listen` is absent. Raises OSError if it
    cannot bind.
    """
    listen = config.server.health_listen
    if listen is None:
        yield None
        return
    in_progress = CallsInProgress(lambda: config.limits, refused)
    open_rpcs = OpenRpcs(lambda: config.limits, in_progress)
    server = grpc_server(server_options(config, MAX_PROBES), (open_rpcs,))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = bind(server, listen, None, field="server.health_listen")
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)
