"""Starts the services of compose.yaml inside the sandbox.

    python -m tests.stack.chart.composed FILE

Each service has an address of its own on loopback, by its name in /etc/hosts, as an engine's
network would give it; the collector is a small OTLP server.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import grpc
import yaml
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2 as trace_pb2,
)
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2_grpc as trace_grpc,
)

from tests.stack.chart.kubelet import MOEGATE, run
from tests.stack.chart.sandbox import as_user

ADDRESSES = {"vllm-a": "127.0.0.11", "vllm-b": "127.0.0.12", "collector": "127.0.0.13"}
BOUND_S = 120.0


class Collector(trace_grpc.TraceServiceServicer):
    """Counts spans by service."""

    def __init__(self) -> None:
        self.spans: dict[str, int] = {}

    async def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            named = {a.key: a.value.string_value for a in resource.resource.attributes}
            spans = sum(len(scope.spans) for scope in resource.scope_spans)
            service = named["service.name"]
            self.spans[service] = self.spans.get(service, 0) + spans
        return trace_pb2.ExportTraceServiceResponse()


async def main(text: str) -> None:
    """The servers, the gateway, one chat as the file's head says, and the end."""
    services = yaml.safe_load(text)["services"]
    collector, server = Collector(), grpc.aio.server()
    trace_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"{ADDRESSES['collector']}:4317")
    await server.start()
    async with contextlib.AsyncExitStack() as stack:
        for name in ("vllm-a", "vllm-b"):
            command = [arg.replace("0.0.0.0", ADDRESSES[name]) for arg in services[name]["command"]]
            await start(stack, command, {})
        gateway = services["gateway"]
        process = await start(stack, gateway["command"], gateway["environment"])
        (line,) = (line for line in text.splitlines() if "docker compose exec gateway" in line)
        chat = shlex.split(line.partition("exec gateway moegate ")[2])
        print(await once_it_serves(chat))
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(BOUND_S):
            assert await process.wait() == 0
    await server.stop(1)
    print(f"{collector.spans['moegate']} spans of moegate")
    print("ended well")


async def start(
    stack: contextlib.AsyncExitStack, command: list[str], environment: dict[str, str]
) -> asyncio.subprocess.Process:
    """A service's process, ended with the stack."""
    process = await asyncio.create_subprocess_exec(
        *as_user([str(MOEGATE), *command]),
        env={"PATH": os.environ["PATH"], "HOME": "/tmp", **environment},
        cwd="/tmp",
    )

    async def end() -> None:
        if process.returncode is None:
            process.kill()
            await process.wait()

    stack.push_async_callback(end)
    return process


async def once_it_serves(chat: list[str]) -> str:
    """The answer, asked for again until the gateway has probed its servers."""
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                return await run([str(MOEGATE), *chat], "")
            except AssertionError as error:
                told = str(error)
                assert "UNAVAILABLE" in told or "serves no model" in told, told
                await asyncio.sleep(0.5)


if __name__ == "__main__":
    with Path("/etc/hosts").open("a") as hosts:
        hosts.writelines(f"{address} {name}\n" for name, address in ADDRESSES.items())
    asyncio.run(main(Path(sys.argv[1]).read_text()))
