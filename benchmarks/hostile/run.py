"""Honest tenants beside hostile callers, a lying remote and a dying replica, for half an hour.

The first half of the run is calm; in the second half, the same honest requests come beside
`callers.py`, the remote of `servers.py` lies, and a replica is killed and comes back again and
again, sometimes broken. One gateway process serves both halves. Prints the share of honest requests
within their SLO in both halves, whether bill and accounts agree, and what is left behind. Needs
Linux. Writes nothing.

    python -m benchmarks.hostile.run [--minutes 30] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import uvloop
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console

from benchmarks.hostile.callers import KEYS
from benchmarks.hostile.honest import HONEST, TPOT_S, TTFT_S, Phase, honest_load
from benchmarks.hostile.servers import FAR, MODEL
from benchmarks.serving.soak import MIB, Sample, sample
from gateway.config.resolve.api_keys import key_sha256
from moegate.v1 import usage_pb2, usage_pb2_grpc

OPERATOR = "mg-operator"
REPLICAS = 4
ALLOWED_LOSS = 0.02
"""Of the SLO share, by which hostile callers may lower that of honest ones."""
ALLOWED_MIB = 150.0
ALLOWED_FILES = 30
QUIET_S = 60.0
"""Longest time after the end until nothing runs or waits."""
REMOTE_TOKENS = 320
"""Bound on the tokens of a request to the remote, by the gateway: the bytes of the prompt,
272 for the template, and the 16 output tokens that were asked for."""
NANO_USD_PER_TOKEN = 1000
CATALOG = """
showback:
  - id: own
    pool: own
    usd_per_mtok: {input: "1", cached_input: "1", output: "1"}
    valid_from: 2026-01-01
    source: benchmark
    checked_at: 2026-01-01
remote_tokens:
  - id: far
    provider: lies
    model: far
    usd_per_mtok: {input: "1", cached_input: "1", output: "1"}
    valid_from: 2026-01-01
    source: benchmark
    checked_at: 2026-01-01
"""


def configuration(ports: Sequence[int]) -> str:
    """The gateway's file. `ports`: of the replicas, then of the remote."""
    replicas = "\n".join(
        f"      - {{name: r{i}, url: 'http://127.0.0.1:{port}'}}"
        for i, port in enumerate(ports[:REPLICAS])
    )
    tenants = {
        "honest": [(name, name, "caller") for name in HONEST],
        "hostile": [(name, name, "caller") for name in KEYS],
        "ops": [("ops", OPERATOR, "operator")],
    }
    keys = "\n".join(
        f"  - name: {tenant}\n    keys:\n"
        + "\n".join(
            f"      - {{id: {name}, role: {role}, sha256: {key_sha256(secret)}}}"
            for name, secret, role in listed
        )
        for tenant, listed in tenants.items()
    )
    return f"""
server: {{listen: "127.0.0.1:0", drain_delay_s: 0, drain_s: 5, blocked_write_s: 10}}
slo_classes:
  interactive: {{ttft_s: {TTFT_S}, tpot_s: {TPOT_S}, max_queue_s: 10}}
prices: {{catalog: prices.yaml}}
failures: {{continue_cut_answers: true}}
pools:
  - name: own
    model: {MODEL}
    max_num_seqs: 64
    gpu: {{type: H100-80GB, count: 1, usd_per_gpu_hour: "2.00"}}
    replicas:
{replicas}
remotes:
  - {{name: liar, remote_class: far, model: {FAR}, url: "http://127.0.0.1:{ports[REPLICAS]}",
     max_concurrency: 16, price_row: lies/far, timeouts: {{first_token_s: 10, idle_s: 10}}}}
tenants:
{keys}
"""


@dataclass(slots=True)
class Server:
    """A process of `servers.py`, which can be killed and started again."""

    kind: str
    port: int
    process: asyncio.subprocess.Process | None = None

    async def start(self, kind: str | None = None) -> None:
        """Starts it; returns when it listens."""
        module = ("-m", "benchmarks.hostile.servers", kind or self.kind, str(self.port), "1")
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, *module, stdout=asyncio.subprocess.PIPE
        )
        assert self.process.stdout is not None
        await self.process.stdout.readline()

    async def kill(self) -> None:
        """Kills it, if it lives."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()

    async def revive(self) -> None:
        """Starts it again each time it has died, until cancelled."""
        while True:
            assert self.process is not None
            await self.process.wait()
            await asyncio.sleep(2.0)
            await self.start()


async def kill_again_and_again(server: Server, seed: int) -> None:
    """Kills a replica at random times, until cancelled. Every other time it comes back broken."""
    rng = random.Random(seed)
    broken = False
    while True:
        await asyncio.sleep(rng.uniform(20.0, 60.0))
        await server.kill()
        await asyncio.sleep(rng.uniform(1.0, 5.0))
        broken = not broken
        await server.start("broken" if broken else None)


@contextlib.asynccontextmanager
async def gateway(folder: Path, ports: Sequence[int]) -> AsyncIterator[tuple[int, str]]:
    """A gateway's process: its id and address."""
    (folder / "prices.yaml").write_text(CATALOG)
    file = folder / "moegate.yaml"
    file.write_text(configuration(ports))
    running = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "moegate", "serve", str(file), "--log-level", "ERROR"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert running.stdout is not None
    try:
        yield running.pid, (await running.stdout.readline()).decode().split()[-1]
    finally:
        running.terminate()
        await running.wait()


class Operator:
    """What an operator's key sees."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._usage = usage_pb2_grpc.UsageServiceStub(channel)
        self._metadata = (("authorization", f"Bearer {OPERATOR}"),)

    async def fleet(self) -> usage_pb2.WatchFleetResponse:
        """The fleet now."""
        call = self._usage.WatchFleet(usage_pb2.WatchFleetRequest(), metadata=self._metadata)
        message = await call.read()
        call.cancel()
        assert isinstance(message, usage_pb2.WatchFleetResponse)
        return message

    async def until_serving(self, placements: int) -> None:
        """Waits until that many placements serve."""
        call = self._usage.WatchFleet(usage_pb2.WatchFleetRequest(), metadata=self._metadata)
        async with asyncio.timeout(QUIET_S):
            async for fleet in call:
                if sum(each.serving for each in fleet.placements) >= placements:
                    break
        call.cancel()

    async def until_quiet(self) -> str:
        """Waits until nothing runs or waits; what still does after `QUIET_S`."""
        give_up_s = time.monotonic() + QUIET_S
        while True:
            fleet = await self.fleet()
            running = sum(each.running_requests for each in fleet.placements)
            if not running and not fleet.queued_requests:
                return ""
            if time.monotonic() > give_up_s:
                return f"{running} requests run and {fleet.queued_requests} wait after the end"
            await asyncio.sleep(0.5)

    async def rows(self) -> list[usage_pb2.AttemptRow]:
        """Every row of the ledger."""
        request = usage_pb2.ExportAttemptsRequest()
        call = self._usage.ExportAttempts(request, metadata=self._metadata)
        return [row async for page in call for row in page.rows]

    async def charged_nano_usd(self) -> int:
        """All charges, as the sums of tenants tell them."""
        request = usage_pb2.GetSpendRequest(group_by=[usage_pb2.SPEND_GROUP_TENANT])
        getattr(request, "from").CopyFrom(Timestamp(seconds=0))
        answer = await self._usage.GetSpend(request, metadata=self._metadata)
        return sum(row.charged_nano_usd for row in answer.rows)

    async def bill(self) -> tuple[int, int]:
        """The bill of the own servers, and the sum of its accounts."""
        request = usage_pb2.GetPoolCostRequest(pool="own", window=Duration(seconds=7200))
        answer = await self._usage.GetPoolCost(request, metadata=self._metadata)
        return answer.bill_nano_usd, sum(account.nano_usd for account in answer.accounts)


async def accounts_faults(operator: Operator, phases: Sequence[Phase]) -> list[str]:
    """Where bill, accounts, ledger and what clients were told differ."""
    await asyncio.sleep(2.0)  # rows are written in groups
    rows, total = await operator.rows(), await operator.charged_nano_usd()
    told: list[str] = []
    if sum(row.charged_nano_usd for row in rows) != total:
        told.append("the sums of tenants are not the sum of the rows")
    charged: Counter[str] = Counter()
    for row in rows:
        if row.tenant == "honest":  # continuations of an answer have ids of their own
            charged[row.request_id.partition("~")[0]] += row.charged_nano_usd
    for phase in phases:
        for request_id, nano_usd in phase.charged_nano_usd.items():
            if charged[request_id] != nano_usd:
                ledger = charged[request_id]
                told.append(
                    f"{request_id}: its client was told {nano_usd}, the ledger has {ledger}"
                )
    most = max((row.charged_nano_usd for row in rows if row.placement == "liar"), default=0)
    if most > REMOTE_TOKENS * NANO_USD_PER_TOKEN:
        told.append(f"a lie of the remote was charged: {most} nano-USD")
    bill, accounts = await operator.bill()
    if bill != accounts:
        told.append(f"the bill is {bill} nano-USD, its accounts are {accounts}")
    return told


def left_behind(before: Sample, after: Sample) -> list[str]:
    """What the gateway's process kept."""
    told: list[str] = []
    grown_mib = (after.rss_bytes - before.rss_bytes) / MIB
    if grown_mib > ALLOWED_MIB:
        told.append(f"memory grew by {grown_mib:.0f} MiB (limit {ALLOWED_MIB:.0f})")
    if after.files > before.files + ALLOWED_FILES:
        told.append(f"{after.files} open files, {before.files} before")
    return told


def show(console: Console, name: str, phase: Phase) -> None:
    """Prints one half."""
    ends = ", ".join(f"{end} {number}" for end, number in phase.ends.most_common())
    ttfts_s = sorted(phase.ttfts_s) or [0.0]
    p99_s = ttfts_s[int(0.99 * (len(ttfts_s) - 1))]
    console.print(f"{name}: {phase.share:.2%} within SLO, p99 to first token {p99_s:.2f} s; {ends}")


async def run(minutes: float, seed: int, console: Console) -> list[str]:
    """Runs both halves. Returns the faults."""
    half_s = minutes * 30.0
    ports = [random.Random(seed).randrange(20_000, 30_000) + i for i in range(REPLICAS + 1)]
    replicas = [Server("replica", port) for port in ports[:REPLICAS]]
    servers = [*replicas, Server("liar", ports[REPLICAS])]
    with tempfile.TemporaryDirectory() as name:
        try:
            for server in servers:
                await server.start()
            async with (
                gateway(Path(name), ports) as (pid, address),
                grpc.aio.insecure_channel(address) as channel,
            ):
                operator = Operator(channel)
                await operator.until_serving(REPLICAS + 1)
                began_s = time.monotonic()
                calm = await honest_load(address, half_s, seed)
                show(console, "calm", calm)
                before = sample(pid, 0, began_s)
                hostile = await beside_hostile(address, half_s, seed, replicas)
                show(console, "beside hostile callers", hostile)
                faults = [fault for fault in (await operator.until_quiet(),) if fault]
                await asyncio.sleep(min(30.0, half_s / 4))  # idle connections close
                after = sample(pid, 0, began_s)
                console.print(
                    f"gateway: {before.rss_bytes / MIB:.0f} MiB and {before.files} open files"
                    f" before, {after.rss_bytes / MIB:.0f} MiB and {after.files} after;"
                    f" {after.cpu_s:.0f} s of CPU in {after.elapsed_s:.0f} s"
                )
                faults += left_behind(before, after)
                faults += await accounts_faults(operator, (calm, hostile))
        finally:
            for server in servers:
                await server.kill()
    lost = calm.share - hostile.share
    console.print(f"honest requests lose {lost:+.2%} of their SLO share (limit {ALLOWED_LOSS:.0%})")
    if lost > ALLOWED_LOSS:
        faults.append("hostile callers harm honest ones")
    return faults


async def beside_hostile(
    address: str, seconds: float, seed: int, replicas: Sequence[Server]
) -> Phase:
    """The honest load beside everything hostile."""
    callers = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.hostile.callers", address, str(seconds), str(seed))
    )
    dying, *others = replicas
    tasks = [asyncio.create_task(other.revive()) for other in others]
    tasks.append(asyncio.create_task(kill_again_and_again(dying, seed)))
    try:
        phase = await honest_load(address, seconds, seed)
        await callers.wait()
        return phase
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main() -> int:
    """Prints the figures and the verdict; 1: a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    console = Console(width=110)
    faults = uvloop.run(run(args.minutes, args.seed, console))
    for fault in faults:
        console.print(f"FAULT: {fault}")
    if not faults:
        console.print(
            "verdict: honest requests hold, bill and accounts agree, nothing stays behind"
        )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
