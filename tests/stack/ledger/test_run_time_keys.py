"""Keys that are made at run time, on PostgreSQL: two gateways that share it, and a cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from gateway.config.gateway import GatewayConfig, KeyConfig, KeyRole, TenantConfig
from gateway.config.ledger import LedgerConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.config.server import ServerConfig
from gateway.config.values import SecretConfig
from gateway.server import RunningGateway, running_gateway
from moegate.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, inference_pb2_grpc
from tests.counting import Counting, counting
from tests.serving import METADATA, READY_S, until
from tests.stack.gateways.cluster import cluster
from tests.stack.ledger.postgres import Postgres

BOSS = (("authorization", "Bearer mg-boss"),)


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


async def taken(address: str, secret: str) -> bool:
    """Whether a gateway takes a key."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        try:
            await stub.ListModels(inference_pb2.ListModelsRequest(), metadata=bearer(secret))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                raise
            return False
        return True


@contextlib.asynccontextmanager
async def admin_of(address: str) -> AsyncIterator[admin_pb2_grpc.AdminServiceAsyncStub]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield admin_pb2_grpc.AdminServiceStub(channel)


def known(gateway: RunningGateway, key_id: str) -> bool:
    return gateway.active.authenticator.caller_of(key_id) is not None


async def test_gateways_on_one_database_follow_each_other(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYS_DSN", await postgres.new_database("keys"))

    def settings(name: str) -> GatewayConfig:
        boss = KeyConfig(id="boss", sha256=key_sha256("mg-boss"), role=KeyRole.OPERATOR)
        return GatewayConfig(
            server=ServerConfig(listen="127.0.0.1:0", drain_delay_s=0.0),
            tenants=(TenantConfig(name="team", keys=(boss,)),),
            ledger=LedgerConfig(postgres=SecretConfig(env="KEYS_DSN"), gateway=name),
        )

    async with (
        running_gateway(settings("one"), tmp_path) as one,
        running_gateway(settings("two"), tmp_path) as two,
        admin_of(one.address) as first,
        admin_of(two.address) as second,
    ):
        tenant = admin_pb2.Tenant(name="lab", weight=2.5, rpcs=7)
        await first.SetTenant(admin_pb2.SetTenantRequest(tenant=tenant), metadata=BOSS)
        made = await first.CreateKey(
            admin_pb2.CreateKeyRequest(key_id="bot", tenant="lab"), metadata=BOSS
        )
        assert await taken(one.address, made.secret)
        await until(lambda: known(two, "bot"))
        assert await taken(two.address, made.secret)
        caller = two.active.authenticator.authenticate(bearer(made.secret))
        assert (caller.tenant, caller.weight, caller.tenant_rpcs) == ("lab", 2.5, 7)
        # The same id at once at both: one of them has it.
        both = await asyncio.gather(
            *(
                admin.CreateKey(admin_pb2.CreateKeyRequest(key_id="twin"), metadata=BOSS)
                for admin in (first, second)
            ),
            return_exceptions=True,
        )
        [error] = [each for each in both if isinstance(each, grpc.aio.AioRpcError)]
        assert error.code() is grpc.StatusCode.ALREADY_EXISTS
        # Without the database, what was read stays.
        await asyncio.to_thread(postgres.stop)
        try:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await second.RevokeKey(admin_pb2.RevokeKeyRequest(key_id="bot"), metadata=BOSS)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert await taken(one.address, made.secret)
            assert await taken(two.address, made.secret)
        finally:
            await asyncio.to_thread(postgres.start)
        async with asyncio.timeout(READY_S):
            while True:
                try:
                    await second.RevokeKey(admin_pb2.RevokeKeyRequest(key_id="bot"), metadata=BOSS)
                    break
                except grpc.aio.AioRpcError as error:
                    if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                        break  # the revocation that was not answered was written
                    await asyncio.sleep(0.1)
        await until(lambda: not known(two, "bot"))
        await until(lambda: not known(one, "bot"))
        assert not await taken(one.address, made.secret)
        listed = await first.ListKeys(admin_pb2.ListKeysRequest(with_revoked=True), metadata=BOSS)
        assert [key.key_id for key in listed.keys] == ["boss", "bot", "twin"]
        events = await second.ListAuditEvents(
            admin_pb2.ListAuditEventsRequest(tenant="lab"), metadata=BOSS
        )
        assert [event.action for event in events.events] == ["RevokeKey", "CreateKey", "SetTenant"]


async def test_a_cluster_has_its_keys_in_every_member_and_after_a_change_of_leader(
    tmp_path: Path, postgres: Postgres
) -> None:
    upstream = Counting(pause_s=0.004)
    dsn = await postgres.new_database("cluster_keys")
    async with counting(upstream), cluster(tmp_path, dsn, [upstream.url], 2) as made:
        await asyncio.gather(*(member.start() for member in made.members))
        leader = await made.leader()
        [other] = [member for member in made.members if member is not leader]
        async with admin_of(other.address) as admin:
            kept = await admin.CreateKey(
                admin_pb2.CreateKeyRequest(key_id="kept"), metadata=METADATA
            )
            gone = await admin.CreateKey(
                admin_pb2.CreateKeyRequest(key_id="gone"), metadata=METADATA
            )
            for member in made.members:
                assert await taken(member.address, kept.secret)
                assert await taken(member.address, gone.secret)
            await admin.RevokeKey(admin_pb2.RevokeKeyRequest(key_id="gone"), metadata=METADATA)
            for member in made.members:
                assert not await taken(member.address, gone.secret)
            await leader.kill()
            await leader.start()  # it joins the other one, or leads again
            for member in made.members:
                assert await taken(member.address, kept.secret)
                assert not await taken(member.address, gone.secret)
            async with asyncio.timeout(READY_S):
                while True:
                    try:
                        rotated = await admin.RotateKey(
                            admin_pb2.RotateKeyRequest(key_id="kept"), metadata=METADATA
                        )
                        break
                    except grpc.aio.AioRpcError as error:
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            raise
                        await asyncio.sleep(0.1)
        for member in made.members:
            assert await taken(member.address, rotated.secret)
            assert not await taken(member.address, kept.secret)
