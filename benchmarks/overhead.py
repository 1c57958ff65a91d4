"""What the gateway costs: its CPU per unary request and per streamed token, and the added TTFT.

CPU time of the gateway's process (user and system, from /proc), so that what else the machine does
matters little. The same client drives a bare grpc.aio server in the same run: the floor.

    python benchmarks/overhead.py [--repeats 3]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from gateway.auth import key_sha256
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2, inference_pb2_grpc

HERE = Path(__file__).parent
KEY = "mg-benchmark"
METADATA = (("authorization", f"Bearer {KEY}"),)
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
UNARY_REQUESTS = 1500
TOKENS_PER_STREAM = 150
TOKEN_INTERVAL_S = 0.02
TTFT_REQUESTS = 200


@contextlib.contextmanager
def process(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that prints one line when it is ready."""
    running = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=HERE.parent
    )
    assert running.stdout is not None
    try:
        yield running, running.stdout.readline().split()[-1]
    finally:
        running.terminate()
        running.wait(timeout=30)


@contextlib.contextmanager
def gateway(upstream_port: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A gateway in front of the upstream."""
    settings = f"""
server: {{listen: "127.0.0.1:0", drain_delay_s: 0, drain_s: 0}}
pools:
  - name: own
    model: bench
    max_num_seqs: 4096
    gpu: {{type: none, count: 1}}
    replicas: [{{name: a, url: "http://127.0.0.1:{upstream_port}"}}]
tenants:
  - name: bench
    keys: [{{id: bench, sha256: {key_sha256(KEY)}}}]
"""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "moegate.yaml"
        path.write_text(settings)
        with process("-m", "gateway", "serve", str(path), "--log-level", "ERROR") as running:
            yield running


def cpu_s(pid: int) -> float:
    """User and system CPU time of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def ask(tokens: int) -> generation_pb2.GenerateRequest:
    """A short chat."""
    message = chat_pb2.ChatMessage(
        role=chat_pb2.ROLE_USER, parts=[chat_pb2.ContentPart(text="Tell me a story.")]
    )
    return generation_pb2.GenerateRequest(
        model="bench", chat=chat_pb2.ChatInput(messages=[message]), max_output_tokens=tokens
    )


async def until_ready(stub: inference_pb2_grpc.InferenceServiceAsyncStub) -> None:
    """Until a request is answered."""
    for _ in range(200):
        with contextlib.suppress(grpc.aio.AioRpcError):
            await unary(stub, 1)
            return
        await asyncio.sleep(0.05)
    raise TimeoutError("the server did not become ready in 10 s")


async def unary(stub: inference_pb2_grpc.InferenceServiceAsyncStub, requests: int) -> None:
    """Requests one after the other."""
    wanted = inference_pb2.GenerateOnceRequest(request=ask(1))
    for _ in range(requests):
        await stub.GenerateOnce(wanted, metadata=METADATA)


async def stream(stub: inference_pb2_grpc.InferenceServiceAsyncStub, tokens: int) -> None:
    """One stream."""
    async for _ in stub.Generate(ask(tokens), metadata=METADATA):
        pass


async def streams(stub: inference_pb2_grpc.InferenceServiceAsyncStub, number: int) -> None:
    """Streams side by side."""
    await asyncio.gather(*(stream(stub, TOKENS_PER_STREAM) for _ in range(number)))


async def first_token_ms(stub: inference_pb2_grpc.InferenceServiceAsyncStub) -> list[float]:
    """Time to the first message, one request at a time."""
    found = []
    for _ in range(TTFT_REQUESTS):
        started_s = time.perf_counter()
        call = stub.Generate(ask(1), metadata=METADATA)
        await call.read()
        found.append(1000 * (time.perf_counter() - started_s))
        while await call.read() is not grpc.aio.EOF:
            pass
    return found


async def measure(
    pid: int, port: str, streams_at_once: tuple[int, ...], fast: bool
) -> dict[str, float]:
    """CPU per unit of work, microseconds; for a fast upstream also the TTFT."""
    found: dict[str, float] = {}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await until_ready(stub)
        await unary(stub, 50)
        if fast:
            before_s = cpu_s(pid)
            await unary(stub, UNARY_REQUESTS)
            found["CPU per unary request, µs"] = 1e6 * (cpu_s(pid) - before_s) / UNARY_REQUESTS
            times_ms = sorted(await first_token_ms(stub))
            found["TTFT p50, µs"] = 1000 * statistics.median(times_ms)
            found["TTFT p99, µs"] = 1000 * times_ms[int(0.99 * len(times_ms))]
            return found
        for number in streams_at_once:
            before_s = cpu_s(pid)
            await streams(stub, number)
            tokens = number * TOKENS_PER_STREAM
            name = f"CPU per streamed token, {number} streams at 20 ms, µs"
            found[name] = 1e6 * (cpu_s(pid) - before_s) / tokens
    return found


def repeat_once(fast: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Gateway and floor, measured in turn."""
    interval_s = 0.0 if fast else TOKEN_INTERVAL_S
    numbers = (64,)
    with (
        process(str(HERE / "upstream.py"), str(interval_s)) as (_, upstream_port),
        gateway(upstream_port) as (running, address),
    ):
        ours = uvloop.run(measure(running.pid, address.rpartition(":")[2], numbers, fast))
    with process(str(HERE / "echo.py"), str(interval_s)) as (running, port):
        floor = uvloop.run(measure(running.pid, port, numbers, fast))
    return ours, floor


def show(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.0f} ({min(values):.0f}-{max(values):.0f})"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    rows: dict[str, tuple[list[float], list[float]]] = {}
    for _ in range(repeats):
        for fast in (True, False):
            ours, floor = repeat_once(fast)
            for name, value in ours.items():
                mine, bare = rows.setdefault(name, ([], []))
                mine.append(value)
                bare.append(floor[name])
    table = Table(title=f"moegate against a bare grpc.aio server: median (min-max) of {repeats}")
    for column in ("", "moegate", "bare grpc.aio", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for name, (mine, bare) in rows.items():
        ratio = statistics.median(mine) / max(1e-9, statistics.median(bare))
        table.add_row(name, show(mine), show(bare), f"{ratio:.1f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
