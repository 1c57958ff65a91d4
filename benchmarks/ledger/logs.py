"""What each write-ahead log of the ledger is worth: the spool, SQLite's own, and neither.

    python -m benchmarks.ledger.logs [--rows 50000] [--seconds 2] [--kills 8] [--only NAME ...]

Each variant is a ledger with budgets of 50 keys; medians of three runs: settlements a second
through to the last commit (64 clients), CPU per settlement at a steady rate (this process, and
PostgreSQL's), how long a row waits for its commit, also while a report is read, and how many
settlements `kill -9` loses that a client had been told of. PostgreSQL is Debian's; it is installed
where it is missing (as root).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import uvloop

from benchmarks.ledger.writing import one_request, requests, settings, until_written
from gateway.accounting.accounting import Accounting, configured_budget
from gateway.accounting.budgets import Budgets
from gateway.accounting.ledger import ledger as ledger_module
from gateway.accounting.ledger import sqlite
from gateway.accounting.ledger.append import Append, transactional_append
from gateway.accounting.ledger.database import Database, Tx
from gateway.accounting.ledger.leases import Owner, record_heartbeat
from gateway.accounting.ledger.ledger import Ledger
from gateway.accounting.ledger.postgres import connect
from gateway.accounting.ledger.postgres_append import single_statement_append
from gateway.accounting.ledger.rows import PendingRow
from gateway.accounting.ledger.spool import Spool, recover_spool
from gateway.accounting.pool_accounts import open_pool_accounts
from scheduler.metering.settlement import SettledAttempt
from tests.stack.ledger.postgres import Postgres, running_postgres

CLIENTS = 64
RATES_PER_S = (100, 500)
KILL_RATE_PER_S = 500
REPEATS = 3
REPORT_S = 3.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

_CONNECT, _GATHER_S = sqlite._connect, ledger_module.GATHER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """`answer_waits`: a request's answer is not over before its row is committed.

    `synchronous`: of SQLite. NORMAL: a commit does not wait for the disk.
    """

    name: str
    postgres: bool = False
    spool: bool = False
    journal: str = "WAL"
    synchronous: str = "FULL"
    answer_waits: bool = False


VARIANTS = (
    Variant(name="sqlite-wal-spool", spool=True),
    Variant(name="sqlite-wal-spool-normal", spool=True, synchronous="NORMAL"),
    Variant(name="sqlite-rollback-spool", spool=True, journal="TRUNCATE"),
    Variant(name="sqlite-wal-memory-normal", synchronous="NORMAL"),
    Variant(name="sqlite-wal-memory-full"),
    Variant(name="sqlite-wal-wait-normal", answer_waits=True, synchronous="NORMAL"),
    Variant(name="sqlite-wal-wait-full", answer_waits=True),
    Variant(name="postgres-spool", postgres=True, spool=True),
    Variant(name="postgres-memory", postgres=True),
    Variant(name="postgres-wait", postgres=True, answer_waits=True),
)


@dataclass(slots=True)
class Commits:
    """Wraps an `Append`, and lets answers wait for their rows."""

    append: Append
    variant: Variant
    committed: int = 0
    waiting: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque)

    async def write(self, first_seq: int, rows: Sequence[PendingRow]) -> None:
        """An `Append`."""
        await self.append(first_seq, rows)
        self.committed = first_seq + len(rows)
        while self.waiting and self.waiting[0][0] < self.committed:
            done = self.waiting.popleft()[1]
            if not done.done():
                done.set_result(None)

    async def wait(self, seq: int) -> None:
        """Until the row of this number is committed."""
        if seq >= self.committed:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiting.append((seq, done))
            await done


@dataclass(slots=True)
class Running:
    """A ledger of a variant."""

    variant: Variant
    accounting: Accounting
    commits: Commits

    async def request(self, settled: SettledAttempt) -> None:
        """A request, to the moment when its client may be told that it is over."""
        await one_request(self.accounting, settled)
        if self.variant.answer_waits:
            status = self.accounting.ledger.status
            await self.commits.wait(status.written_rows + status.backlog_rows - 1)


@contextlib.asynccontextmanager
async def opened(variant: Variant, folder: Path, dsn: str, epoch: str) -> AsyncIterator[Running]:
    """As `open_accounting` opens it, with the variant's logs."""
    database: Database
    if variant.postgres:
        database = postgres = await connect(dsn, "benchmark")
        append = single_statement_append(postgres, epoch)
    else:
        database = sqlite.SqliteDatabase(folder / "ledger.sqlite3")
        append = transactional_append(database, epoch)
    owner = Owner("benchmark", epoch)
    spool = Spool(folder / "spool", epoch) if variant.spool else None
    if spool is not None:
        await recover_spool(spool, database, lambda *_: ())
    await database.write(lambda tx: record_heartbeat(tx, owner))
    commits = Commits(append, variant)
    ledger = Ledger(database, commits.write, 10_000_000, spool)
    budgets = Budgets(ledger, owner)
    budgets.configure(map(configured_budget, settings(budgets=True).budgets))
    accounting = Accounting(
        database,
        ledger,
        budgets,
        await open_pool_accounts(database, owner),
        owner,
        shared=False,
        retain_days=36_500,
        retain_hourly_days=36_500,
        retain_audit_days=36_500,
    )
    writer = asyncio.create_task(ledger.run())
    try:
        yield Running(variant, accounting, commits)
    finally:
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        await ledger.flush()
        if spool is not None:
            spool.close()
        await database.close()


def prepare(variant: Variant) -> None:
    """Sets what a variant changes in the ledger's modules."""

    def connect_sqlite(path: Path) -> sqlite3.Connection:
        connection = _CONNECT(path)
        connection.execute(f"PRAGMA journal_mode = {variant.journal}")
        connection.execute(f"PRAGMA synchronous = {variant.synchronous}")
        return connection

    sqlite._connect = connect_sqlite
    ledger_module.GATHER_S = 0.0 if variant.answer_waits else _GATHER_S


async def throughput(running: Running, rows: int) -> float:
    """Settlements a second of all clients, to the last commit."""
    made = iter(requests(rows))

    async def client() -> None:
        for settled in made:
            await running.request(settled)
            await asyncio.sleep(0)

    began_s = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    await until_written(running.accounting)
    return rows / (time.perf_counter() - began_s)


async def paced(running: Running | None, rate: int, seconds: float) -> float:
    """CPU of this process at a steady rate, microseconds a request; None: of the pace alone."""
    made = requests(round(seconds * rate))
    tasks: set[asyncio.Task[None]] = set()
    began_s, cpu_s = time.perf_counter(), time.process_time()
    for number, settled in enumerate(made):
        work = asyncio.sleep(0) if running is None else running.request(settled)
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due_s = began_s + (number + 1) / rate
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
    await asyncio.gather(*tasks)
    return (time.process_time() - cpu_s) / len(made) * 1e6


def server_cpu_s(server: Postgres | None) -> float:
    """CPU of PostgreSQL's processes so far."""
    if server is None:
        return 0.0
    main = (server.folder / "data" / "postmaster.pid").read_text().split()[0]
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[1] == main:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


async def measure(
    variant: Variant, folder: Path, dsn: str, server: Postgres | None, rows: int, seconds: float
) -> str:
    """The variant's columns."""
    per_s: list[float] = []
    own_us: dict[int, list[float]] = {rate: [] for rate in RATES_PER_S}
    server_us: dict[int, list[float]] = {rate: [] for rate in RATES_PER_S}
    async with opened(variant, folder, dsn, "rate") as running:
        for settled in requests(50):  # their leases: made once, then they last
            await running.request(settled)
        await until_written(running.accounting)
        for _ in range(REPEATS):
            for rate in RATES_PER_S:
                idle_us = await paced(None, rate, seconds)
                before_s = server_cpu_s(server)
                busy_us = await paced(running, rate, seconds)
                await until_written(running.accounting)
                server_us[rate].append((server_cpu_s(server) - before_s) / (rate * seconds) * 1e6)
                own_us[rate].append(busy_us - idle_us)
        waits_ms = [running.accounting.ledger.status.longest_wait_s * 1000]
        reading = asyncio.create_task(running.accounting.database.read(partial(report, variant)))
        await asyncio.sleep(0.1)
        await paced(running, RATES_PER_S[-1], REPORT_S)
        await reading
        await until_written(running.accounting)
        waits_ms.append(running.accounting.ledger.status.longest_wait_s * 1000)
        for _ in range(REPEATS):
            per_s.append(await throughput(running, rows))
    columns = [f"{statistics.median(per_s):,.0f}"]
    for rate in RATES_PER_S:
        both = "" if server is None else f" + {statistics.median(server_us[rate]):.0f}"
        columns.append(f"{statistics.median(own_us[rate]):.0f}{both}")
    return " | ".join([*columns, *(f"{wait_ms:,.0f}" for wait_ms in waits_ms)])


async def report(variant: Variant, tx: Tx) -> None:
    """Reads for `REPORT_S`. A transaction of SQLite has a thread, and may not suspend."""
    await tx.rows("SELECT COUNT(*) FROM attempt")
    if variant.postgres:
        await asyncio.sleep(REPORT_S)
    else:
        time.sleep(REPORT_S)  # noqa: ASYNC251


async def settle_until_killed(variant: Variant, folder: Path, dsn: str, epoch: str) -> None:
    """Tells standard output of each settlement that a client may know of."""
    async with opened(variant, folder, dsn, epoch) as running:
        tasks: set[asyncio.Task[None]] = set()

        async def one(settled: SettledAttempt) -> None:
            await running.request(settled)
            os.write(1, b".")

        for settled in requests(100_000):
            task = asyncio.create_task(one(settled))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            await asyncio.sleep(1 / KILL_RATE_PER_S)


async def rows_of(variant: Variant, folder: Path, dsn: str, epoch: str) -> int:
    """Rows of a killed process that are in the ledger after the next start."""
    async with opened(variant, folder, dsn, f"after-{epoch}") as running:
        [(count,)] = await running.accounting.database.read(
            lambda tx: tx.rows("SELECT COUNT(*) FROM attempt WHERE epoch = $1", epoch)
        )
        return int(count)


def kill(variant: Variant, folder: Path, dsn: str, kills: int) -> str:
    """Settlements that were lost, of those that were told."""
    lost = told = 0
    for number in range(kills):
        epoch = f"kill-{number}"
        command = [sys.executable, "-m", "benchmarks.ledger.logs", "--child", epoch]
        command += ["--only", variant.name, "--folder", str(folder), "--dsn", dsn]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.read(1)
        time.sleep(random.uniform(0.3, 1.5))
        child.send_signal(signal.SIGKILL)
        answered = 1 + len(child.stdout.read())
        child.wait()
        told += answered
        lost += max(0, answered - uvloop.run(rows_of(variant, folder, dsn, epoch)))
    return f"{lost} of {told:,}"


def main() -> None:
    """Prints a row for each variant."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each steady load")
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--only", nargs="*", default=[], help="names of variants")
    for name in ("--child", "--folder", "--dsn"):
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    chosen = [v for v in VARIANTS if not args.only or v.name in args.only]
    if args.child:
        prepare(chosen[0])
        uvloop.run(settle_until_killed(chosen[0], Path(args.folder), args.dsn, args.child))
        return
    print(
        "variant | settlements/s | us each at 100/s | at 500/s | longest wait, ms | beside a report"
        " of 3 s | kill -9 lost"
    )
    with contextlib.ExitStack() as stack:
        needed = any(variant.postgres for variant in chosen)
        server = stack.enter_context(running_postgres()) if needed else None
        for variant in chosen:
            with tempfile.TemporaryDirectory() as folder:
                dsn = ""
                if variant.postgres and server is not None:
                    dsn = asyncio.run(server.new_database(variant.name))
                prepare(variant)
                used = server if variant.postgres else None
                work = measure(variant, Path(folder), dsn, used, args.rows, args.seconds)
                columns = uvloop.run(work)
                killed = kill(variant, Path(folder), dsn, args.kills)
            print(f"{variant.name} | {columns} | {killed}", flush=True)


if __name__ == "__main__":
    main()
