"""Several front processes: throughput, and the CPU of the scheduler's side and of the fronts.

The same load on one process that does it all (fronts: 0) and on N fronts beside the scheduler's
process, in turn, several rounds. CPU is that of the processes, so that what else the machine does
matters little; throughput and times are only as good as the cores that are free.

    python -m benchmarks.fronts [--fronts 0 1 2] [--rounds 3]

`--schedule` plays the laboratory with several fronts in virtual time (`fronts_schedule.py`);
`--money` measures bill and limits with several gateways on one PostgreSQL (`fronts_money.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.fronts_money import money
from benchmarks.fronts_schedule import schedule
from benchmarks.policies import FOLDER_VARIABLE, SEEDS
from benchmarks.serving.overhead import (
    HERE,
    METADATA,
    TOKEN_INTERVAL_S,
    TOKENS_PER_STREAM,
    ask,
    cpu_s,
    gateway,
    process,
    stream,
    until_ready,
)
from moegate.v1 import inference_pb2, inference_pb2_grpc

CHANNELS = 16
"""Connections, which the kernel deals out over the fronts."""
CLIENTS = 64
"""Unary requests at once."""
REQUESTS = 3000
STREAMS = 64
OWN = (("grpc.use_local_subchannel_pool", 1),)
if TYPE_CHECKING:
    Stubs = list[inference_pb2_grpc.InferenceServiceAsyncStub]


def children(pid: int, module: str) -> list[int]:
    """Processes of this module that a process has started."""
    found = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(line.split()[0]) for line in found.stdout.splitlines() if module in line]


async def closed_loop(stubs: Stubs) -> list[float]:
    """Unary requests, `CLIENTS` at once. Returns their times in ms."""
    wanted = inference_pb2.GenerateOnceRequest(request=ask(1))
    times_ms: list[float] = []

    async def client(number: int) -> None:
        stub = stubs[number % len(stubs)]
        for _ in range(REQUESTS // CLIENTS):
            began_s = time.perf_counter()
            await stub.GenerateOnce(wanted, metadata=METADATA)
            times_ms.append(1000 * (time.perf_counter() - began_s))

    await asyncio.gather(*map(client, range(CLIENTS)))
    return times_ms


async def long_streams(stubs: Stubs) -> None:
    """`STREAMS` streams side by side."""
    gaps_ms: list[float] = []
    await asyncio.gather(
        *(stream(stubs[i % len(stubs)], TOKENS_PER_STREAM, gaps_ms) for i in range(STREAMS))
    )


async def measure(pid: int, port: str) -> dict[str, float]:
    """One round at a gateway: CPU in µs, of the scheduler's side and of the fronts. The spare
    scheduler's process does nothing."""
    fronts = children(pid, "front_process")
    others = [pid, *children(pid, "scheduler_process")]
    found: dict[str, float] = {}

    def cpu() -> tuple[float, float]:
        return sum(map(cpu_s, others)), sum(map(cpu_s, fronts))

    async with contextlib.AsyncExitStack() as stack:
        stubs = [
            inference_pb2_grpc.InferenceServiceStub(
                await stack.enter_async_context(
                    grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OWN)
                )
            )
            for _ in range(CHANNELS)
        ]
        for stub in stubs:
            await until_ready(stub)
        await closed_loop(stubs)  # warm
        before, began_s = cpu(), time.perf_counter()
        times_ms = sorted(await closed_loop(stubs))
        passed_s, after = time.perf_counter() - began_s, cpu()
        requests = len(times_ms)
        found["unary requests/s"] = requests / passed_s
        found["unary p50, ms"] = times_ms[requests // 2]
        found["unary p99, ms"] = times_ms[requests * 99 // 100]
        found["unary, CPU of the scheduler's side, µs"] = 1e6 * (after[0] - before[0]) / requests
        found["unary, CPU of the fronts, µs"] = 1e6 * (after[1] - before[1]) / requests
        before = cpu()
        await long_streams(stubs)
        after = cpu()
        tokens = STREAMS * TOKENS_PER_STREAM
        found["token, CPU of the scheduler's side, µs"] = 1e6 * (after[0] - before[0]) / tokens
        found["token, CPU of the fronts, µs"] = 1e6 * (after[1] - before[1]) / tokens
    return found


def main() -> None:
    """Prints the table of medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fronts", type=int, nargs="+", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--schedule", action="store_true", help="the schedule, in virtual time")
    parser.add_argument("--money", action="store_true", help="bill and limits, on PostgreSQL")
    parser.add_argument("--count", type=int, default=3000, help="requests of a run of --schedule")
    parser.add_argument("--workers", type=int, default=1, help="processes of --schedule")
    args = parser.parse_args()
    if args.schedule:
        traces = os.environ.get(FOLDER_VARIABLE)
        schedule(
            Path(traces) if traces else None,
            fronts=args.fronts or [0, 1, 2, 4, 8],
            count=args.count,
            seeds=SEEDS,
            workers=args.workers,
        )
        return
    if args.money:
        money(args.fronts or [1, 2, 4, 8])
        return
    args.fronts = args.fronts or [0, 1, 2]
    found: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with process(str(HERE / "upstream.py"), str(TOKEN_INTERVAL_S), "1") as (_, upstream_port):
        for _ in range(args.rounds):
            for fronts in args.fronts:
                with gateway(upstream_port, fronts=fronts) as (pid, port):
                    for name, value in uvloop.run(measure(pid, port)).items():
                        found[fronts][name].append(value)
    table = Table(title=f"fronts, medians of {args.rounds} rounds")
    table.add_column("")
    for fronts in args.fronts:
        table.add_column(f"{fronts} fronts" if fronts else "one process", justify="right")
    for name in found[args.fronts[0]]:
        table.add_row(
            name, *(f"{statistics.median(found[fronts][name]):,.1f}" for fronts in args.fronts)
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
