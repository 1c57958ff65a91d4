"""What telemetry costs: CPU of whole gateways per request, with all of it and with none.

Three gateways run all the time and get the same requests in the same moments, so that what else
the machine does meets all alike; each round gives the CPU of one over that of another. Two of them
have telemetry off: they show how far equal gateways come out apart. All threads count, the
exporter's and the log's too. Output is not held: holding keeps the CPU at a target and would hide
what comes on top. Streams hide some of it all the same: a gateway with more to do finds more tokens
in a read and writes fewer messages; the unary figure hides nothing.
`benchmarks/serving/telemetry_calls.py` has the parts, and what `off` still costs.

    python -m benchmarks.serving.telemetry [--rounds 10]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.serving.overhead import HERE, cpu_s, gateway, process, stream, unary, until_ready
from moegate.v1 import inference_pb2_grpc

TOKENS = 128
STREAMS = 20
"""Side by side at each gateway."""
UNARY_REQUESTS = 150
EXPORT_S = 1.0
"""How long spans are gathered before they are sent, for which a round waits. The SDK's default of
5 s would make fewer and larger batches: each costs a gRPC call."""
OFF = "off"
CASES = {
    OFF: "{log_format: plain}",
    "off, another one": "{log_format: plain}",
    "all: traces, metrics, JSON log": "{metrics_listen: '127.0.0.1:0', log_format: json}",
}
Stub: TypeAlias = "inference_pb2_grpc.InferenceServiceAsyncStub"


@dataclass(slots=True, kw_only=True)
class Running:
    """A gateway that runs, and its CPU seconds a request, a value a round."""

    pid: int
    stub: Stub
    unary_s: list[float] = field(default_factory=list)
    streamed_s: list[float] = field(default_factory=list)


async def spent_s(
    running: list[Running], requests: int, load: Callable[[Stub], Awaitable[None]]
) -> list[float]:
    """CPU seconds a request of each gateway, under a load that all get at once."""
    before_s = [cpu_s(each.pid) for each in running]
    await asyncio.gather(*(load(each.stub) for each in running))
    await asyncio.sleep(EXPORT_S + 0.3)  # what is still to be exported belongs to the requests
    return [
        (cpu_s(each.pid) - was_s) / requests for each, was_s in zip(running, before_s, strict=True)
    ]


async def streams(stub: Stub) -> None:
    """Streams side by side."""
    await asyncio.gather(*(stream(stub, TOKENS, []) for _ in range(STREAMS)))


async def measure(gateways: dict[str, tuple[int, str]], rounds: int) -> dict[str, Running]:
    """Warms the gateways up and measures them together."""
    async with AsyncExitStack() as stack:
        found = {}
        for case, (pid, port) in gateways.items():
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
            await stack.enter_async_context(channel)
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            await until_ready(stub)
            found[case] = Running(pid=pid, stub=stub)
        running = list(found.values())
        for number in range(-1, rounds):
            of_unary = await spent_s(running, UNARY_REQUESTS, lambda s: unary(s, UNARY_REQUESTS))
            of_streams = await spent_s(running, STREAMS, streams)
            if number < 0:
                continue  # the gateways find their pace
            for each, unary_s, streamed_s in zip(running, of_unary, of_streams, strict=True):
                each.unary_s.append(unary_s)
                each.streamed_s.append(streamed_s)
        return found


def over(mine: list[float], off: list[float]) -> str:
    """Median of the rounds' ratios, and their quartiles."""
    shares = [100 * (a / b - 1) for a, b in zip(mine, off, strict=True)]
    low, middle, high = statistics.quantiles(shares, n=4)
    return f"{middle:+.1f} % ({low:+.1f} to {high:+.1f})"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    started_s, load_before = time.monotonic(), os.getloadavg()[0]
    with ExitStack() as stack:
        _, up = stack.enter_context(process(str(HERE / "upstream.py"), "0.02", "1"))
        _, collector = stack.enter_context(process(str(HERE / "otlp_sink.py")))
        traced = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector}",
            "OTEL_BSP_SCHEDULE_DELAY": str(round(1000 * EXPORT_S)),
        }
        nowhere = stack.enter_context(Path(os.devnull).open("w"))
        gateways = {}
        for case, settings in CASES.items():
            mine = traced if "traces" in case else {"OTEL_TRACES_EXPORTER": "none"}
            one = gateway(
                up,
                0.0,
                more_settings=f"telemetry: {settings}\n",
                log_level="INFO" if "JSON" in case else "ERROR",
                log=nowhere,
                environment=os.environ | mine,
            )
            gateways[case] = stack.enter_context(one)
        found = uvloop.run(measure(gateways, rounds))
    table = Table(title=f"CPU of a gateway, µs per request: medians of {rounds} rounds (quartiles)")
    for column in ("telemetry", "unary", "over off", f"streamed, {TOKENS} tokens", "over off"):
        table.add_column(column, justify="left" if column == "telemetry" else "right")
    off = found[OFF]
    for case, each in found.items():
        table.add_row(
            case,
            f"{1e6 * statistics.median(each.unary_s):.0f}",
            "" if each is off else over(each.unary_s, off.unary_s),
            f"{1e6 * statistics.median(each.streamed_s):.0f}",
            "" if each is off else over(each.streamed_s, off.streamed_s),
        )
    Console(width=120).print(table)
    load = f"load average {load_before:.1f} before, {os.getloadavg()[0]:.1f} after"
    print(f"{load}, on {os.cpu_count()} cores; {time.monotonic() - started_s:.0f} s")


if __name__ == "__main__":
    main()
