"""A cluster of real processes on a real PostgreSQL, to be killed, stopped and cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.config.resolve.api_keys import key_sha256
from gateway.doors.grpc.listening.health import INFERENCE
from tests import serving
from tests.stack.chart.helm import ROOT
from tests.stack.gateways.networks import Network, Networks

READY_S = 120.0
NOW = ("-m", "moegate")
BEFORE = ("-m", "tests.stack.gateways.version_before")
"""Speaks the version before between gateways."""


def free_ports(count: int) -> list[int]:
    """Numbers of ports that nobody has, each with the next one."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            first = stack.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with contextlib.suppress(OSError):
                second = stack.enter_context(socket.socket())
                second.bind(("127.0.0.1", port + 1))
                found.append(port)
    return found


@dataclass(eq=False)
class Member:
    """A gateway of the cluster. `network`: None: that of this process."""

    name: str
    file: Path
    address: str
    link: str
    log: Path
    network: Network | None = None
    process: asyncio.subprocess.Process | None = None
    command: tuple[str, ...] = NOW

    async def start(self) -> None:
        """Starts it; returns when it serves."""
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                *(() if self.network is None else self.network.wrap),
                *(sys.executable, *self.command, "serve", str(self.file)),
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"},
            )
        await self.until_serving()

    async def until_serving(self) -> None:
        """Returns when its health is SERVING."""
        assert self.process is not None
        request = health_pb2.HealthCheckRequest(service=INFERENCE)
        async with asyncio.timeout(READY_S), grpc.aio.insecure_channel(self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                assert self.process.returncode is None, self.log.read_text()
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answer = await stub.Check(request)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                await asyncio.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    async def kill(self) -> None:
        """kill -9; returns when it is gone."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


@dataclass
class Cluster:
    """Members, in the order of their numbers."""

    dsn: str
    members: list[Member]
    connection: asyncpg.Connection = field(repr=False)

    async def leader(self) -> Member:
        """Returns the member that leads; waits for one."""
        async with asyncio.timeout(READY_S):
            while True:
                link = await self.connection.fetchval(
                    "SELECT address FROM leader WHERE expires_at > clock_timestamp()"
                )
                for member in self.members:
                    if member.link == link:
                        return member
                await asyncio.sleep(0.01)

    async def term(self) -> int:
        """Returns the number of the present or the last term."""
        return int(await self.connection.fetchval("SELECT term FROM leader"))

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Returns the rows of a query."""
        return [tuple(row) for row in await self.connection.fetch(sql)]


@contextlib.asynccontextmanager
async def cluster(
    folder: Path,
    dsn: str,
    engines: list[str],
    members: int,
    nets: Networks | None = None,
    lease_s: float = 3.0,
    catalog: str = "",
    **config: Any,
) -> AsyncIterator[Cluster]:
    """Makes a cluster whose members are not started. `nets`: a network for each of them. `config`:
    further parts of its file. `catalog`: its price catalog. All of them have ended when the context
    is left."""
    write_certificates(folder)
    host = "127.0.0.1" if nets is None else nets.host
    (folder / "dsn").write_text(dsn.replace("127.0.0.1", host))
    (folder / "dsn").chmod(0o600)
    engines = [url.replace("127.0.0.1", host) for url in engines]
    ports = free_ports(2 * members)
    found = []
    if catalog:
        (folder / "prices.yaml").write_text(catalog)
        config = {**config, "prices": {"catalog": "prices.yaml"}}
    for i in range(members):
        listen, link = ports[2 * i : 2 * i + 2]
        here = "127.0.0.1" if nets is None else nets.each[i].address
        file = folder / f"m{i}.yaml"
        written = {**settings(engines), **config}
        written["server"] = {
            "listen": f"{here}:{listen}",
            "drain_delay_s": 0.5,
            "drain_s": 60,
            **config.get("server", {}),
        }
        written["cluster"] = {
            "listen": f"{here}:{link}",
            "lease_s": lease_s,
            "tls": {"cert": "tls.crt", "key": "tls.key", "ca": "ca.crt"},
        }
        file.write_text(json.dumps(written))  # JSON is YAML
        found.append(
            Member(
                name=f"m{i}",
                file=file,
                address=f"{here}:{listen}",
                link=f"{here}:{link}",
                log=folder / f"m{i}.log",
                network=None if nets is None else nets.each[i],
            )
        )
    connection = await asyncpg.connect(dsn)
    try:
        made = Cluster(dsn, found, connection)
        yield made
    finally:
        for member in found:
            if member.process is not None and member.process.returncode is None:
                member.signal(signal.SIGCONT)
                await member.kill()
        await made.connection.close()
        for member in found:
            if member.log.exists():
                print(f"--- {member.name}\n{member.log.read_text()}")


def settings(engines: list[str]) -> dict[str, Any]:
    """What all members have in their files."""
    pool = {
        "name": "own",
        "model": serving.MODEL,
        "replicas": [{"name": f"e{i}", "url": url} for i, url in enumerate(engines)],
        "gpu": {"type": "H100-80GB", "count": 1, "usd_per_gpu_hour": "2.10"},
        "max_num_seqs": 64,
    }
    key = {"id": "test", "sha256": key_sha256(serving.KEY), "role": "operator"}
    return {
        "pools": [pool],
        "tenants": [{"name": "team", "keys": [key]}],
        "ledger": {"postgres": {"file": "dsn"}},
    }


def write_certificates(folder: Path) -> None:
    """Certificate, key and authority of all members."""
    authority = trustme.CA()
    pair = authority.issue_cert("moegate")
    pair.private_key_pem.write_to_path(folder / "tls.key")
    (folder / "tls.key").chmod(0o600)
    (folder / "tls.crt").write_bytes(b"".join(pem.bytes() for pem in pair.cert_chain_pems))
    authority.cert_pem.write_to_path(folder / "ca.crt")
