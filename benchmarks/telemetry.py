"""What telemetry costs: CPU of the gateway per request, with it off, in parts and in full.

All threads count, the exporter's and the log's too. Output is not held: holding keeps the CPU at a
target and would hide what comes on top. The cases take turns within each round, so that what else
the machine does meets all of them; the cost of a case is the median over the rounds of its CPU over
that of the `off` case of the same round. `benchmarks/telemetry_calls.py` times the calls alone.

    python -m benchmarks.telemetry [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.overhead import (
    HERE,
    METADATA,
    ask,
    configuration,
    cpu_s,
    process,
    unary,
    until_ready,
)
from gateway.config_telemetry import Telemetry as Settings
from moegate.v1 import inference_pb2_grpc

TOKENS = 128
STREAMS = 32
TIMES = 2
UNARY_REQUESTS = 600
CASES = {
    "off": "{log_format: plain}",
    "metrics": "{metrics_listen: '127.0.0.1:0', log_format: plain}",
    "traces, all sampled": "{log_format: plain}",
    "all: traces, metrics, JSON log": "{metrics_listen: '127.0.0.1:0', log_format: json}",
}
OFF = "off"


@contextmanager
def gateway(upstream_port: str, case: str, collector_port: str) -> Iterator[tuple[int, str]]:
    """A gateway with the telemetry of the case: its process id and port."""
    environment = {"OTEL_TRACES_EXPORTER": "none"}
    if "traces" in case:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "1000",
        }
    level = "INFO" if "JSON" in case else "ERROR"
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder) / "moegate.yaml"
        path.write_text(configuration(upstream_port, 0.0) + f"telemetry: {CASES[case]}\n")
        log = stack.enter_context((Path(folder) / "log").open("w"))
        command = ("-m", "gateway", "serve", str(path), "--log-level", level)
        running, address = stack.enter_context(
            process(*command, environment=os.environ | environment, stderr=log)
        )
        yield running.pid, address.rpartition(":")[2]


async def measure(pid: int, port: str) -> tuple[float, float]:
    """CPU seconds of a unary request, and of a streamed one of 128 tokens."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await until_ready(stub)
        await unary(stub, 100)
        before_s = cpu_s(pid)
        await unary(stub, UNARY_REQUESTS)
        unary_s = (cpu_s(pid) - before_s) / UNARY_REQUESTS
        await streams(stub)  # the gateway finds its pace
        before_s = cpu_s(pid)
        await streams(stub)
        # What is still to be exported belongs to the requests.
        await asyncio.sleep(2.0)
        return unary_s, (cpu_s(pid) - before_s) / (STREAMS * TIMES)


async def streams(stub: inference_pb2_grpc.InferenceServiceAsyncStub) -> None:
    """Streams side by side, some times over."""

    async def one() -> None:
        async for _ in stub.Generate(ask(TOKENS), metadata=METADATA):
            pass

    for _ in range(TIMES):
        await asyncio.gather(*(one() for _ in range(STREAMS)))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    assert Settings().metrics_listen is None, "off is the default"
    found: dict[str, list[tuple[float, float]]] = {case: [] for case in CASES}
    upstream = (str(HERE / "upstream.py"), "0.02", "1")
    with (
        process(*upstream) as (_, up),
        process(str(HERE / "otlp_sink.py")) as (_, collector),
    ):
        for number in range(arguments.rounds):
            # Another order in each round: a machine that warms up favours nobody.
            cases = list(CASES)
            for case in cases[number % len(cases) :] + cases[: number % len(cases)]:
                with gateway(up, case, collector) as (pid, port):
                    found[case].append(uvloop.run(measure(pid, port)))
    title = f"CPU of the gateway, µs per request; median of {arguments.rounds} rounds"
    table = Table(title=title)
    for column in ("telemetry", "unary", "over off", f"streamed, {TOKENS} tokens", "over off"):
        table.add_column(column, justify="left" if column == "telemetry" else "right")
    for case, figures in found.items():
        cells = [case]
        for i in (0, 1):
            spent_s = [figure[i] for figure in figures]
            share = statistics.median(
                figure[i] / off[i] - 1 for figure, off in zip(figures, found[OFF], strict=True)
            )
            cells += [f"{1e6 * statistics.median(spent_s):.0f}", f"{share:+.1%}"]
        table.add_row(*cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
