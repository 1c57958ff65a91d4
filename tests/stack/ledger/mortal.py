"""Gateways and engines in processes of their own, to be killed: forked from one that has imported
everything."""

from __future__ import annotations

import asyncio
import multiprocessing
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.config.gateway import GatewayConfig
from gateway.doors.grpc.listening.health import INFERENCE
from gateway.server import running_gateway
from tests.counting import Counting, counting
from tests.ledgers import a_nano_dollar_a_token

READY_S = 60.0
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["gateway.server", "tests.counting", "tests.ledgers"])


def _serve(config: GatewayConfig, folder: Path) -> None:
    async def forever() -> None:
        async with running_gateway(config, folder) as gateway:
            if config.prices.catalog is None:
                a_nano_dollar_a_token(gateway)
            await asyncio.Event().wait()

    asyncio.run(forever())


@dataclass
class Mortal:
    """A gateway that can be started and killed again and again. Without a price catalog, a token
    costs a nano-USD."""

    config: GatewayConfig
    folder: Path
    process: ForkServerProcess | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return self.config.server.listen

    async def start(self) -> None:
        """Starts it; returns when it serves."""
        self.process = _forks.Process(target=_serve, args=(self.config, self.folder), daemon=True)
        self.process.start()
        async with asyncio.timeout(READY_S):
            async with grpc.aio.insecure_channel(self.address) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                request = health_pb2.HealthCheckRequest(service=INFERENCE)
                while True:
                    try:
                        answer = await stub.Check(request, wait_for_ready=True)
                        if answer.status == health_pb2.HealthCheckResponse.SERVING:
                            return
                    except grpc.aio.AioRpcError:
                        assert self.process.is_alive(), "the gateway did not start"
                    await asyncio.sleep(0.02)

    def kill(self) -> None:
        """kill -9; returns when it is gone."""
        _kill(self.process)
        self.process = None


def _count(port: int, pause_s: float) -> None:
    async def forever() -> None:
        async with counting(Counting(pause_s=pause_s), port):
            await asyncio.Event().wait()

    asyncio.run(forever())


@dataclass
class MortalEngine:
    """A counting upstream in a process of its own."""

    port: int
    pause_s: float
    process: ForkServerProcess | None = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts it; returns when it answers."""
        self.process = _forks.Process(target=_count, args=(self.port, self.pause_s), daemon=True)
        self.process.start()
        async with asyncio.timeout(READY_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    assert self.process.is_alive(), "the engine did not start"
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    def kill(self) -> None:
        """kill -9; returns when it is gone."""
        _kill(self.process)
        self.process = None


def _kill(process: ForkServerProcess | None) -> None:
    assert process is not None
    process.kill()
    process.join(READY_S)
    assert process.exitcode == -9, process.exitcode
