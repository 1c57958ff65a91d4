"""What moegate costs beside other gateways: smg, vllm-router, sglang-router and LiteLLM from PyPI.

All run at once in front of the same upstream, each with its defaults, and are measured by turns:
CPU time of their processes, so that what else the machine does matters little, and times as the
client sees them. moegate is measured through its HTTP port, as the others are, and through gRPC.
It asks the upstream for streams only; the others pass a request on as it is. The ratios are those
of one run. `make peers` installs the others into an environment of their own.

    python -m benchmarks.peers [--rounds 3] [--only smg vllm-router]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import os
import secrets
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.serving.door_calls import CHAT, Call, both_ports, free_port, grpc_call, http_call
from benchmarks.serving.overhead import (
    HERE,
    KEY,
    TOKEN_INTERVAL_S,
    TOKENS_PER_STREAM,
    cpu_s,
    process,
    resident_mb,
)
from gateway.upstream.http.connections import HttpSession
from moegate.v1 import inference_pb2_grpc

BIN = HERE.parents[1] / ".venv-peers" / "bin"
START_S = 120.0
CALLERS = 8
ANSWERS = 240
SHORT_TOKENS = 64
STREAMS = 64
BURST = 300
BURST_TOKENS = 16
OURS = "moegate, HTTP"


@dataclass(slots=True)
class Peer:
    """A gateway that runs. `figures`: what was measured, by name."""

    name: str
    pid: int
    call: Call
    figures: dict[str, list[float]] = field(default_factory=dict)

    def record(self, name: str, value: float) -> None:
        """Adds a figure of one round."""
        self.figures.setdefault(name, []).append(value)

    def cpu_s(self) -> float:
        """CPU time of the process and of those that it has started."""
        return sum(map(cpu_s, family(self.pid)))


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        for tasks in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += map(int, tasks.read_text().split())
    return found


def commands(upstream_port: str, folder: Path) -> dict[str, tuple[list[str], int, str]]:
    """How each peer is started: its command, port and key; all else is its default."""
    worker = f"http://127.0.0.1:{upstream_port}"
    found: dict[str, tuple[list[str], int, str]] = {}
    for name, start in (
        ("smg", [str(BIN / "python"), "-m", "smg", "launch"]),
        ("vllm-router", [str(BIN / "vllm-router")]),
        ("sglang-router", [str(BIN / "sglang-router"), "launch"]),
    ):
        port = free_port()
        where = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", worker]
        metrics = ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
        found[name] = ([*start, *where, *metrics], port, "")
    key, port = f"sk-{secrets.token_hex(24)}", free_port()
    settings = {
        "model_list": [
            {
                "model_name": "bench",
                "litellm_params": {
                    "model": "openai/bench",
                    "api_base": f"{worker}/v1",
                    "api_key": "none",
                },
            }
        ],
        "general_settings": {"master_key": key},
    }
    file = folder / "litellm.yaml"
    file.write_bytes(msgspec.yaml.encode(settings))
    litellm = [str(BIN / "litellm"), "--config", str(file), "--host", "127.0.0.1"]
    found["litellm"] = ([*litellm, "--port", str(port)], port, key)
    return found


@contextlib.contextmanager
def started(command: list[str], log: Path) -> Iterator[int]:
    """A process in the background; its id."""
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # nothing is fetched
    with log.open("wb") as output:
        running = subprocess.Popen(
            command, stdout=output, stderr=output, env=environment, cwd=log.parent
        )
        try:
            yield running.pid
        finally:
            running.terminate()
            try:
                running.wait(timeout=20)
            except subprocess.TimeoutExpired:
                running.kill()


async def until_ready(peer: Peer, log: Path) -> None:
    """Until a peer answers. Raises RuntimeError with the end of its log."""
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        try:
            await peer.call(1, True)
            return await peer.call(1, False)
        except Exception:  # whatever it does while it starts
            await asyncio.sleep(0.5)
    raise RuntimeError(f"{peer.name} does not answer: {tail_of(log)}")


def tail_of(log: Path) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-2000:]


async def at_once(peer: Peer, calls: int, tokens: int) -> int:
    """So many streams side by side; how many of them are answered."""
    started_calls = (peer.call(tokens, True) for _ in range(calls))
    ended = await asyncio.gather(*started_calls, return_exceptions=True)
    return sum(one is None for one in ended)


async def closed_loop(peer: Peer, tokens: int, streamed: bool) -> None:
    """`ANSWERS` answers for `CALLERS` callers: CPU of one, its time, and how many a second."""
    times_s: list[float] = []

    async def caller() -> None:
        for _ in range(ANSWERS // CALLERS):
            begin_s = time.perf_counter()
            await peer.call(tokens, streamed)
            times_s.append(time.perf_counter() - begin_s)

    before_s, begin_s = peer.cpu_s(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    passed_s = time.perf_counter() - begin_s
    name = f"{'stream' if streamed else 'unary'} of {tokens} tokens"
    peer.record(f"{name}: CPU, µs", 1e6 * (peer.cpu_s() - before_s) / ANSWERS)
    peer.record(f"{name}: p50, ms", 1e3 * statistics.median(times_s))
    peer.record(f"{name}: answers/s", ANSWERS / passed_s)


def over(total: float, number: int) -> float:
    """The part of one; not a number where there was none."""
    return total / number if number else math.nan


async def long_streams(peer: Peer) -> None:
    """`STREAMS` streams side by side, at the pace of the upstream: CPU of a token."""
    before_s = peer.cpu_s()
    answered = await at_once(peer, STREAMS, TOKENS_PER_STREAM)
    tokens = answered * TOKENS_PER_STREAM
    name = f"{STREAMS} streams of {TOKENS_PER_STREAM} tokens, 20 ms pace"
    peer.record(f"{name}: answered", answered)
    peer.record(f"{name}: CPU per token, µs", over(1e6 * (peer.cpu_s() - before_s), tokens))


async def burst(peer: Peer) -> None:
    """`BURST` arrivals at once: how many are answered, their CPU, and the time to the last."""
    before_s, begin_s = peer.cpu_s(), time.perf_counter()
    answered = await at_once(peer, BURST, BURST_TOKENS)
    passed_s = time.perf_counter() - begin_s
    name = f"burst of {BURST} streams of {BURST_TOKENS} tokens"
    peer.record(f"{name}: answered", answered)
    peer.record(f"{name}: CPU of each, µs", over(1e6 * (peer.cpu_s() - before_s), answered))
    peer.record(f"{name}: all after, s", passed_s)


async def measure(pace_s: float, only: set[str], rounds: int) -> list[Peer]:
    """Every figure of the gateways, in front of an upstream with that pace."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        arguments = (str(HERE / "upstream.py"), str(pace_s), "1")
        silent = stack.enter_context((folder / "upstream.log").open("w"))
        _, upstream_port = stack.enter_context(process(*arguments, stderr=silent))
        session = await stack.enter_async_context(HttpSession())
        pid, grpc_port, http_port = stack.enter_context(both_ports(upstream_port, folder))
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}")
        stub = inference_pb2_grpc.InferenceServiceStub(await stack.enter_async_context(channel))
        peers = [
            Peer(OURS, pid, http_call(session, CHAT, http_port, KEY)),
            Peer("moegate, gRPC", pid, grpc_call(stub)),
        ]
        for name, (command, port, key) in commands(upstream_port, folder).items():
            if not only or name in only:
                started_pid = stack.enter_context(started(command, folder / f"{name}.log"))
                peers.append(Peer(name, started_pid, http_call(session, CHAT, port, key)))
        for peer in peers:
            await until_ready(peer, folder / f"{peer.name}.log")
        for turn in range(rounds + 1):
            for peer in peers:
                if pace_s:
                    await long_streams(peer)
                else:
                    await closed_loop(peer, 1, streamed=False)
                    await closed_loop(peer, SHORT_TOKENS, streamed=False)
                    await closed_loop(peer, SHORT_TOKENS, streamed=True)
                    await burst(peer)
                if not turn:
                    peer.figures.clear()  # the first round warms up
        for peer in peers:
            peer.record("resident memory, MB", sum(map(resident_mb, family(peer.pid))))
        return peers


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="names of peers; none: all")
    arguments = parser.parse_args()
    for pace_s in (0.0, TOKEN_INTERVAL_S):
        show(uvloop.run(measure(pace_s, set(arguments.only), arguments.rounds)), arguments.rounds)


def show(peers: list[Peer], rounds: int) -> None:
    """Prints the figures of one upstream."""
    table = Table(title=f"median of {rounds} rounds; in brackets: over {OURS}")
    table.add_column("")
    for peer in peers:
        table.add_column(peer.name, justify="right")
    for name in peers[0].figures:
        medians = [statistics.median(peer.figures[name]) for peer in peers]
        cells = (f"{value:.4g} ({value / max(medians[0], 1e-9):.2f})" for value in medians)
        table.add_row(name, *cells)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
