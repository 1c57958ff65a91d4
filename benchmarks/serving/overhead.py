"""What the gateway costs: its CPU per unary request and per streamed token, and the added time.

CPU time of the gateway's process (user and system), so that what else the machine does
matters little. The same client drives a bare grpc.aio server in the same run: the floor. Streams
are measured with holding off, with holding on, and with an upstream that honours `stream_interval`
too; each after a warm-up of the same load, in which the gateway finds its pace. Short answers of a
fast upstream, one at a time, with holding on: a hold must not last longer than the answer.

    python -m benchmarks.serving.overhead [--repeats 3] [--streams 64 512]
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
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from gateway.config.resolve.api_keys import key_sha256
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2, inference_pb2_grpc

HERE = Path(__file__).parent
KEY = "mg-benchmark"
SECRETS = {"bench": KEY}
METADATA = (("authorization", f"Bearer {KEY}"),)
UNARY_REQUESTS = 1500
TURNS = 10
TOKENS_PER_STREAM = 150
TOKEN_INTERVAL_S = 0.02
TTFT_REQUESTS = 300
SHORT_TOKENS = 64
SHORT_REQUESTS = 400
CASES = (
    ("nothing held", 0.0, 1),
    ("held under load", 0.05, 1),
    ("held, stream_interval", 0.05, 64),
)
"""Name, longest hold of the gateway in seconds, most tokens that the upstream puts into a chunk."""


@contextlib.contextmanager
def process(
    *command: str, environment: Mapping[str, str] | None = None, stderr: IO[str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that prints one line when it is ready."""
    running = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        cwd=HERE.parents[1],
        env=environment,
    )
    assert running.stdout is not None
    try:
        yield running, running.stdout.readline().split()[-1]
    finally:
        running.terminate()
        running.wait(timeout=30)


def configuration(
    upstream_port: str, longest_hold_s: float = 0.05, secrets: Mapping[str, str] = SECRETS
) -> str:
    """A configuration with one replica, the upstream, and a tenant `bench`. `secrets`: those of its
    keys, by their ids."""
    keys = "\n".join(
        f"      - {{id: {name}, sha256: {key_sha256(secret)}}}" for name, secret in secrets.items()
    )
    return f"""
server: {{listen: "127.0.0.1:0", drain_delay_s: 0, drain_s: 0, longest_hold_s: {longest_hold_s}}}
pools:
  - name: own
    model: bench
    max_num_seqs: 4096
    gpu: {{type: none, count: 1}}
    replicas: [{{name: a, url: "http://127.0.0.1:{upstream_port}"}}]
tenants:
  - name: bench
    keys:
{keys}
"""


@contextlib.contextmanager
def gateway(
    upstream_port: str,
    longest_hold_s: float = 0.05,
    *,
    more_settings: str = "",
    log_level: str = "ERROR",
    log: IO[str] | None = None,
    environment: Mapping[str, str] | None = None,
    fronts: int = 0,
) -> Iterator[tuple[int, str]]:
    """A gateway in front of the upstream: its process id and port. `fronts`: processes beside the
    scheduler's; 0: one process does it all."""
    settings = configuration(upstream_port, longest_hold_s) + more_settings
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "moegate.yaml"
        path.write_text(settings)
        options = ("--log-level", log_level, "--fronts", str(fronts))
        command = ("-m", "moegate", "serve", str(path), *options)
        with process(*command, environment=environment, stderr=log) as (running, address):
            yield running.pid, address.rpartition(":")[2]


def cpu_s(pid: int) -> float:
    """User and system CPU time of a process, all threads: in ns, where /proc has ticks of 10 ms."""
    return time.clock_gettime((~pid << 3) | 2)  # the clock that clock_getcpuclockid(3) names


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


async def stream(
    stub: inference_pb2_grpc.InferenceServiceAsyncStub, tokens: int, gaps_ms: list[float]
) -> None:
    """One stream; the times between its messages are added to `gaps_ms`."""
    last_s = None
    async for message in stub.Generate(ask(tokens), metadata=METADATA):
        if message.HasField("delta"):
            now_s = time.perf_counter()
            if last_s is not None:
                gaps_ms.append(1000 * (now_s - last_s))
            last_s = now_s


async def streams(stub: inference_pb2_grpc.InferenceServiceAsyncStub, number: int) -> list[float]:
    """Streams side by side; the times between messages, sorted."""
    gaps_ms: list[float] = []
    await asyncio.gather(*(stream(stub, TOKENS_PER_STREAM, gaps_ms) for _ in range(number)))
    return sorted(gaps_ms)


async def first_token_us(stub: inference_pb2_grpc.InferenceServiceAsyncStub) -> list[float]:
    """Time to the first message, one request at a time, sorted."""
    found = []
    for _ in range(TTFT_REQUESTS):
        started_s = time.perf_counter()
        call = stub.Generate(ask(1), metadata=METADATA)
        await call.read()
        found.append(1e6 * (time.perf_counter() - started_s))
        while await call.read() is not grpc.aio.EOF:
            pass
    return sorted(found)


async def single_requests(servers: Sequence[tuple[int, str]]) -> list[dict[str, float]]:
    """CPU per unary request and time to the first token of each server (process id, port), one
    request at a time, by turns: what a wake-up costs depends on what else the machine does."""
    async with contextlib.AsyncExitStack() as stack:
        stubs = []
        for pid, port in servers:
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            stub = inference_pb2_grpc.InferenceServiceStub(await stack.enter_async_context(channel))
            await until_ready(stub)
            await unary(stub, 100)
            stubs.append((pid, stub))
        used_s = dict.fromkeys((pid for pid, _ in servers), 0.0)
        for _ in range(TURNS):
            for pid, stub in stubs:
                await unary(stub, 10)
                before_s = cpu_s(pid)
                await unary(stub, UNARY_REQUESTS // TURNS)
                used_s[pid] += cpu_s(pid) - before_s
        found = []
        for pid, stub in stubs:
            times_us = await first_token_us(stub)
            found.append(
                {
                    "CPU per unary request, µs": 1e6 * used_s[pid] / UNARY_REQUESTS,
                    "TTFT p50, µs": statistics.median(times_us),
                    "TTFT p99, µs": times_us[int(0.99 * len(times_us))],
                    "resident memory, MB": resident_mb(pid),
                }
            )
    return found


async def short_answers(pid: int, port: str) -> dict[str, float]:
    """Rate, time and CPU of short answers of one client, unary and streamed."""
    wanted = inference_pb2.GenerateOnceRequest(request=ask(SHORT_TOKENS))
    found: dict[str, float] = {}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await until_ready(stub)

        async def once() -> None:
            await stub.GenerateOnce(wanted, metadata=METADATA)

        async def streamed() -> None:
            await stream(stub, SHORT_TOKENS, [])

        for what, call in (("unary", once), ("stream", streamed)):
            times_ms = await _times_ms(call)  # in which the gateway finds its pace
            before_s = cpu_s(pid)
            times_ms = await _times_ms(call)
            name = f"default, {what} of {SHORT_TOKENS} tokens"
            found |= {
                f"{name}: answers/s": 1000 * len(times_ms) / sum(times_ms),
                f"{name}: p50, ms": statistics.median(times_ms),
                f"{name}: p99, ms": times_ms[int(0.99 * len(times_ms))],
                f"{name}: CPU, µs": 1e6 * (cpu_s(pid) - before_s) / len(times_ms),
            }
    return found


async def _times_ms(call: Callable[[], Awaitable[None]]) -> list[float]:
    """Times of calls one after the other, sorted."""
    times_ms = []
    for _ in range(SHORT_REQUESTS):
        started_s = time.perf_counter()
        await call()
        times_ms.append(1000 * (time.perf_counter() - started_s))
    return sorted(times_ms)


async def streaming(pid: int, port: str, number: int, what: str) -> dict[str, float]:
    """CPU per token and the gaps, for streams side by side."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await until_ready(stub)
        await streams(stub, number)
        before_s, started_s = cpu_s(pid), time.perf_counter()
        gaps_ms = await streams(stub, number)
        passed_s = time.perf_counter() - started_s
        tokens = number * TOKENS_PER_STREAM
        cpu_us = 1e6 * (cpu_s(pid) - before_s) / tokens
    return {
        f"{number} streams, {what}: CPU per token, µs": cpu_us,
        f"{number} streams, {what}: tokens/s": tokens / passed_s,
        f"{number} streams, {what}: messages per token": (len(gaps_ms) + number) / tokens,
        f"{number} streams, {what}: gap p99, ms": gaps_ms[int(0.99 * len(gaps_ms))],
    }


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def repeat_once(numbers: list[int]) -> tuple[dict[str, float], dict[str, float]]:
    """Every figure of the gateway, and of the floor where it has the same."""
    upstream, echo = str(HERE / "upstream.py"), str(HERE / "echo.py")
    with (
        process(upstream, "0", "1") as (_, up),
        gateway(up, 0.0) as ours_at,
        process(echo, "0") as (running, port),
    ):
        ours, floor = uvloop.run(single_requests((ours_at, (running.pid, port))))
    with process(upstream, "0", "1") as (_, up), gateway(up) as (pid, port):
        ours |= uvloop.run(short_answers(pid, port))
    with process(echo, "0") as (running, port):
        floor |= uvloop.run(short_answers(running.pid, port))
    for number in numbers:
        with process(echo, str(TOKEN_INTERVAL_S)) as (running, port):
            bare = uvloop.run(streaming(running.pid, port, number, "")).values()
        for what, longest_hold_s, most_per_chunk in CASES:
            arguments = (upstream, str(TOKEN_INTERVAL_S), str(most_per_chunk))
            with process(*arguments) as (_, up), gateway(up, longest_hold_s) as (pid, port):
                measured = uvloop.run(streaming(pid, port, number, what))
            ours |= measured
            floor |= dict(zip(measured, bare, strict=True))
    return ours, floor


def show(values: list[float]) -> str:
    """Median and range."""
    digits = 2 if max(values) < 2 else 0
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({least:.{digits}f}-{most:.{digits}f})"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[64, 512])
    arguments = parser.parse_args()
    rows: dict[str, tuple[list[float], list[float]]] = {}
    for _ in range(arguments.repeats):
        ours, floor = repeat_once(arguments.streams)
        for name, value in ours.items():
            mine, bare = rows.setdefault(name, ([], []))
            mine.append(value)
            bare.append(floor[name])
    title = f"moegate beside a bare grpc.aio server: median (least-most) of {arguments.repeats}"
    table = Table(title=title)
    for column in ("tokens every 20 ms in streams", "moegate", "bare grpc.aio"):
        table.add_column(column, justify="right" if rows and "grpc" in column else "left")
    for name, (mine, bare) in rows.items():
        table.add_row(name, show(mine), show(bare))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
