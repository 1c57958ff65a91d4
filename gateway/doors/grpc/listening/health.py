"""Health of the service (readiness) and of the process (liveness).

The empty service name and the inference service's name follow the fleet: they are NOT_SERVING while
no placement can serve, so load balancers choose another gateway. `PROCESS` is SERVING as long as
the event loop runs. Liveness probes must use `PROCESS`, because restarting the gateway cannot
repair a vLLM server.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from gateway.config.gateway import GatewayConfig
from gateway.doors.grpc.listening.grpc_server import grpc_server
from gateway.doors.grpc.listening.open_rpcs import OpenRpcs
from gateway.doors.grpc.listening.port import bind, server_options
from gateway.doors.grpc.listening.rpcs_in_progress import RpcsInProgress
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


async def publish_health(servicer: health.aio.HealthServicer, serves: bool) -> None:
    """Sets the health status of the service and of the process. Has no effect once draining has
    begun."""
    await servicer.set(PROCESS, SERVING)
    for name in ("", INFERENCE):
        await servicer.set(name, SERVING if serves else NOT_SERVING)


@contextlib.asynccontextmanager
async def health_port(
    servicer: health.aio.HealthServicer, config: GatewayConfig, refused: Callable[[str], None]
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
    in_progress = RpcsInProgress(lambda: config.limits, refused)
    open_rpcs = OpenRpcs(lambda: config.limits, in_progress)
    server = grpc_server(server_options(config, MAX_PROBES), (open_rpcs,))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = bind(server, listen, None, field="server.health_listen")
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)
