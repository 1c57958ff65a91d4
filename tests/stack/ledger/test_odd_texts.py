"""Texts that PostgreSQL rejects: the fault of the call that brings one, and of no other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import grpc
import msgspec
import pytest

from gateway.accounting.ledger.database import LedgerUnavailable, Tx, ValueRefused
from gateway.config.gateway import KeyConfig, KeyRole
from gateway.config.ledger import LedgerConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.config.values import SecretConfig
from moegate.v1 import admin_pb2, admin_pb2_grpc, batch_pb2, batch_pb2_grpc
from tests import serving
from tests.counting import Counting, counting
from tests.http_serving import BEARER, with_http
from tests.ledgers import settled
from tests.serving import METADATA, until
from tests.stack.ledger.postgres import Postgres

ADMIN = (("authorization", "Bearer mg-admin"),)
IDS = ("\0", "a\0b")


async def refused(call: Callable[[], Awaitable[object]]) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call()
    assert isinstance(caught.value, grpc.aio.AioRpcError)
    return caught.value.code()


async def test_an_id_with_nul_is_no_failure_of_the_ledger(
    tmp_path: Path, postgres: Postgres
) -> None:
    (tmp_path / "dsn").write_text(await postgres.new_database("odd"))
    admin = KeyConfig(id="admin", sha256=key_sha256("mg-admin"), role=KeyRole.TENANT_ADMIN)
    upstream = Counting()
    async with counting(upstream):
        settings = with_http(serving.config(pools=[serving.pool([upstream.url])], keys=[admin]))
        ledger = LedgerConfig(postgres=SecretConfig(file="dsn"), gateway="odd")
        settings = msgspec.structs.replace(settings, ledger=ledger)
        async with serving.serving_in(tmp_path, settings) as served:
            keys = admin_pb2_grpc.AdminServiceStub(served.channel)
            jobs = batch_pb2_grpc.BatchServiceStub(served.channel)
            for text in IDS:
                update = admin_pb2.UpdateKeyRequest(key_id=text)
                rotate = admin_pb2.RotateKeyRequest(key_id=text)
                revoke = admin_pb2.RevokeKeyRequest(key_id=text)
                codes = [
                    await refused(lambda: keys.UpdateKey(update, metadata=ADMIN)),  # noqa: B023
                    await refused(lambda: keys.RotateKey(rotate, metadata=ADMIN)),  # noqa: B023
                    await refused(lambda: keys.RevokeKey(revoke, metadata=ADMIN)),  # noqa: B023
                ]
                assert set(codes) == {grpc.StatusCode.INVALID_ARGUMENT}
                job = batch_pb2.GetBatchRequest(batch_id=text)
                found = await refused(lambda: jobs.GetBatch(job, metadata=METADATA))  # noqa: B023
                assert found is grpc.StatusCode.NOT_FOUND
            http = served.gateway.front.http
            assert http is not None
            async with aiohttp.ClientSession(f"http://{http.address}", headers=BEARER) as session:
                for method, path, status in (
                    ("GET", "/v1/files/%00", 404),
                    ("DELETE", "/v1/files/%00", 404),
                    ("GET", "/v1/batches/%00", 404),
                    ("POST", "/v1/batches/%00/cancel", 404),
                    ("GET", "/v1/batches?after=%00", 404),
                    ("GET", "/v1/files?purpose=%00", 400),
                ):
                    async with session.request(method, path) as response:
                        assert (path, response.status) == (path, status)


async def test_a_transaction_whose_value_is_rejected_stops_no_other(
    tmp_path: Path, postgres: Postgres
) -> None:
    (tmp_path / "dsn").write_text(await postgres.new_database("values"))
    settings = serving.config(pools=[serving.pool(["http://127.0.0.1:9"])])
    ledger = LedgerConfig(postgres=SecretConfig(file="dsn"), gateway="values")
    settings = msgspec.structs.replace(settings, ledger=ledger)
    async with serving.serving_in(tmp_path, settings, ready=False) as served:
        accounting = served.gateway.accounting

        async def odd(tx: Tx, value: object) -> None:
            await tx.rows("SELECT seq FROM attempt WHERE request_id = $1", value)

        for value in ("a\0b", 5, b"bytes"):
            with pytest.raises(ValueRefused):
                await accounting.write(lambda tx: odd(tx, value))  # noqa: B023
            assert accounting.ledger.status.error == ""
        accounting.record_attempt(settled("key/1"))
        await until(lambda: accounting.ledger.status.backlog_rows == 0)
        assert issubclass(ValueRefused, LedgerUnavailable), "callers need to know one of them"
