"""What one hostile or very large message does to the gateway.

Each message goes to a fresh gateway process, beside an honest stream. The table shows the longest
time for which the event loop was held (by the wall clock, and by CPU time, which a busy machine
does not lengthen), and how much the process grew at most, as a multiple of the message. Then
prompts of 100,000 tokens: CPU time of the whole process beyond a short prompt's. Writes nothing.
Needs Linux.

    python -m benchmarks.hostile.one_message [--only TEXT]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.hostile.messages import MIB, Case, cases, prompts
from benchmarks.serving.overhead import (
    HERE,
    METADATA,
    TOKEN_INTERVAL_S,
    ask,
    configuration,
    cpu_s,
    process,
    until_ready,
)
from moegate.v1 import inference_pb2_grpc

METHOD = "/moegate.v1.InferenceService/Generate"
CONTEXT_TOKENS = "100000000"
HELD_TARGET_MS = 50.0
MEMORY_TARGET = 4.0
PROMPT_CPU_TARGET_MS = 10.0
PROMPT_HELD_TARGET_MS = 5.0
PROMPT_REPEATS = 15
MORE_SETTINGS = """
limits: {key_message_bytes: 16777216, image_bytes: 16777216}
slo_classes:
  interactive: {ttft_s: 3600, tpot_s: 60, max_queue_s: 3600}
"""
"""A key may send the largest message, and no promise keeps a large prompt waiting."""
SMALLEST_JUDGED_BYTES = 8_000_000
"""Of a message whose memory is judged: what a process keeps for any request weighs more in a
smaller one."""
OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)


@dataclass(frozen=True, slots=True)
class Found:
    """What a message did. Times in milliseconds; `answer`: OK or the status."""

    answer: str
    took_ms: float
    held_ms: float
    held_cpu_ms: float
    grown_bytes: int


@dataclass(frozen=True, slots=True)
class Watched:
    """A gateway process that watches its loop."""

    running: subprocess.Popen[str]
    port: str

    def held_ms(self) -> tuple[float, float]:
        """Longest time that the loop was held since the last call: wall clock, and CPU time."""
        assert self.running.stdin is not None
        assert self.running.stdout is not None
        self.running.stdin.write("\n")
        self.running.stdin.flush()
        wall_s, used_s = map(float, self.running.stdout.readline().split())
        return 1000 * wall_s, 1000 * used_s

    def memory_bytes(self, name: str) -> int:
        """VmRSS or VmHWM of the process."""
        for line in Path(f"/proc/{self.running.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
        raise ValueError(name)

    def forget_peak(self) -> None:
        """The peak of its memory begins anew."""
        Path(f"/proc/{self.running.pid}/clear_refs").write_text("5")


@contextlib.contextmanager
def watched_gateway(upstream_port: str, *, http_port: int | None = None) -> Iterator[Watched]:
    """A fresh gateway in front of the upstream. `http_port`: None: it has no HTTP port."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "moegate.yaml"
        settings = configuration(upstream_port, longest_hold_s=0.0) + MORE_SETTINGS
        if http_port is not None:
            address = f'server: {{http_listen: "127.0.0.1:{http_port}", '
            settings = settings.replace("server: {", address)
        path.write_text(settings)
        running = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.hostile.watched_gateway", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parents[1],
        )
        assert running.stdout is not None
        try:
            yield Watched(running, running.stdout.readline().strip().rpartition(":")[2])
        finally:
            running.terminate()
            running.wait(timeout=30)


def as_is(data: bytes) -> bytes:
    """Messages travel as the bytes that they are."""
    return data


async def send(channel: grpc.aio.Channel, case: Case) -> str:
    """Sends a message and reads the whole answer. Returns its status."""
    method = channel.unary_stream(METHOD, request_serializer=as_is, response_deserializer=as_is)
    call = method(
        case.data,
        metadata=METADATA if case.has_key else (),
        compression=case.compression,
        timeout=120,
    )
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def honest_stream(stub: inference_pb2_grpc.InferenceServiceAsyncStub) -> None:
    """A stream without an end."""
    async for _ in stub.Generate(ask(1_000_000), metadata=METADATA):
        pass


async def measure(gateway: Watched, case: Case) -> Found:
    """Sends one message beside an honest stream."""
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}") as channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}", options=OPTIONS) as other,
    ):
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await until_ready(stub)
        beside = asyncio.create_task(honest_stream(stub))
        await other.channel_ready()
        await asyncio.sleep(1.0)
        gateway.held_ms()
        gateway.forget_peak()
        before_bytes = gateway.memory_bytes("VmRSS")
        started_s = time.perf_counter()
        answer = await send(other, case)
        took_ms = 1000 * (time.perf_counter() - started_s)
        await asyncio.sleep(0.2)
        held_ms, held_cpu_ms = gateway.held_ms()
        grown_bytes = gateway.memory_bytes("VmHWM") - before_bytes
        beside.cancel()
    return Found(answer, took_ms, held_ms, held_cpu_ms, grown_bytes)


async def prompt_cost(gateway: Watched, case: Case) -> tuple[float, float, str]:
    """CPU time of a prompt beyond that of a short one, longest hold by CPU time (milliseconds, the
    medians), and the answer."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.port}", options=OPTIONS) as channel:
        await until_ready(inference_pb2_grpc.InferenceServiceStub(channel))
        short = Case("short", ask(1).SerializeToString())
        costs_ms, holds_ms = [], []
        answer = ""
        for _ in range(PROMPT_REPEATS):
            spent = []
            for each in (short, case):
                await asyncio.sleep(0.05)
                gateway.held_ms()
                before_s = cpu_s(gateway.running.pid)
                answer = await send(channel, each)
                spent.append(1000 * (cpu_s(gateway.running.pid) - before_s))
            costs_ms.append(spent[1] - spent[0])
            holds_ms.append(gateway.held_ms()[1])
    return statistics.median(costs_ms), statistics.median(holds_ms), answer


def shown(value: float, target: float) -> str:
    """A figure, marked if it misses its target."""
    return f"[red]{value:.1f}[/red]" if value > target else f"{value:.1f}"


def row_of(name: str, size: int, found: Found, *, good: bool) -> tuple[str, ...]:
    """The row of one message of so many bytes. `good`: it was answered as it should be."""
    times = found.grown_bytes / size
    judged = size >= SMALLEST_JUDGED_BYTES
    return (
        name,
        f"{size / 1e6:.1f}",
        found.answer if good else f"[red]{found.answer}[/red]",
        f"{found.took_ms:.0f}",
        shown(found.held_ms, HELD_TARGET_MS),
        shown(found.held_cpu_ms, HELD_TARGET_MS),
        f"{found.grown_bytes / MIB:.0f}",
        shown(times, MEMORY_TARGET) if judged else f"{times:.1f}",
    )


def hostile_table(upstream_port: str, only: str) -> Table:
    """Runs the messages, one row each."""
    table = Table(title=f"one message; targets: held ≤ {HELD_TARGET_MS:g} ms, memory ≤ 4 x")
    table.add_column("message")
    for column in ("MB", "answer", "ms", "held ms", "held CPU ms", "grown MiB", "x"):
        table.add_column(column, justify="right")
    for case in cases():
        if only not in case.name:
            continue
        with watched_gateway(upstream_port) as gateway:
            found = uvloop.run(measure(gateway, case))
        good = (found.answer == "OK") == case.honest
        table.add_row(*row_of(case.name, len(case.data), found, good=good))
    return table


def prompt_table(upstream_port: str, only: str) -> Table:
    """Runs the prompts of 100,000 tokens, one row each."""
    table = Table(
        title=f"prompts of 100,000 tokens; targets: CPU ≤ {PROMPT_CPU_TARGET_MS:g} ms,"
        f" held ≤ {PROMPT_HELD_TARGET_MS:g} ms"
    )
    for column in ("prompt", "KB", "answer", "CPU ms", "held CPU ms"):
        table.add_column(column, justify="left" if column == "prompt" else "right")
    for case in prompts():
        if only not in case.name:
            continue
        with watched_gateway(upstream_port) as gateway:
            cost_ms, held_ms, answer = uvloop.run(prompt_cost(gateway, case))
        table.add_row(
            case.name,
            f"{len(case.data) / 1000:.0f}",
            answer if answer == "OK" else f"[red]{answer}[/red]",
            shown(cost_ms, PROMPT_CPU_TARGET_MS),
            shown(held_ms, PROMPT_HELD_TARGET_MS),
        )
    return table


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="messages whose names hold this text")
    args = parser.parse_args()
    console = Console(width=130)
    upstream = (str(HERE / "upstream.py"), str(TOKEN_INTERVAL_S), "1", CONTEXT_TOKENS)
    with process(*upstream) as (_, upstream_port):
        console.print(hostile_table(upstream_port, args.only))
        console.print(prompt_table(upstream_port, args.only))


if __name__ == "__main__":
    main()
