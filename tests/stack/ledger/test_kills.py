"""kill -9 under load, again and again: what the upstream counted is booked, no cap is passed."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import msgspec
import pytest

from gateway.accounting.ledger.database import Tx
from gateway.accounting.ledger.postgres import connect
from gateway.accounting.ledger.sqlite import SqliteDatabase
from gateway.config.gateway import GatewayConfig
from gateway.config.ledger import BudgetConfig, LedgerConfig
from gateway.config.server import ServerConfig
from gateway.config.values import SecretConfig
from moegate.v1 import inference_pb2_grpc
from scheduler.budgets.budget_window import Period
from tests import serving
from tests.counting import Counting, counting
from tests.ledgers import FileReader, Reader, booked, one
from tests.serving import METADATA, chat_request, read_stream
from tests.stack.ledger.mortal import Mortal
from tests.stack.ledger.postgres import Postgres

KILLS = 50
CLIENTS = 8
LONGEST_S = 0.4
"""Between the first answers and the kill, by chance."""
AIM_S = 0.05
"""Rows that are older at the kill are to be in the ledger."""
BUSY_S = 1.0
"""Without a spool the aim is met by the median of the kills, and this by all of them: on a busy
machine a thread, the database or its disk may not run for longer than the aim."""
CAP = 50_000_000
"""Nano-USD, as many tokens."""
RECOVERIES = "SELECT COUNT(*) FROM attempt WHERE state = 'lease_recovery'"


@dataclass
class Load:
    """What clients saw. `done_s`: when a request's end arrived, by its id."""

    random: random.Random
    done_s: dict[str, float] = field(default_factory=dict)
    sent: int = 0

    async def run(self, address: str) -> None:
        """Until cancelled; a broken call is not an end."""
        async with grpc.aio.insecure_channel(address) as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            await asyncio.gather(*(self._client(stub) for _ in range(CLIENTS)))

    async def _client(self, stub: inference_pb2_grpc.InferenceServiceAsyncStub) -> None:
        while True:
            self.sent += 1
            request_id = f"r{self.sent}"
            request = chat_request(
                request_id=request_id, max_output_tokens=self.random.randint(1, 20)
            )
            try:
                await read_stream(stub.Generate(request, metadata=METADATA))
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return
            self.done_s[request_id] = time.time()


@dataclass
class Watch:
    """Looks at the accounts all the time, from outside."""

    reader: Reader
    looks: int = 0
    highest: int = 0

    async def run(self) -> None:
        while True:
            committed = await one(self.reader, "SELECT MAX(committed_nano_usd) FROM account")
            self.highest = max(self.highest, committed)
            self.looks += 1
            assert committed <= CAP
            await asyncio.sleep(0.005)


Engine = Callable[[Path, Postgres], AbstractAsyncContextManager[tuple[LedgerConfig, Reader]]]


@contextlib.asynccontextmanager
async def sqlite(folder: Path, _: Postgres) -> AsyncIterator[tuple[LedgerConfig, Reader]]:
    """A file, and a reader of it beside the gateway."""
    path = folder / "ledger.sqlite3"
    await SqliteDatabase(path).close()  # makes the tables
    yield LedgerConfig(sqlite=str(path)), FileReader(path)


@contextlib.asynccontextmanager
async def postgresql(folder: Path, server: Postgres) -> AsyncIterator[tuple[LedgerConfig, Reader]]:
    """A database on the server, and a reader of it."""
    dsn = await server.new_database("kills")
    (folder / "dsn").write_text(dsn)
    database = await connect(dsn, "reader")
    yield LedgerConfig(postgres=SecretConfig(file="dsn"), gateway="mortal", spool="spool"), database
    await database.close()


@contextlib.asynccontextmanager
async def in_memory(folder: Path, server: Postgres) -> AsyncIterator[tuple[LedgerConfig, Reader]]:
    """The same without a spool: rows wait in memory."""
    async with postgresql(folder, server) as (ledger, reader):
        yield msgspec.structs.replace(ledger, spool=None), reader


@pytest.mark.parametrize("engine", [sqlite, postgresql, in_memory])
async def test_nothing_is_lost_beyond_what_is_covered(
    engine: Engine, tmp_path: Path, postgres: Postgres
) -> None:
    upstream = Counting(pause_s=0.004)
    load = Load(random.Random(1))
    async with counting(upstream), engine(tmp_path, postgres) as (ledger, reader):
        gateway = Mortal(_config(upstream, ledger), tmp_path)
        watch = Watch(reader)
        watching = asyncio.create_task(watch.run())
        lost, oldest_s, killed_s = 0, list[float](), 0.0
        for kills in range(KILLS + 1):
            # A start brings in what was spooled, and books what the kill lost: by one row.
            await gateway.start()
            assert await one(reader, RECOVERIES) == kills
            assert await booked(reader) >= upstream.tokens
            if kills:
                rows = await _request_ids(reader)
                assert len(rows) == len(set(rows)), "a row that is there twice"
                missing = load.done_s.keys() - set(rows)
                ages_s = [killed_s - load.done_s.pop(name) for name in missing]
                lost += len(ages_s)
                oldest_s.append(max(0.0, *ages_s, 0.0))
            if kills == KILLS:
                break
            loading = asyncio.create_task(load.run(gateway.address))
            served = len(load.done_s) + CLIENTS
            await serving.until(lambda: len(load.done_s) >= served)  # noqa: B023
            await asyncio.sleep(load.random.uniform(0.0, LONGEST_S))
            killed_s = time.time()
            gateway.kill()
            await asyncio.wait_for(loading, 30)
            await serving.until(lambda: upstream.running == 0)
            assert not watching.done(), watching.exception()
        watching.cancel()
        oldest_s.sort()
        within = sum(age_s <= AIM_S for age_s in oldest_s)
        print(
            f"{engine.__name__}: {KILLS} kills, {upstream.requests} requests, {lost} rows lost, "
            f"the oldest of a kill {oldest_s[KILLS // 2] * 1000:.0f} ms old in the median and "
            f"{oldest_s[-1] * 1000:.0f} ms at most ({within} kills lost none older than "
            f"{AIM_S * 1000:.0f} ms); booked {await booked(reader)}, upstream "
            f"{upstream.tokens}; {watch.looks} looks, at most {watch.highest} of {CAP}"
        )
        assert upstream.requests > CLIENTS * KILLS
        spooled = ledger.postgres is None or ledger.spool is not None
        assert oldest_s[KILLS // 2] <= AIM_S
        assert oldest_s[-1] <= (AIM_S if spooled else BUSY_S)
        gateway.kill()


async def _request_ids(reader: Reader) -> list[str]:
    async def query(tx: Tx) -> list[str]:
        found = await tx.rows("SELECT request_id FROM attempt WHERE attempt > 0")
        return [name for (name,) in found]

    return await reader.read(query)


def _config(upstream: Counting, ledger: LedgerConfig) -> GatewayConfig:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = serving.config(pools=[serving.pool([upstream.url], max_num_seqs=64)])
    budget = BudgetConfig(
        tenant="team", key="test", period=Period.MONTH, cap_usd=f"{CAP / 1e9:.9f}"
    )
    server = msgspec.structs.replace(config.server, listen=f"127.0.0.1:{port}")
    assert isinstance(server, ServerConfig)
    return msgspec.structs.replace(config, server=server, ledger=ledger, budgets=(budget,))
