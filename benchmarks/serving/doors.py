"""What each door costs: CPU of the gateway for the same answers over gRPC, Chat, Responses and
Messages, by turns, with the default configuration.

    python -m benchmarks.serving.doors [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Mapping
from pathlib import Path

import grpc
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.serving.door_calls import DIALECTS, Call, both_ports, grpc_call, http_call
from benchmarks.serving.overhead import (
    HERE,
    KEY,
    SHORT_TOKENS,
    TOKEN_INTERVAL_S,
    TOKENS_PER_STREAM,
    cpu_s,
    process,
)
from gateway.upstream.http.connections import HttpSession
from moegate.v1 import inference_pb2_grpc

Figures = defaultdict[str, defaultdict[str, list[float]]]
"""By what was measured and by door."""
CALLS = 150
"""Calls one after the other, in each turn."""
STREAMS = 64
GRPC = "gRPC"


async def one_by_one(call: Call, tokens: int, *, streamed: bool) -> int:
    """Calls one after the other; returns their number."""
    for _ in range(CALLS):
        await call(tokens, streamed)
    return CALLS


async def side_by_side(call: Call) -> int:
    """Streams at the pace of the upstream; returns their tokens."""
    await asyncio.gather(*(call(TOKENS_PER_STREAM, True) for _ in range(STREAMS)))
    return STREAMS * TOKENS_PER_STREAM


async def account(
    pid: int, name: str, runs: Mapping[str, Awaitable[int]], found: Figures | None
) -> None:
    """Does each run, and adds the CPU of the gateway for each piece of it, µs; None: to warm up."""
    for what, run in runs.items():
        before_s = cpu_s(pid)
        number = await run
        if found is not None:
            found[what][name].append(1e6 * (cpu_s(pid) - before_s) / number)


async def measure(pace_s: float, rounds: int, found: Figures) -> None:
    """Adds the figures in front of an upstream with that pace, each round but the first."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = process(str(HERE / "upstream.py"), str(pace_s), "1")
        _, upstream_port = stack.enter_context(upstream)
        pid, grpc_port, port = stack.enter_context(both_ports(upstream_port, folder))
        session = await stack.enter_async_context(HttpSession())
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}")
        stub = inference_pb2_grpc.InferenceServiceStub(await stack.enter_async_context(channel))
        doors = {GRPC: grpc_call(stub)}
        doors |= {each.name: http_call(session, each, port, KEY) for each in DIALECTS}
        await until_ready(doors[GRPC])
        for turn in range(rounds + 1):
            for name, call in doors.items():
                if pace_s:
                    runs = {"token of a paced stream": side_by_side(call)}
                else:
                    runs = {
                        "unary request of 1 token": one_by_one(call, 1, streamed=False),
                        f"unary request of {SHORT_TOKENS} tokens": one_by_one(
                            call, SHORT_TOKENS, streamed=False
                        ),
                        f"stream of {SHORT_TOKENS} tokens, no pace": one_by_one(
                            call, SHORT_TOKENS, streamed=True
                        ),
                    }
                await account(pid, name, runs, found if turn else None)


async def until_ready(call: Call) -> None:
    """Until the placement is in service. Raises the last failure after 10 s."""
    for _ in range(200):
        with contextlib.suppress(grpc.aio.AioRpcError):
            return await call(1, False)
        await asyncio.sleep(0.05)
    await call(1, False)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: Figures = defaultdict(lambda: defaultdict(list))
    for pace_s in (0.0, TOKEN_INTERVAL_S):
        uvloop.run(measure(pace_s, rounds, found))
    table = Table(title=f"CPU, µs: median of {rounds} rounds; in brackets: over gRPC, same round")
    table.add_column("")
    names = (GRPC, *(each.name for each in DIALECTS))
    for name in names:
        table.add_column(name, justify="right")
    for what, by_door in found.items():
        cells = []
        for name in names:
            pairs = zip(by_door[name], by_door[GRPC], strict=True)
            ratio = statistics.median(one / other for one, other in pairs)
            cells.append(f"{statistics.median(by_door[name]):,.0f} ({ratio:.2f})")
        table.add_row(what, *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
