"""Keys that are made at run time are in force in every front process before the RPC is answered."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import grpc

from moegate.v1 import admin_pb2, admin_pb2_grpc, inference_pb2
from tests.integration.processes.test_fronts import BOSS, CHANNELS, Two, config_of, once, two_fronts
from tests.scripted import GOOD, Scripted, listening
from tests.serving import until


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


async def taking(two: Two, secret: str) -> int:
    """How many of the channels take a key, of both fronts."""
    asked = [
        stub.ListModels(
            inference_pb2.ListModelsRequest(), metadata=bearer(secret), wait_for_ready=True
        )
        for stub in two.stubs
    ]
    found = await asyncio.gather(*asked, return_exceptions=True)
    errors = [each for each in found if isinstance(each, grpc.aio.AioRpcError)]
    assert {error.code() for error in errors} <= {grpc.StatusCode.UNAUTHENTICATED}
    return len(found) - len(errors)


async def test_a_change_is_in_force_in_all_fronts_at_once(tmp_path: Path) -> None:
    upstream = Scripted(frames=GOOD)
    async with listening(upstream), two_fronts(config_of(upstream.url), tmp_path) as two:
        admins = [admin_pb2_grpc.AdminServiceStub(channel) for channel in two.channels]
        limits = admin_pb2.KeyLimits(requests_per_minute=CHANNELS)
        made = await admins[0].CreateKey(
            admin_pb2.CreateKeyRequest(key_id="bot", settings=admin_pb2.KeySettings(limits=limits)),
            metadata=BOSS,
        )
        assert await taking(two, made.secret) == CHANNELS
        # One limit for all fronts: it is spent.
        answers = await asyncio.gather(
            *(stub.GenerateOnce(once(), metadata=bearer(made.secret)) for stub in two.stubs),
            return_exceptions=True,
        )
        refused = [each for each in answers if isinstance(each, grpc.aio.AioRpcError)]
        assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        free = await admins[1].CreateKey(admin_pb2.CreateKeyRequest(key_id="free"), metadata=BOSS)
        rotated = await admins[2].RotateKey(
            admin_pb2.RotateKeyRequest(key_id="free"), metadata=BOSS
        )
        assert await taking(two, free.secret) == 0
        assert await taking(two, rotated.secret) == CHANNELS
        # A front that starts again has the keys, and the others have them after all.
        pid = two.processes.pid(1)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: two.processes.pid(1) not in (None, pid))
        await until(lambda: len(two.gateway.host.fronts) == 2)
        assert await taking(two, rotated.secret) == CHANNELS
        await admins[3].RevokeKey(
            admin_pb2.RevokeKeyRequest(key_id="free"), metadata=BOSS, wait_for_ready=True
        )
        assert await taking(two, rotated.secret) == 0


async def test_a_front_that_does_not_take_a_change_is_started_again(tmp_path: Path) -> None:
    upstream = Scripted(frames=GOOD)
    async with listening(upstream), two_fronts(config_of(upstream.url), tmp_path) as two:
        admin = admin_pb2_grpc.AdminServiceStub(two.channels[0])
        made = await admin.CreateKey(admin_pb2.CreateKeyRequest(key_id="bot"), metadata=BOSS)
        pids = {number: two.processes.pid(number) for number in (1, 2)}
        stopped = pids[1]
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        # Asked of the scheduler's side, since a stopped front may have the connection.
        async with grpc.aio.insecure_channel(f"unix:{two.gateway.sockets / 'accounts'}") as channel:
            await admin_pb2_grpc.AdminServiceStub(channel).RevokeKey(
                admin_pb2.RevokeKeyRequest(key_id="bot"), metadata=BOSS
            )
        os.kill(stopped, signal.SIGCONT)
        await until(lambda: two.processes.pid(1) not in (None, stopped))
        await until(lambda: len(two.gateway.host.fronts) == 2)
        assert two.processes.pid(2) == pids[2]
        assert await taking(two, made.secret) == 0
