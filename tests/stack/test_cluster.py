"""A cluster: one leads, each answers, and another one takes over."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path

import asyncpg
import grpc

from moegate.v1 import admin_pb2, admin_pb2_grpc, inference_pb2_grpc
from tests import serving
from tests.counting import Counting, counting
from tests.serving import METADATA, chat_request, read_stream
from tests.stack.cluster import Cluster, Member, cluster
from tests.stack.networks import networks, relayed
from tests.stack.postgres import Postgres

BOUND_S = 60.0


async def ask(member: Member, tokens: int = 5) -> None:
    """One request, answered whole."""
    async with asyncio.timeout(BOUND_S), grpc.aio.insecure_channel(member.address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        request = chat_request(max_output_tokens=tokens, ignore_eos=True)
        seen = await read_stream(stub.Generate(request, metadata=METADATA))
        assert seen.done is not None


async def ask_again(member: Member) -> None:
    """One request, tried again as long as the gateway says that a retry helps."""
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                await ask(member)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)
            else:
                return


async def booked_tokens(made: Cluster) -> int:
    [(tokens,)] = await made.rows(
        "SELECT COALESCE(SUM(prompt_tokens + completion_tokens), 0)::bigint FROM attempt"
    )
    return int(tokens)


async def until_booked(made: Cluster, upstream: Counting) -> None:
    async with asyncio.timeout(BOUND_S):
        while await booked_tokens(made) != upstream.tokens:
            await asyncio.sleep(0.1)


async def test_each_member_answers_and_one_leads(tmp_path: Path, postgres: Postgres) -> None:
    upstream = Counting(pause_s=0.004)
    dsn = await postgres.new_database("cluster")
    async with counting(upstream), cluster(tmp_path, dsn, [upstream.url], 2) as made:
        await asyncio.gather(*(member.start() for member in made.members))
        assert await made.leader() in made.members
        await asyncio.gather(*(ask(member) for member in made.members for _ in range(4)))
        await until_booked(made, upstream)
        assert await made.rows("SELECT COUNT(*) FROM attempt") == [(8,)]
        for member in made.members:  # usage is asked of the leader, whoever is asked
            async with grpc.aio.insecure_channel(member.address) as channel:
                admin = admin_pb2_grpc.AdminServiceStub(channel)
                await admin.GetLedgerStatus(
                    admin_pb2.GetLedgerStatusRequest(), metadata=METADATA, timeout=BOUND_S
                )


async def test_another_one_takes_over_from_a_killed_leader(
    tmp_path: Path, postgres: Postgres
) -> None:
    upstream = Counting(pause_s=0.004)
    dsn = await postgres.new_database("killed")
    async with counting(upstream), cluster(tmp_path, dsn, [upstream.url], 2) as made:
        await asyncio.gather(*(member.start() for member in made.members))
        leader = await made.leader()
        [other] = [member for member in made.members if member is not leader]
        stream = asyncio.create_task(ask(other, tokens=500))
        await serving.until(lambda: upstream.running == 1)
        began_s = time.monotonic()
        await leader.kill()
        await ask(other)
        print(f"admitted again after {time.monotonic() - began_s:.2f} s")
        await stream
        await until_booked(made, upstream)
        assert await made.leader() is other
        assert await made.term() == 2


async def faulty(made: Cluster, upstream: Counting, fault: str) -> float:
    """Lets the leader fail while streams run at the others. Returns the seconds until a request was
    admitted again. The leader is well again at the end, and everything is booked."""
    leader = await made.leader()
    others = [member for member in made.members if member is not leader]
    streams = [asyncio.create_task(ask(member, tokens=700)) for member in others for _ in range(3)]
    await serving.until(lambda: upstream.running >= len(streams))
    term = await made.term()
    began_s = time.monotonic()
    match fault:
        case "kill":
            await leader.kill()
        case "stop":
            leader.signal(signal.SIGSTOP)
        case "cut":
            assert leader.network is not None
            leader.network.cut()
    await ask_again(others[0])
    away_s = time.monotonic() - began_s
    assert await made.term() > term
    await asyncio.gather(*streams)
    match fault:
        case "kill":
            await leader.start()
        case "stop":
            leader.signal(signal.SIGCONT)
        case "cut":
            assert leader.network is not None
            leader.network.heal()
    await asyncio.gather(*(ask_again(member) for member in made.members))
    await until_booked(made, upstream)
    assert (
        await made.rows("SELECT request_id, attempt FROM attempt GROUP BY 1, 2 HAVING COUNT(*) > 1")
        == []
    )
    return away_s


async def test_a_stopped_leader_is_replaced_and_writes_nothing_more(
    tmp_path: Path, postgres: Postgres
) -> None:
    upstream = Counting(pause_s=0.004)
    dsn = await postgres.new_database("stopped_leader")
    async with counting(upstream), cluster(tmp_path, dsn, [upstream.url], 2) as made:
        await asyncio.gather(*(member.start() for member in made.members))
        print(f"admitted again after {await faulty(made, upstream, 'stop'):.2f} s")


async def test_a_leader_that_is_cut_off_is_replaced(tmp_path: Path, postgres: Postgres) -> None:
    upstream = Counting(pause_s=0.004)
    dsn = await postgres.new_database("cut_off")
    async with counting(upstream):
        port = int(upstream.url.rpartition(":")[2])
        with networks(2) as nets:
            async with (
                relayed(nets.host, postgres.port),
                relayed(nets.host, port),
                cluster(tmp_path, dsn, [upstream.url], 2, nets) as made,
            ):
                await asyncio.gather(*(member.start() for member in made.members))
                print(f"admitted again after {await faulty(made, upstream, 'cut'):.2f} s")


async def test_a_leader_that_ends_hands_over(tmp_path: Path, postgres: Postgres) -> None:
    upstream = Counting(pause_s=0.004)
    dsn = await postgres.new_database("hands_over")
    async with counting(upstream), cluster(tmp_path, dsn, [upstream.url], 2) as made:
        await asyncio.gather(*(member.start() for member in made.members))
        leader = await made.leader()
        [other] = [member for member in made.members if member is not leader]
        streams = [
            asyncio.create_task(ask(member, tokens=700))
            for member in made.members
            for _ in range(3)
        ]
        await serving.until(lambda: upstream.running == len(streams))
        leader.signal(signal.SIGTERM)
        began_s = time.monotonic()
        while await made.term() == 1:
            await ask(other)
        await ask(other)
        print(f"handed over and admitted after {time.monotonic() - began_s:.2f} s")
        assert leader.process is not None
        assert leader.process.returncode is None, "its own streams go on"
        await asyncio.gather(*streams)
        assert await leader.process.wait() == 0
        await until_booked(made, upstream)


async def refused_in_time(member: Member) -> grpc.aio.AioRpcError:
    """What a request is told that finds no scheduler before its deadline."""
    async with asyncio.timeout(BOUND_S), grpc.aio.insecure_channel(member.address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        while True:
            try:
                await read_stream(
                    stub.Generate(chat_request(max_output_tokens=1), metadata=METADATA, timeout=2.0)
                )
            except grpc.aio.AioRpcError as error:
                return error


async def test_without_any_scheduler_streams_go_on_and_new_requests_are_refused(
    tmp_path: Path, postgres: Postgres
) -> None:
    upstream = Counting(pause_s=0.01)
    dsn = await postgres.new_database("no_scheduler")
    async with counting(upstream), cluster(tmp_path, dsn, [upstream.url], 2, lease_s=1.0) as made:
        await asyncio.gather(*(member.start() for member in made.members))
        streams = [asyncio.create_task(ask(member, tokens=1000)) for member in made.members]
        await serving.until(lambda: upstream.running == len(streams))
        postgres.stop()
        try:
            for member in made.members:
                error = await refused_in_time(member)
                assert error.code() in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                )
            assert not any(stream.done() for stream in streams)
        finally:
            postgres.start()
        made.connection.terminate()
        made.connection = await asyncpg.connect(dsn)
        await asyncio.gather(*(ask_again(member) for member in made.members))
        await asyncio.gather(*streams)
        await until_booked(made, upstream)


FAULTS = 50


async def test_the_leader_fails_again_and_again(tmp_path: Path, postgres: Postgres) -> None:
    upstream = Counting(pause_s=0.002)
    chance = random.Random(1)
    away_s: dict[str, list[float]] = {"kill": [], "stop": [], "cut": []}
    dsn = await postgres.new_database("again")
    async with counting(upstream):
        port = int(upstream.url.rpartition(":")[2])
        with networks(3) as nets:
            async with (
                relayed(nets.host, postgres.port),
                relayed(nets.host, port),
                cluster(tmp_path, dsn, [upstream.url], 3, nets, lease_s=1.5) as made,
            ):
                await asyncio.gather(*(member.start() for member in made.members))
                for _ in range(FAULTS):
                    fault = chance.choice(list(away_s))
                    away_s[fault].append(await faulty(made, upstream, fault))
    for fault, found in away_s.items():
        found.sort()
        print(
            f"{fault}: {len(found)} times, admitted again after {found[len(found) // 2]:.2f} s in"
            f" the median, {found[-1]:.2f} s at most"
        )
    print(f"{upstream.requests} requests, {upstream.tokens} tokens, all booked once")
    assert upstream.requests >= FAULTS * 7
