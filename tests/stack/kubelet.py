"""Plays the kubelet for one gateway pod, inside the sandbox: `python -m tests.stack.kubelet FILE`.

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
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from tests.dns_server import dns_server
from tests.stack.sandbox import as_user

MOEGATE = Path(sys.prefix) / "bin" / "moegate"
BOUND_S = 120.0


async def main(task: dict[str, Any]) -> None:
    """Everything that happens to a pod, from its start to its end."""
    (container,) = task["deployment"]["spec"]["template"]["spec"]["containers"]
    servers = SimulatedVllmConfig(
        served_model_name=task["served"],
        host="127.0.0.2",
        port=8000,
        speed=20.0,
        api_key=task["vllm_key"],
    )
    async with (
        simulated_vllm(servers),
        dns_server(f"{task['found']}.cluster.local", "127.0.0.2", port=53) as dns,
        gateway(container) as process,
    ):
        dns.others[f"{task['service']}.cluster.local"] = "127.0.0.1"
        await until(container["startupProbe"], "SERVING", process)
        await until(container["livenessProbe"], "SERVING", process)
        await until(container["readinessProbe"], "SERVING", process)
        for told, command in task["commands"].items():
            answer = await run([str(MOEGATE), *command], task["key"])
            print(f"{told}: {answer}")
        await run(container["lifecycle"]["preStop"]["exec"]["command"], "")
        process.send_signal(signal.SIGTERM)
        await until(container["readinessProbe"], "NOT_SERVING", process)
        async with asyncio.timeout(BOUND_S):
            assert await process.wait() == 0, process.returncode
    print("ended well")


@contextlib.asynccontextmanager
async def gateway(container: dict[str, Any]) -> AsyncIterator[asyncio.subprocess.Process]:
    """The container's process, by the image's entry point."""
    environment = {item["name"]: item["value"] for item in container["env"] if "value" in item}
    process = await asyncio.create_subprocess_exec(
        *as_user([str(MOEGATE), *map(str, container["args"])]),
        env={"PATH": os.environ["PATH"], **environment},
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


async def run(command: list[str], key: str) -> str:
    """Runs a command of the pod's image. Its output."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/tmp", "MOEGATE_API_KEY": key}
    process = await asyncio.create_subprocess_exec(
        *as_user(command),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd="/tmp",
    )
    async with asyncio.timeout(BOUND_S):
        output, _ = await process.communicate()
    assert process.returncode == 0, f"{shlex.join(command)}: {output.decode()}"
    return output.decode()


if __name__ == "__main__":
    asyncio.run(main(json.loads(Path(sys.argv[1]).read_text())))
