"""What the meter costs: its share of the gateway's CPU, under streams and under unary requests.

The gateway runs as a process of its own with a timer around every call into the meter (starts,
token counts, ends, engine reports, ticks); what a timer counts of itself is taken out. An upstream
that does no work and a client beside it make the load. The target is 3 % at most.

    python -m benchmarks.serving.meter [--streams 64 512]
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import uvloop

from benchmarks.serving import overhead
from gateway.scheduling.attempt_recorder import OpenAttempt
from moegate.cli.main import main as moegate
from moegate.v1 import inference_pb2_grpc
from scheduler.metering.cost import GroupMeter
from scheduler.metering.meter import Meter

_spent = {"ns": 0, "calls": 0, "depth": 0}


def timed(owner: type, name: str) -> None:
    """Puts a timer around a method; calls within timed calls count once."""
    inner: Callable[..., Any] = getattr(owner, name)

    def outer(*args: Any, **kwargs: Any) -> Any:
        if _spent["depth"]:
            return inner(*args, **kwargs)
        _spent["depth"] = 1
        started_ns = time.thread_time_ns()
        try:
            return inner(*args, **kwargs)
        finally:
            _spent["ns"] += time.thread_time_ns() - started_ns
            _spent["calls"] += 1
            _spent["depth"] = 0

    setattr(owner, name, outer)


def serve(path: str, result: Path) -> None:
    """The gateway with timers; SIGUSR1 begins to count, the end writes the counts."""
    timed(OpenAttempt, "progress")
    for name in ("start", "end", "report", "set_serving"):
        timed(GroupMeter, name)
    timed(Meter, "tick")
    begun = [0.0]

    def begin(*_: object) -> None:
        _spent.update(ns=0, calls=0)
        begun[0] = time.process_time()

    signal.signal(signal.SIGUSR1, begin)
    moegate(["serve", path, "--log-level", "ERROR"])
    counted = {**_spent, "cpu_s": time.process_time() - begun[0]}
    result.write_text(json.dumps({**counted, "timer_ns": timer_ns()}))


def timer_ns() -> float:
    """What a timer counts of itself: of a call that does nothing."""

    class Nothing:
        def call(self) -> None:
            pass

    timed(Nothing, "call")
    _spent.update(ns=0, calls=0)
    nothing = Nothing()
    for _ in range(10_000):
        nothing.call()
    return _spent["ns"] / _spent["calls"]


async def load(port: str, pid: int, streams: int) -> None:
    """A warm-up, then what is counted; `streams` 0: unary requests."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await overhead.until_ready(stub)
        for warm in (True, False):
            if not warm:
                subprocess.run(["kill", "-USR1", str(pid)], check=True)  # noqa: ASYNC221
            if streams:
                await overhead.streams(stub, streams)
            else:
                await overhead.unary(stub, overhead.UNARY_REQUESTS)


def measure(streams: int) -> dict[str, float]:
    """Share of the meter, and its time per call."""
    upstream = str(overhead.HERE / "upstream.py")
    pace = str(overhead.TOKEN_INTERVAL_S) if streams else "0"
    with tempfile.TemporaryDirectory() as folder, overhead.process(upstream, pace, "1") as (_, up):
        path, result = Path(folder) / "moegate.yaml", Path(folder) / "result.json"
        settings = overhead.configuration(up)
        path.write_text(settings.replace("count: 1}", 'count: 1, usd_per_gpu_hour: "2.50"}'))
        command = ("-m", "benchmarks.serving.meter", "--serve", str(path), str(result))
        with overhead.process(*command) as (running, address):
            uvloop.run(load(address.rpartition(":")[2], running.pid, streams))
        counted = json.loads(result.read_text())
    meter_s = (counted["ns"] - counted["calls"] * counted["timer_ns"]) / 1e9
    return {
        "share": meter_s / counted["cpu_s"],
        "us_per_call": 1e6 * meter_s / counted["calls"],
        "calls": counted["calls"],
        "gateway_cpu_s": counted["cpu_s"],
    }


def main() -> None:
    """Prints a line for each load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[0, 64, 512])
    parser.add_argument("--serve", nargs=2, metavar=("FILE", "RESULT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve[0], Path(arguments.serve[1]))
        return
    for streams in arguments.streams:
        seen = measure(streams)
        what = f"{streams} streams at 20 ms a token" if streams else "unary, one at a time"
        print(
            f"{what}: the meter takes {seen['share']:.2%} of {seen['gateway_cpu_s']:.2f} s CPU, "
            f"{seen['us_per_call']:.1f} us a call, {seen['calls']:.0f} calls",
            flush=True,
        )


if __name__ == "__main__":
    main()
