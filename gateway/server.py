"""The process: starts everything, serves until told to stop, ends in order.

run -> serve -> _Gateway: build the runtime, listen, probe, and on SIGTERM or SIGINT drain: health
NOT_SERVING, no new calls, running streams finish within `drain_s`, upstream connections close.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from gateway.auth import Authenticator
from gateway.config import Config
from gateway.runtime import Runtime, build, session
from gateway.service import InferenceService
from moegate.v1 import inference_pb2, inference_pb2_grpc

log = logging.getLogger(__name__)

INFERENCE = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningGateway:
    """A gateway that listens. `address`: host:port, with the port that was bound."""

    address: str
    runtime: Runtime
    server: grpc.aio.Server
    health: health.aio.HealthServicer

    async def drain(self) -> None:
        """Ends in order: NOT_SERVING, no new calls, running streams finish within `drain_s`."""
        await self.health.enter_graceful_shutdown()
        await self.server.stop(self.runtime.config.server.drain_s)


async def serve(config: Config, base_dir: Path) -> None:
    """Serves until SIGTERM or SIGINT. Raises ConfigError or OSError when it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_gateway(config, base_dir) as gateway:
        print(f"moegate listens on {gateway.address}", flush=True)
        await stop.wait()
        log.info("draining: %d requests in flight", gateway.runtime.dispatcher.in_flight)


@contextlib.asynccontextmanager
async def running_gateway(config: Config, base_dir: Path) -> AsyncIterator[RunningGateway]:
    """A gateway on this loop; leaving the context drains and stops it."""
    clock = asyncio.get_running_loop().time
    servicer = health.aio.HealthServicer()

    async def tell_health() -> None:
        up = health_pb2.HealthCheckResponse.SERVING
        down = health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", INFERENCE):
            await servicer.set(name, up if runtime.scheduler.serves else down)

    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(session())
        runtime = build(config, base_dir, upstream, clock, tell_health)
        await tell_health()
        server = _grpc_server(config, runtime, servicer, clock)
        address = _bind(server, config.server.listen)
        tasks = [
            asyncio.create_task(runtime.dispatcher.run(), name="moegate-dispatcher"),
            asyncio.create_task(runtime.prober.run(), name="moegate-prober"),
        ]
        stack.push_async_callback(_cancel, tasks)
        await server.start()
        gateway = RunningGateway(address=address, runtime=runtime, server=server, health=servicer)
        try:
            yield gateway
        finally:
            await gateway.drain()


def _grpc_server(
    config: Config,
    runtime: Runtime,
    servicer: health.aio.HealthServicer,
    clock: Callable[[], float],
) -> grpc.aio.Server:
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", config.limits.message_bytes),
            ("grpc.max_send_message_length", -1),
            # Two gateways on one port would share its connections silently.
            ("grpc.so_reuseport", 0),
        )
    )
    inference = InferenceService(runtime, Authenticator(config), clock)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, server)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    if config.server.reflection:
        reflection.enable_server_reflection((INFERENCE, HEALTH, reflection.SERVICE_NAME), server)
    return server


def _bind(server: grpc.aio.Server, listen: str) -> str:
    """Returns the address that was bound. Raises OSError that names the field."""
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(f"server.listen: cannot listen on {listen}: {error}") from None
    return f"{listen.rpartition(':')[0]}:{port}"


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            log.error("a task of the gateway failed", exc_info=result)
