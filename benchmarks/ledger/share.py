"""The share of a serving gateway's CPU that its ledger and its budgets take.

    python -m benchmarks.ledger.share [--repeats 3] [--seconds 5]

A real gateway on loopback with budgets of its keys and of their tenant, asked by a client in a
process of its own. CPU time is counted inside the gateway's process: of every call that reserves,
settles, releases and takes a row, of the tasks that write and mind the ledger, and of its threads;
and of the whole process. Their ratio is what is told: both are as warm as the load lets them be.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import itertools
import os
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import uvloop

from benchmarks.serving.overhead import HERE, ask, configuration, process
from gateway.accounting.accounting import Accounting
from gateway.accounting.budgets import Budgets
from gateway.accounting.ledger.ledger import Ledger
from gateway.config.load.file import load
from gateway.scheduling.budget_admission import BudgetAdmission
from gateway.server import running_gateway
from moegate.v1 import inference_pb2, inference_pb2_grpc
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.pricing import RateTier, TokenRates

KEYS = 20
STREAM_TOKENS = 128
TOKEN_INTERVAL_S = 0.02
CASES = (("unary", 1, 1), ("stream", 8, STREAM_TOKENS))
"""Kind, clients that ask one request after the other, output tokens of each."""
RATE = 1_000_000
RATES = TokenRates(
    row_id="benchmark",
    tiers=(RateTier(uncached_input=RATE, cached_input=RATE, cache_write=RATE, output=RATE),),
)
READY_S, WARM_UP_S = 30.0, 1.0
spent_s = 0.0


class Counts(msgspec.Struct):
    """CPU seconds so far."""

    ledger_s: float
    process_s: float


class _Timed:
    """An awaitable whose steps are counted, not what runs between them."""

    def __init__(self, work: Awaitable[Any]) -> None:
        self._work = work

    def __await__(self) -> Generator[Any, Any, Any]:
        global spent_s
        steps = self._work.__await__()
        error: BaseException | None = None
        while True:
            began_s = time.thread_time()
            try:
                waits_for = next(steps) if error is None else steps.throw(error)
            except StopIteration as done:
                return done.value
            finally:
                spent_s += time.thread_time() - began_s
            try:
                yield waits_for
                error = None
            except BaseException as raised:
                error = raised


def count(owner: type, *names: str) -> None:
    """Counts the CPU of these methods."""
    for name in names:
        setattr(owner, name, _counted(getattr(owner, name)))


def _counted(method: Callable[..., Any]) -> Callable[..., Any]:
    if asyncio.iscoroutinefunction(method):

        @functools.wraps(method)
        async def later(*args: Any, **kwargs: Any) -> Any:
            return await _Timed(method(*args, **kwargs))

        return later

    @functools.wraps(method)
    def now(*args: Any, **kwargs: Any) -> Any:
        global spent_s
        began_s = time.thread_time()
        try:
            return method(*args, **kwargs)
        finally:
            spent_s += time.thread_time() - began_s

    return now


def counts() -> Counts:
    """Of this process."""
    threads_s = sum(
        time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.name.startswith("moegate-ledger") and thread.ident is not None
    )
    return Counts(ledger_s=spent_s + threads_s, process_s=time.process_time())


async def serve(path: Path) -> None:
    """Serves; answers SIGUSR1 with a line of counts."""
    count(Accounting, "record_attempt", "maintain")
    count(Budgets, "release")
    count(BudgetAdmission, "_reserve")
    count(Ledger, "run")
    async with running_gateway(load(path), path.parent) as gateway:
        gateway.scheduler.use_rates(RateSnapshot(rates={"own/a": RATES}))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(
            signal.SIGUSR1, lambda: print(msgspec.json.encode(counts()).decode(), flush=True)
        )
        print(gateway.address.rpartition(":")[2], flush=True)
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        await stop.wait()


def settings(upstream_port: str) -> str:
    """One replica; a day's budget of each key, and a month's of the tenant."""
    secrets = {f"key{i}": f"mg-{i}" for i in range(KEYS)}
    days = "\n".join(
        f'  - {{tenant: bench, key: {key}, period: day, cap_usd: "1000"}}' for key in secrets
    )
    return f"""{configuration(upstream_port, secrets=secrets)}
budgets:
{days}
  - {{tenant: bench, period: month, cap_usd: "100000"}}
"""


async def load_for(port: str, kind: str, clients: int, tokens: int, seconds: float) -> int:
    """Requests of clients, each with the keys in turn; returns how many."""
    made = itertools.count()

    async def client(stub: inference_pb2_grpc.InferenceServiceAsyncStub) -> None:
        until_s = time.perf_counter() + seconds
        while time.perf_counter() < until_s:
            await _one(stub, kind, tokens, next(made) % KEYS)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        await asyncio.gather(*(client(stub) for _ in range(clients)))
    return next(made)


async def _one(
    stub: inference_pb2_grpc.InferenceServiceAsyncStub, kind: str, tokens: int, key: int
) -> None:
    metadata = (("authorization", f"Bearer mg-{key}"),)
    if kind == "unary":
        await stub.GenerateOnce(
            inference_pb2.GenerateOnceRequest(request=ask(tokens)), metadata=metadata
        )
        return
    async for _ in stub.Generate(ask(tokens), metadata=metadata):
        pass


def measure(kind: str, clients: int, tokens: int, seconds: float) -> tuple[float, float, float]:
    """CPU of the ledger and budgets, and of the gateway, microseconds a request; requests/s."""
    interval_s = TOKEN_INTERVAL_S if kind == "stream" else 0.0
    upstream = str(HERE / "upstream.py")
    with (
        tempfile.TemporaryDirectory() as folder,
        process(upstream, str(interval_s), "1") as (_, up),
    ):
        path = Path(folder) / "moegate.yaml"
        path.write_text(settings(up))
        with process("-m", "benchmarks.ledger.share", "--serve", str(path)) as (running, port):

            def told() -> Counts:
                os.kill(running.pid, signal.SIGUSR1)
                assert running.stdout is not None
                return msgspec.json.decode(running.stdout.readline(), type=Counts)

            uvloop.run(_ready(port))
            uvloop.run(load_for(port, "unary", 1, 1, WARM_UP_S))  # their leases
            before = told()
            requests = uvloop.run(load_for(port, kind, clients, tokens, seconds))
            after = told()
    return (
        1e6 * (after.ledger_s - before.ledger_s) / requests,
        1e6 * (after.process_s - before.process_s) / requests,
        requests / seconds,
    )


async def _ready(port: str) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        async with asyncio.timeout(READY_S):
            while True:
                try:
                    await _one(stub, "unary", 1, 0)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        raise
                    await asyncio.sleep(0.05)
                else:
                    return


def main() -> int:
    """Prints a line for each case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        uvloop.run(serve(args.serve))
        return 0
    for kind, clients, tokens in CASES:
        found = [measure(kind, clients, tokens, args.seconds) for _ in range(args.repeats)]
        shares = sorted(mine_us / whole_us for mine_us, whole_us, _ in found)
        mine_us, whole_us, rate = (statistics.median(values) for values in zip(*found, strict=True))
        print(
            f"{kind}, {tokens} tokens, {clients} clients, {rate:.0f} requests/s: {mine_us:.0f} us "
            f"of {whole_us:,.0f} us a request, {statistics.median(shares):.1%} "
            f"({shares[0]:.1%} to {shares[-1]:.1%}; aim: 5 %)",
            flush=True,
        )
    print(f"load average {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
