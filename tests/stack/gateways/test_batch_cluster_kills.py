"""kill -9 of leader, member and engine in the middle of a batch of a cluster: each item has one
result, and the bill is that of each item once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import grpc

from gateway.accounting.ledger.postgres import connect
from moegate.v1 import batch_pb2
from tests.ledgers import Reader, booked, one
from tests.stack.gateways.cluster import Cluster, Member, cluster, free_ports
from tests.stack.ledger.mortal import MortalEngine
from tests.stack.ledger.postgres import Postgres
from tests.stack.ledger.test_batch_kills import (
    CATALOG,
    NANO_USD_PER_TOKEN,
    all_results,
    ended,
    has_ended,
    names,
    state,
    submit,
)

ITEMS = 900
KILLS = ("engine", "member", "leader")
BOUND_S = 120.0


async def test_every_item_ends_once_whatever_of_a_cluster_is_killed(
    tmp_path: Path, postgres: Postgres
) -> None:
    dsn = await postgres.new_database("batch_cluster")
    again = await run_cluster_with_kills(tmp_path, dsn, ITEMS, KILLS, pause_s=0.06)
    print(f"{', '.join(KILLS)} killed: {again} items were charged for a lost run, and corrected")


async def run_cluster_with_kills(
    folder: Path, dsn: str, items: int, kills: Sequence[str], pause_s: float = 0.03
) -> int:
    """Runs a batch of so many items on three members and one engine, and kills what `kills` names,
    one after the other. Returns how many charges were corrected. Fails unless each item has one
    result and the bill is that of each item once."""
    engine = MortalEngine(free_ports(1)[0], pause_s)
    (folder / "prices.yaml").write_text(CATALOG)
    reader = await connect(dsn, "reader")
    await engine.start()
    starting: list[asyncio.Task[None]] = []
    try:
        prices = {"catalog": "prices.yaml"}
        async with cluster(folder, dsn, [engine.url], 3, prices=prices) as made:
            await asyncio.gather(*(member.start() for member in made.members))
            batch_id = await submit((await made.leader()).address, items)
            chance = random.Random(4)
            for number, victim in enumerate(kills, 1):
                await has_ended(reader, items * (number - chance.random() / 2) / (len(kills) + 1))
                if victim == "engine":
                    engine.kill()
                    await engine.start()
                else:
                    if len(starting) > 1:  # two members are left at least, one to take over
                        await starting.pop(0)
                    killed = await kill(made, victim)
                    starting.append(asyncio.create_task(killed.start()))
                assert await ended(reader) < items, f"kill {number} came too late"
            await asyncio.gather(*starting)
            return await check(made, reader, batch_id, items)
    finally:
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        engine.kill()
        await reader.close()


async def kill(made: Cluster, victim: str) -> Member:
    """kill -9 of the leader, or of one that does not lead."""
    leader = await made.leader()
    others = [
        member
        for member in made.members
        if member is not leader and member.process is not None and member.process.returncode is None
    ]
    killed = leader if victim == "leader" else others[0]
    await killed.kill()
    return killed


async def check(made: Cluster, reader: Reader, batch_id: str, items: int) -> int:
    await has_ended(reader, items)
    address = (await made.leader()).address
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                batch = await state(address, batch_id)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            else:
                if batch.state == batch_pb2.BATCH_STATE_ENDED:
                    break
            await asyncio.sleep(0.1)
    results = await all_results(address, batch_id)
    assert sorted(each.item_id for each in results) == sorted(names(items))
    failed = [each.error for each in results if each.WhichOneof("outcome") != "response"]
    assert not failed, failed[:3]
    tokens = sum(
        each.response.done.usage.prompt_tokens + each.response.done.usage.completion_tokens
        for each in results
    )
    assert (batch.requests, batch.succeeded, batch.failed) == (items, items, 0)
    assert batch.charged_nano_usd == tokens * NANO_USD_PER_TOKEN
    assert await booked(reader) == tokens * NANO_USD_PER_TOKEN
    return await one(reader, "SELECT COUNT(*) FROM attempt WHERE state = 'correction'")
