"""Cost on the metrics page by tenant, model, pool and labels: what ledger and pools have."""

from __future__ import annotations

import asyncio
import math
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import grpc
import msgspec
from prometheus_client.parser import text_string_to_metric_families as families

from gateway.config.gateway import GatewayConfig
from gateway.config.telemetry import TelemetryConfig
from moegate.v1 import inference_pb2, usage_pb2, usage_pb2_grpc
from tests import serving
from tests.integration.money.test_pool_cost import OPERATOR, settings
from tests.integration.processes.test_fronts import two_fronts
from tests.scripted import GOOD, Scripted, listening
from tests.serving import METADATA, chat_request, read_stream

TEAMS = ("search", "ads", "search", "")
Row = dict[str, str]


def with_labels(url: str, folder: Path) -> GatewayConfig:
    telemetry = TelemetryConfig(metrics_listen="127.0.0.1:0", metric_labels=("team",))
    return msgspec.structs.replace(settings(url, folder), telemetry=telemetry)


async def rows(address: str | None) -> list[tuple[Row, float]]:
    url = f"http://{address}/metrics"
    page = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    return [
        (sample.labels, sample.value)
        for family in families(page)
        for sample in family.samples
        if sample.name == "moegate_cost_allocation_usd_total"
    ]


async def bill(channel: grpc.aio.Channel) -> usage_pb2.Statement:
    """Closes the books, which books what is idle until now."""
    stub = usage_pb2_grpc.UsageServiceStub(channel)
    by = [usage_pb2.SPEND_GROUP_TENANT]
    answer = await stub.GetStatement(usage_pb2.GetStatementRequest(group_by=by), metadata=OPERATOR)
    (statement,) = answer.statements
    assert isinstance(statement, usage_pb2.Statement)
    return statement


def check(found: Sequence[tuple[Row, float]], statement: usage_pb2.Statement, usd: float) -> None:
    """`usd`: what the clients were told that it cost."""
    teams: dict[str, float] = {}
    for labels, value in found:
        if not labels["moegate_tenant"].startswith("__"):
            assert labels["moegate_pool"] == "own"
            assert labels["moegate_route"] == "local"
            assert labels["gen_ai_request_model"] == serving.MODEL
            teams[labels.get("label_team", "")] = value
    assert teams.keys() == set(TEAMS)
    (line,) = statement.lines
    assert math.isclose(sum(teams.values()), usd, rel_tol=1e-9)
    assert math.isclose(sum(teams.values()), line.own_nano_usd / 1e9, rel_tol=1e-9)
    [idle] = [(labels, value) for labels, value in found if labels["label_team"] == "__idle__"]
    assert idle[0]["moegate_tenant"] == "__idle__"
    assert idle[1] >= statement.idle_nano_usd / 1e9 > 0


async def test_a_gateway_tells_cost_by_label_and_idle_beside_it(tmp_path: Path) -> None:
    script = Scripted(GOOD, pause_s=0.01)
    async with (
        listening(script),
        serving.serving_in(tmp_path, with_labels(script.url, tmp_path)) as served,
    ):
        nano_usd = 0
        for team in TEAMS:
            labels = {"team": team, "trace": "x"} if team else {}
            request = chat_request(labels=labels)
            seen = await read_stream(served.stub.Generate(request, metadata=METADATA))
            assert seen.done is not None
            nano_usd += seen.done.cost.metered_nano_usd
        statement = await bill(served.channel)
        check(await rows(served.gateway.metrics_address), statement, nano_usd / 1e9)


async def test_several_fronts_count_once(tmp_path: Path) -> None:
    script = Scripted(GOOD, pause_s=0.01)
    async with (
        listening(script),
        two_fronts(with_labels(script.url, tmp_path), tmp_path) as two,
    ):
        for stub, team in zip(two.stubs, TEAMS * (len(two.stubs) // len(TEAMS)), strict=True):
            labels = {"team": team} if team else {}
            await stub.GenerateOnce(
                inference_pb2.GenerateOnceRequest(request=chat_request(labels=labels)),
                metadata=METADATA,
            )
        statement = await bill(two.channels[0])
        nano_usd = sum(account.metered_nano_usd or 0 for account in two.accounts)
        check(await rows(two.gateway.metrics_address), statement, nano_usd / 1e9)
