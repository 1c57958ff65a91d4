"""Plays the kubelet for a gateway pod, inside the sandbox.

    python -m tests.stack.chart.kubelet FILE

FILE (JSON) holds the rendered Deployment, the commands that a person and `helm test` run, and the
key. The container's command, environment and probes are those of the rendered objects, to the
letter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from tests.dns_server import DnsServer, dns_server
from tests.stack.chart.sandbox import as_user

MOEGATE = Path(sys.prefix) / "bin" / "moegate"
ENGINE = "127.0.0.2"
BOUND_S = 120.0
ENGINE_BOUND_S = 400.0
"""A real vLLM takes a minute or more until it answers."""
STREAMS = 8


async def main(task: dict[str, Any]) -> None:
    """Everything that happens to a pod, from its start to its end."""
    container = container_of(task["deployment"])
    async with (
        engine(task) as server,
        dns_server(f"{task['found']}.cluster.local", ENGINE, port=53) as dns,
        started([str(MOEGATE), *map(str, container["args"])], container) as process,
    ):
        dns.others[f"{task['service']}.cluster.local"] = "127.0.0.1"
        await until(container["startupProbe"], "SERVING", process)
        await until(container["livenessProbe"], "SERVING", process)
        await until(container["readinessProbe"], "SERVING", process)
        for told, command in task["commands"].items():
            answer = await run([str(MOEGATE), *command], task["key"])
            print(f"{told}: {answer}")
        if server is not None:
            await drained(server, container_of(task["stateful_set"]), task, dns)
        await run(container["lifecycle"]["preStop"]["exec"]["command"], "")
        process.send_signal(signal.SIGTERM)
        await until(container["readinessProbe"], "NOT_SERVING", process)
        async with asyncio.timeout(BOUND_S):
            assert await process.wait() == 0, process.returncode
    print("ended well")


def container_of(workload: dict[str, Any]) -> dict[str, Any]:
    """The only container of a Deployment or StatefulSet."""
    container: dict[str, Any]
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return container


@contextlib.asynccontextmanager
async def engine(task: dict[str, Any]) -> AsyncIterator[asyncio.subprocess.Process | None]:
    """vLLM: a simulated one, or the rendered container on a real one (`vllm`, its executable)."""
    if "vllm" not in task:
        settings = SimulatedVllmConfig(
            served_model_name=task["served"],
            host=ENGINE,
            port=8000,
            speed=20.0,
            api_key=task["vllm_key"],
        )
        async with simulated_vllm(settings):
            yield None
        return
    container = container_of(task["stateful_set"])
    assert container["command"] == ["vllm", "serve"]
    command = [task["vllm"], "serve", *container["args"]]
    async with started(command, container, task["cpu"]) as process:
        probe = container["startupProbe"]["httpGet"]
        async with asyncio.timeout(ENGINE_BOUND_S), aiohttp.ClientSession() as http:
            while process.returncode is None:
                with contextlib.suppress(aiohttp.ClientError):
                    async with http.get(f"http://{ENGINE}:8000{probe['path']}") as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(0.5)
        assert process.returncode is None, f"vLLM ended with {process.returncode}"
        yield process


async def drained(
    server: asyncio.subprocess.Process,
    container: dict[str, Any],
    task: dict[str, Any],
    dns: DnsServer,
) -> None:
    """The end of a vLLM pod: out of DNS, preStop, SIGTERM; streams that run must end well."""
    # A random model ends its answers when it likes: some of these outlive SIGTERM.
    chat = ["chat", "--max-output-tokens=4000", "Go on."]
    streams = [await spawn([str(MOEGATE), *chat], task["key"]) for _ in range(STREAMS)]
    for stream in streams:
        assert stream.stdout is not None
        async with asyncio.timeout(BOUND_S):
            assert await stream.stdout.read(1), "it ended before it began"
    readers = [asyncio.create_task(ended(stream, chat)) for stream in streams]
    dns.addresses = []
    await run(container["lifecycle"]["preStop"]["exec"]["command"], "")
    running = [reader for reader in readers if not reader.done()]
    server.send_signal(signal.SIGTERM)
    await asyncio.gather(*readers)
    print(f"streams that outlived SIGTERM: {len(running)}")
    async with asyncio.timeout(BOUND_S):
        print(f"vLLM ended with {await server.wait()}")


@contextlib.asynccontextmanager
async def started(
    command: list[str], container: dict[str, Any], beside: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The container's process with its environment, and what this machine needs beside."""
    # There is no /cache here, and a read-only root has no place for it.
    environment = {
        item["name"]: item["value"].replace("/cache", "/opt/cache")
        for item in container["env"]
        if "value" in item
    }
    process = await asyncio.create_subprocess_exec(
        *as_user(command),
        env={"PATH": os.environ["PATH"], **environment, **(beside or {})},
        cwd="/tmp",
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(probe: dict[str, Any], wanted: str, process: asyncio.subprocess.Process) -> None:
    """Asks as the probe does until it gets the status."""
    seen = "nothing"
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout(BOUND_S),
            grpc.aio.insecure_channel(f"127.0.0.1:{probe['grpc']['port']}") as channel,
        ):
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service=probe["grpc"]["service"])
            while process.returncode is None:
                try:
                    answer = await stub.Check(request, timeout=5, wait_for_ready=True)
                    seen = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
                except grpc.aio.AioRpcError as error:
                    seen = f"{error.code().name} {error.details()}"
                if seen == wanted:
                    return
                await asyncio.sleep(0.1)
    raise AssertionError(f"{probe}: {seen}, not {wanted}; exit {process.returncode}")


async def spawn(command: list[str], key: str) -> asyncio.subprocess.Process:
    """Starts a command of the pod's image."""
    return await asyncio.create_subprocess_exec(
        *as_user(command),
        env={"PATH": os.environ["PATH"], "HOME": "/tmp", "MOEGATE_API_KEY": key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd="/tmp",
    )


async def ended(process: asyncio.subprocess.Process, command: list[str]) -> str:
    """Its output. Raises AssertionError unless it ends well."""
    async with asyncio.timeout(BOUND_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, f"{shlex.join(command)}: {output.decode(errors='replace')}"
    return output.decode(errors="replace")  # a character may have been split


async def run(command: list[str], key: str) -> str:
    """Runs a command of the pod's image. Its output."""
    return await ended(await spawn(command, key), command)


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
