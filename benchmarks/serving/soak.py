"""What stays behind in a gateway after very many streams: memory, open files, threads.

Short streams at full speed through a gateway process in front of `upstream.py`. Its figures are
read from /proc from time to time. In the end its memory must be flat, its open files back where
they began (but for the idle connections that the probes keep), and every stream answered. Writes
nothing. Needs Linux.

    python -m benchmarks.serving.soak [--streams 200000] [--at-once 64]
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.serving.overhead import HERE, METADATA, ask, cpu_s, gateway, process, until_ready
from gateway.config.server import ServerConfig
from gateway.upstream.http.connections import UPSTREAM_KEEPALIVE_S
from moegate.v1 import inference_pb2_grpc

TOKENS_PER_STREAM = 4
STREAMS_PER_SAMPLE = 5_000
SAMPLES_AT_LEAST = 20
"""Short runs are sampled more often, so that a line can be fitted at all."""
STREAM_TIMEOUT_S = 120.0
"""A stream that hangs is counted, and does not hang the whole run."""
FITTED_SHARE = 0.75
"""Of the samples, the last ones: before that the gateway still fills its pools and caches."""
GROWTH_LIMIT = 0.02
"""Of the memory, per 100,000 streams."""
JUDGED_STREAMS = 50_000
"""In a shorter run the pools are still filling: its growth tells nothing about a longer one."""
KEPT_ALIVE = math.ceil(UPSTREAM_KEEPALIVE_S / ServerConfig().probe_interval_s)
"""Upstream connections that the probes alone keep open: each takes the one that rested longest."""
FILES_BACK_WITHIN_S = 30.0
"""All others are closed when they have rested for `UPSTREAM_KEEPALIVE_S`."""
BYTES_PER_PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """The gateway's process after a number of streams."""

    streams: int
    elapsed_s: float
    cpu_s: float
    rss_bytes: int
    files: int
    sockets: int
    threads: int


@dataclass(slots=True)
class Soak:
    """What a run found. `ends`: streams by "ok" or what they ended with instead."""

    samples: list[Sample]
    ends: Counter[str]
    files_after: int = 0


def sample(pid: int, streams: int, started_s: float) -> Sample:
    """Looks at a process from outside."""
    proc = Path(f"/proc/{pid}")
    links: list[str] = []
    for file in (proc / "fd").iterdir():
        try:
            links.append(str(file.readlink()))
        except FileNotFoundError:  # closed since it was listed
            continue
    return Sample(
        streams=streams,
        elapsed_s=time.monotonic() - started_s,
        cpu_s=cpu_s(pid),
        rss_bytes=int((proc / "statm").read_text().split()[1]) * BYTES_PER_PAGE,
        files=len(links),
        sockets=sum(link.startswith("socket:") for link in links),
        threads=sum(1 for _ in (proc / "task").iterdir()),
    )


async def one_stream(stub: inference_pb2_grpc.InferenceServiceAsyncStub) -> str:
    """How a stream ended: "ok" only with all its tokens and the account."""
    tokens = None
    call = stub.Generate(ask(TOKENS_PER_STREAM), metadata=METADATA, timeout=STREAM_TIMEOUT_S)
    try:
        async for message in call:
            if message.HasField("done"):
                tokens = message.done.usage.completion_tokens
    except grpc.aio.AioRpcError as error:
        return error.code().name
    if tokens is None:
        return "ended without done"
    return "ok" if tokens == TOKENS_PER_STREAM else f"{tokens} tokens"


async def soak(pid: int, port: str, streams: int, at_once: int, console: Console) -> Soak:
    """Runs the streams and samples the process on the way."""
    streams_per_sample = max(1, min(STREAMS_PER_SAMPLE, streams // SAMPLES_AT_LEAST))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await until_ready(stub)
        started_s = time.monotonic()
        found = Soak([sample(pid, 0, started_s)], Counter())

        async def worker(numbers: Iterator[int]) -> None:
            for _ in numbers:
                found.ends[await one_stream(stub)] += 1
                ended = found.ends.total()
                if ended % streams_per_sample == 0:
                    found.samples.append(sample(pid, ended, started_s))
                    show_progress(console, found.samples[-1], streams)

        # One iterator for all workers: each stream is taken once.
        numbers = iter(range(streams))
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker(numbers))
        files_allowed = found.samples[0].files + KEPT_ALIVE
        give_up_s = time.monotonic() + FILES_BACK_WITHIN_S
        while True:
            found.files_after = sample(pid, streams, started_s).files
            if found.files_after <= files_allowed or time.monotonic() > give_up_s:
                return found
            await asyncio.sleep(0.5)


def show_progress(console: Console, seen: Sample, streams: int) -> None:
    """A line for those who wait, on a terminal only: the table comes at the end."""
    if console.is_terminal:
        rss_mib = seen.rss_bytes / MIB
        console.print(f"{seen.streams:,} of {streams:,} streams, {rss_mib:.1f} MiB", end="\r")


def growth_per_100k(samples: list[Sample]) -> float:
    """Growth of the memory per 100,000 streams, as a share of it, over the last samples."""
    fitted = samples[-max(2, round(FITTED_SHARE * len(samples))) :]
    sizes_bytes = [seen.rss_bytes for seen in fitted]
    slope, _ = statistics.linear_regression([seen.streams for seen in fitted], sizes_bytes)
    return slope * 100_000 / statistics.fmean(sizes_bytes)


def faults(found: Soak, streams: int) -> list[str]:
    """What a gateway that keeps nothing would not show."""
    told: list[str] = []
    if found.ends.total() != streams:
        told.append(f"{found.ends.total()} of {streams} streams are accounted for")
    if set(found.ends) - {"ok"}:
        told.append(f"{streams - found.ends['ok']} streams did not end well")
    growth = growth_per_100k(found.samples)
    if streams >= JUDGED_STREAMS and growth >= GROWTH_LIMIT:
        told.append(f"memory grows by {growth:.1%} per 100,000 streams (limit {GROWTH_LIMIT:.0%})")
    before = found.samples[0].files
    if found.files_after > before + KEPT_ALIVE:
        told.append(
            f"{found.files_after} open files after the end, {before} before it"
            f" (and at most {KEPT_ALIVE} idle upstream connections)"
        )
    return told


def print_table(console: Console, found: Soak) -> None:
    """One row a sample."""
    table = Table(title=f"the gateway's process, streams of {TOKENS_PER_STREAM} tokens")
    for column in ("streams", "s", "CPU s", "RSS MiB", "open files", "sockets", "threads"):
        table.add_column(column, justify="right")
    for seen in found.samples:
        table.add_row(
            f"{seen.streams:,}",
            f"{seen.elapsed_s:.0f}",
            f"{seen.cpu_s:.1f}",
            f"{seen.rss_bytes / MIB:.1f}",
            str(seen.files),
            str(seen.sockets),
            str(seen.threads),
        )
    console.print(table)


def main() -> int:
    """Prints the table and the verdict; 1: something stays behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=200_000)
    parser.add_argument("--at-once", type=int, default=64)
    args = parser.parse_args()
    if args.streams < SAMPLES_AT_LEAST or args.at_once < 1:
        parser.error(
            f"--streams of at least {SAMPLES_AT_LEAST} and --at-once of at least 1, please"
        )
    console = Console(width=110)
    with (
        process(str(HERE / "upstream.py"), "0") as (_, upstream_port),
        gateway(upstream_port, ServerConfig().longest_hold_s) as (pid, port),
    ):
        found = uvloop.run(soak(pid, port, args.streams, args.at_once, console))
    print_table(console, found)
    for end, number in found.ends.most_common():
        console.print(f"{end}: {number:,}")
    growth = growth_per_100k(found.samples)
    judged = "" if args.streams >= JUDGED_STREAMS else f", not judged below {JUDGED_STREAMS:,}"
    console.print(f"memory: {growth:+.2%} per 100,000 streams{judged}")
    console.print(f"open files: {found.samples[0].files} before, {found.files_after} after")
    told = faults(found, args.streams)
    for fault in told:
        console.print(f"FAULT: {fault}")
    if not told:
        console.print("verdict: nothing stays behind")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
