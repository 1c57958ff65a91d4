"""GetStatement and `moegate usage bill` on a running gateway: the bill closes, over a restart too,
and each role sees its own."""

from __future__ import annotations

import asyncio
import csv
import json
import time
from pathlib import Path

import grpc
import msgspec
import pytest

from gateway.config.gateway import GatewayConfig, KeyConfig, KeyRole
from gateway.config.resolve.api_keys import key_sha256
from moegate.cli.main import main
from moegate.v1 import usage_pb2, usage_pb2_grpc
from tests import serving
from tests.integration.money.test_pool_cost import OPERATOR, OPERATOR_KEY, settings
from tests.scripted import GOOD, Scripted, listening
from tests.serving import METADATA, Serving, chat_request, read_stream

ADMIN = (("authorization", "Bearer mg-admin"),)
HOUR_S = 3600


def config(url: str, folder: Path) -> GatewayConfig:
    found = settings(url, folder)
    admin = KeyConfig(id="admin", sha256=key_sha256("mg-admin"), role=KeyRole.TENANT_ADMIN)
    (tenant, *others) = found.tenants
    tenant = msgspec.structs.replace(tenant, keys=(*tenant.keys, admin))
    return msgspec.structs.replace(found, tenants=(tenant, *others))


async def ask(
    served: Serving, metadata: tuple[tuple[str, str], ...] = OPERATOR, **fields: object
) -> usage_pb2.GetStatementResponse:
    stub = usage_pb2_grpc.UsageServiceStub(served.channel)
    request = usage_pb2.GetStatementRequest(**fields)  # type: ignore[arg-type]
    answer = await stub.GetStatement(request, metadata=metadata)
    assert isinstance(answer, usage_pb2.GetStatementResponse)
    return answer


def check_closes(statement: usage_pb2.Statement) -> None:
    used = sum(line.own_nano_usd + line.remote_nano_usd for line in statement.lines)
    rest = (
        statement.idle_nano_usd
        + statement.unavailable_nano_usd
        + statement.external_nano_usd
        + statement.unobserved_nano_usd
        + statement.unsettled_nano_usd
    )
    assert used + rest == statement.gpu_bill_nano_usd + statement.remote_bill_nano_usd
    shared = sum(line.shared_nano_usd for line in statement.lines)
    assert shared + statement.unshared_nano_usd == rest
    for pool in statement.pools:
        assert sum(account.nano_usd for account in pool.accounts) == pool.bill_nano_usd


async def test_the_bill_closes_over_a_restart_and_each_role_sees_its_own(tmp_path: Path) -> None:
    script = Scripted(GOOD, pause_s=0.05)
    async with listening(script):
        settled = config(script.url, tmp_path)
        metered = 0
        for _ in range(2):
            async with serving.serving_in(tmp_path, settled) as served:
                for _ in range(2):
                    seen = await read_stream(
                        served.stub.Generate(chat_request(), metadata=METADATA)
                    )
                    assert seen.done is not None
                    metered += seen.done.cost.metered_nano_usd
        async with serving.serving_in(tmp_path, settled) as served:
            (statement,) = (await ask(served)).statements
            check_closes(statement)
            (line,) = statement.lines
            assert line.group == ["team"]
            assert line.own_nano_usd == metered > 0
            assert statement.unsettled_nano_usd == 0
            assert statement.unobserved_nano_usd > 0
            assert statement.idle_nano_usd > 0
            assert [pool.pool for pool in statement.pools] == ["own"]
            for rule in usage_pb2.SharingRule.values():
                weights = {"team": 1} if rule == usage_pb2.SHARING_RULE_WEIGHT else {}
                (shared,) = (await ask(served, sharing=rule, weights=weights)).statements
                check_closes(shared)
                if rule:
                    assert shared.unshared_nano_usd == 0
            (own,) = (await ask(served, ADMIN, sharing=usage_pb2.SHARING_RULE_USE)).statements
            assert not own.HasField("gpu_bill_nano_usd")
            assert not own.pools
            (line,) = own.lines
            assert line.shared_nano_usd > 0
            parts = (await ask(served, period=usage_pb2.SPEND_GROUP_HOUR)).statements
            assert sum(part.gpu_bill_nano_usd for part in parts) >= statement.gpu_bill_nano_usd


async def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    script = Scripted(GOOD)
    async with (
        listening(script),
        serving.serving_in(tmp_path, config(script.url, tmp_path)) as served,
    ):
        request = usage_pb2.GetStatementRequest()
        request.to.FromSeconds(int(time.time()) // HOUR_S * HOUR_S - 1)
        with pytest.raises(grpc.aio.AioRpcError) as denied:
            await ask(served, METADATA)
        assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED
        for fields, metadata, words in (
            ({"to": request.to}, OPERATOR, "to: not a whole hour"),
            ({"group_by": [usage_pb2.SPEND_GROUP_DAY]}, OPERATOR, "give it as `period`"),
            ({"period": usage_pb2.SPEND_GROUP_KEY}, OPERATOR, "give hour, day"),
            ({"sharing": usage_pb2.SHARING_RULE_WEIGHT}, OPERATOR, "give one group, and weights"),
            ({"group_by": [usage_pb2.SPEND_GROUP_MODEL]}, ADMIN, "group by tenant, too"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as invalid:
                await ask(served, metadata, **fields)
            assert invalid.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert words in str(invalid.value.details())


async def test_the_command_prints_and_writes_the_bill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Scripted(GOOD)
    async with (
        listening(script),
        serving.serving_in(tmp_path, config(script.url, tmp_path)) as served,
    ):
        await read_stream(served.stub.Generate(chat_request(), metadata=METADATA))
        common = ["usage", "bill", "--target", served.gateway.address, "--key", OPERATOR_KEY]
        table, picture = tmp_path / "bill.csv", tmp_path / "bill.png"
        files = ["--out", str(table), "--png", str(picture), "--in", "this-month"]
        assert await asyncio.to_thread(main, [*common, "--share", "row", *files]) == 0
        out = capsys.readouterr().out
        assert await asyncio.to_thread(main, [*common, "--per", "day", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
    for words in ("__idle__", "__unallocated__", "team", "both bills", "unsettled", "cost $"):
        assert words in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["tenant"] for row in rows] == ["team", "__idle__", "__unallocated__"]
    assert all(int(row["cost_nano_usd"]) >= 0 for row in rows)
    (part,) = told["statements"]
    assert int(part["gpu_bill_nano_usd"]) > 0
