"""A rolling restart under load: two gateways on one PostgreSQL, clients that balance themselves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from gateway.config.resolve.api_keys import key_sha256
from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from moegate.v1 import inference_pb2, inference_pb2_grpc
from tests import serving
from tests.serving import METADATA, chat_request, read_stream
from tests.stack.chart.helm import ROOT
from tests.stack.ledger.postgres import Postgres

STREAMS = 12
BOUND_S = 120.0
PUSHBACK = "grpc-retry-pushback-ms"


def config(folder: Path, name: str, port: int, engines: list[str], dsn: Path) -> Path:
    file = folder / f"{name}.yaml"
    replicas = [{"name": f"e{i}", "url": url} for i, url in enumerate(engines)]
    pool = {
        "name": "own",
        "model": serving.MODEL,
        "replicas": replicas,
        "gpu": {"type": "H100-80GB", "count": 1, "usd_per_gpu_hour": "2.10"},
        "max_num_seqs": 64,
    }
    key = {"id": "test", "sha256": key_sha256(serving.KEY)}
    written = {
        "server": {"listen": f"127.0.0.1:{port}", "drain_delay_s": 2, "drain_s": 60},
        "pools": [pool],
        "tenants": [{"name": "team", "keys": [key]}],
        "ledger": {"postgres": {"file": str(dsn)}, "gateway": name},
    }
    file.write_text(json.dumps(written))  # JSON is YAML
    return file


@contextlib.asynccontextmanager
async def gateway(file: Path, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A real process; it has ended when the context is left."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "moegate", "serve", str(file)),
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'protos'}"},
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def service_config() -> str:
    """The one that the examples ship, with the balancing that the headless Service is for."""
    shipped = json.loads((ROOT / "examples" / "service_config.json").read_text())
    balanced = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "moegate.v1.InferenceService"},
    }
    return json.dumps({**shipped, **balanced})


@dataclass(slots=True)
class Load:
    """Clients that ask again and again, and what became of it."""

    stub: inference_pb2_grpc.InferenceServiceAsyncStub
    stopped: bool = False
    ended: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    async def client(self, number: int) -> None:
        while not self.stopped:
            # Some streams are long: they must outlive the drain of their gateway.
            tokens = 300 if number % 4 == 0 else 30
            request = chat_request(max_output_tokens=tokens, ignore_eos=True)
            try:
                if number % 4 == 1:
                    once = inference_pb2.GenerateOnceRequest(request=request)
                    answer = await self.stub.GenerateOnce(once, metadata=METADATA, timeout=BOUND_S)
                    assert answer.done.usage.completion_tokens == tokens
                    self.ended["answers"] += 1
                    self.ended["well"] += 1
                    continue
                call = self.stub.Generate(request, metadata=METADATA, timeout=BOUND_S)
                seen = await read_stream(call)
            except grpc.aio.AioRpcError as error:
                trailer = dict(error.trailing_metadata() or ())
                if PUSHBACK in trailer and int(str(trailer[PUSHBACK])) >= 0:
                    self.ended["pushed back"] += 1
                    await asyncio.sleep(int(str(trailer[PUSHBACK])) / 1000)
                else:
                    self.failures.append(f"{error.code()}: {error.details()} {trailer}")
                continue
            if seen.done is None or seen.done.usage.completion_tokens != tokens:
                self.failures.append(f"a stream of {tokens} tokens ended early: {seen}")
            self.ended["well"] += 1

    async def until_well(self, more: int) -> None:
        """Until that many more streams have ended well."""
        enough = self.ended["well"] + more
        await serving.until(lambda: self.ended["well"] >= enough)


async def until_ready(address: str) -> None:
    """Until the gateway itself has a model to offer."""
    async with asyncio.timeout(BOUND_S), grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                listed = await stub.ListModels(
                    inference_pb2.ListModelsRequest(), metadata=METADATA, wait_for_ready=True
                )
                if any(model.local_replicas_serving == 2 for model in listed.models):
                    return
            await asyncio.sleep(0.1)


async def test_no_request_fails_while_both_gateways_are_replaced(
    postgres: Postgres, tmp_path: Path
) -> None:
    dsn = tmp_path / "dsn"
    dsn.write_text(f"{postgres.dsn}\n")
    ports = [free_port(), free_port()]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    engine = SimulatedVllmConfig(served_model_name=serving.MODEL, speed=2.0)
    async with contextlib.AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(simulated_vllm(engine)) for _ in range(2)]
        files = [
            config(tmp_path, f"g{i}", port, [each.url for each in engines], dsn)
            for i, port in enumerate(ports)
        ]
        log = tmp_path / "log"
        running = [await stack.enter_async_context(gateway(file, log)) for file in files]
        for address in addresses:
            await until_ready(address)
        options = (("grpc.service_config", service_config()),)
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(f"ipv4:{','.join(addresses)}", options=options)
        )
        load = Load(inference_pb2_grpc.InferenceServiceStub(channel))
        async with asyncio.TaskGroup() as group:
            for number in range(STREAMS):
                group.create_task(load.client(number))
            for i, process in enumerate(running):
                await load.until_well(STREAMS)
                process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(BOUND_S):
                    assert await process.wait() == 0, log.read_text()
                await stack.enter_async_context(gateway(files[i], log))
                await until_ready(addresses[i])
            await load.until_well(2 * STREAMS)
            load.stopped = True
        print(load.ended)
        assert not load.failures, (load.failures[:3], log.read_text()[-3000:])
        assert load.ended["well"] > 4 * STREAMS


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
