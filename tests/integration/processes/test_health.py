"""What probes and load balancers see: the service, the process, the health port, renewed TLS."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import grpc
import msgspec
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.config.gateway import GatewayConfig
from gateway.config.server import TlsConfig
from gateway.doors.entry.certificates import Certificates, follow
from gateway.doors.grpc.listening.health import INFERENCE, PROCESS
from gateway.server import running_gateway
from tests import serving
from tests.scripted import GOOD, Scripted, upstreams

Unary = grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
DEAD = "http://127.0.0.1:1"


async def health_of(channel: grpc.aio.Channel, name: str) -> str:
    answer: health_pb2.HealthCheckResponse = await health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service=name), timeout=serving.READY_S
    )
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def with_health(**changes: object) -> GatewayConfig:
    config = serving.config(pools=[serving.pool([DEAD])])
    server = msgspec.structs.replace(config.server, health_listen="127.0.0.1:0", **changes)
    return msgspec.structs.replace(config, server=server)


async def test_the_process_is_healthy_though_nothing_can_serve() -> None:
    script = Scripted(frames=GOOD)
    async with upstreams(script) as gateway:
        assert await health_of(gateway.channel, INFERENCE) == "SERVING"
        script.metrics_status = 500
        [state] = gateway.gateway.scheduler.core.placements
        await serving.until(lambda: not state.serving)
        assert await health_of(gateway.channel, INFERENCE) == "NOT_SERVING"
        assert await health_of(gateway.channel, "") == "NOT_SERVING"
        assert await health_of(gateway.channel, PROCESS) == "SERVING"


async def test_the_health_port_is_plain_text_beside_tls_and_serves_nothing_else(
    tmp_path: Path,
) -> None:
    write_pair(tmp_path, trustme.CA())
    config = with_health(tls=TlsConfig(cert="tls.crt", key="tls.key"))
    async with running_gateway(config, tmp_path) as gateway:
        assert gateway.health_address is not None
        async with grpc.aio.insecure_channel(gateway.health_address) as channel:
            assert await health_of(channel, PROCESS) == "SERVING"
            assert await health_of(channel, INFERENCE) == "NOT_SERVING"
            call: Unary = channel.unary_unary(f"/{INFERENCE}/ListModels")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"", timeout=serving.READY_S)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
            await gateway.drain()
            # The kubelet stops liveness probes of a pod that it ends; readiness must see the drain.
            assert await health_of(channel, INFERENCE) == "NOT_SERVING"


async def test_a_health_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = with_health()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = msgspec.structs.replace(config.server, health_listen=address)
        with pytest.raises(OSError, match=r"server\.health_listen"):
            async with running_gateway(msgspec.structs.replace(config, server=server), Path.cwd()):
                pass


def write_pair(folder: Path, authority: trustme.CA) -> None:
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_pem.write_to_path(folder / "tls.key")
    (folder / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))


async def test_renewed_certificates_come_into_force_and_bad_ones_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.doors.entry.certificates")
    write_pair(tmp_path, trustme.CA())
    certificates = Certificates(TlsConfig(cert="tls.crt", key="tls.key"), tmp_path)
    following = asyncio.create_task(follow(certificates, 0.01))
    first = certificates.pem
    try:
        (tmp_path / "tls.key").write_text("half written")
        await serving.until(lambda: "the old ones stay" in caplog.text)
        await asyncio.sleep(0.1)
        assert caplog.text.count("the old ones stay") == 1
        assert certificates.pem is first
        write_pair(tmp_path, trustme.CA())
        await serving.until(lambda: "the new ones are in force" in caplog.text)
        assert certificates.pem is not first
    finally:
        following.cancel()
