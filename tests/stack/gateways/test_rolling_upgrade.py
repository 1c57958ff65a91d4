"""A rolling upgrade of a cluster under load, and a rollback: the version before and the present one
work together in both roles, and no request fails."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import grpc

from gateway.link.wire.messages import WIRE_VERSION
from moegate.v1 import inference_pb2_grpc
from tests.counting import Counting, counting
from tests.stack.gateways.cluster import BEFORE, NOW, Cluster, Member, cluster
from tests.stack.gateways.test_rolling_restart import BOUND_S, STREAMS, Load, service_config
from tests.stack.ledger.postgres import Postgres


async def replaced(member: Member, version: tuple[str, ...], load: Load) -> None:
    """SIGTERM; it drains and ends, and another version takes its place under load."""
    await load.until_well(STREAMS)
    member.signal(signal.SIGTERM)
    assert member.process is not None
    async with asyncio.timeout(BOUND_S):
        assert await member.process.wait() == 0, member.log.read_text()[-3000:]
    member.command = version
    await member.start()
    await load.until_well(2 * STREAMS)


async def versions(made: Cluster) -> tuple[int, int]:
    """The version that the leader speaks, and the number of its fronts."""
    [(version, fronts)] = await made.rows("SELECT wire_version, ABS(fronts) FROM leader")
    return version, fronts


async def test_no_request_fails_while_a_cluster_is_upgraded(
    tmp_path: Path, postgres: Postgres
) -> None:
    upstream = Counting(pause_s=0.004)
    dsn = await postgres.new_database("upgrade")
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(counting(upstream))
        made = await stack.enter_async_context(
            cluster(tmp_path, dsn, [upstream.url], 2, server={"drain_delay_s": 2, "drain_s": 60})
        )
        for member in made.members:
            member.command = BEFORE
        await asyncio.gather(*(member.start() for member in made.members))
        addresses = ",".join(member.address for member in made.members)
        options = (
            ("grpc.service_config", service_config()),
            # So that a gateway that is back is known before the other one goes.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        )
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(f"ipv4:{addresses}", options=options)
        )
        load = Load(inference_pb2_grpc.InferenceServiceStub(channel))
        async with asyncio.TaskGroup() as group:
            for number in range(STREAMS):
                group.create_task(load.client(number))
            first = await made.leader()
            [second] = [member for member in made.members if member is not first]
            assert await versions(made) == (WIRE_VERSION - 1, 2)
            await replaced(second, NOW, load)
            assert await made.leader() is first, "the version before leads a front of this one"
            await replaced(first, BEFORE, load)
            assert await made.leader() is second, "this version leads a front of the one before"
            assert (await versions(made))[0] == WIRE_VERSION
            await replaced(first, NOW, load)
            assert await made.leader() is second
            await replaced(second, NOW, load)
            assert await made.leader() is first
            load.stopped = True
        print(load.ended)
        assert not load.failures, load.failures[:3]
        assert load.ended["well"] > 12 * STREAMS
        assert load.ended["answers"] > STREAMS
        [(rows,)] = await made.rows(
            "SELECT COUNT(*) FROM (SELECT 1 FROM attempt GROUP BY request_id, attempt"
            " HAVING COUNT(*) > 1) AS twice"
        )
        assert rows == 0
