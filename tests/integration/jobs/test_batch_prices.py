"""What batch work is charged, where, and how reports show it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from gateway.accounting.ledger.database import Tx
from gateway.batch import estimates
from gateway.config.gateway import GatewayConfig
from gateway.config.problems import ConfigError
from moegate.v1 import (
    batch_pb2,
    batch_pb2_grpc,
    generation_pb2,
    inference_pb2,
    usage_pb2,
    usage_pb2_grpc,
)
from tests import serving
from tests.counting import Counting, counting
from tests.gateway.batch.rig import line
from tests.ledgers import FileReader
from tests.scripted import GOOD, Scripted, listening
from tests.serving import METADATA, MODEL, READY_S, Serving, chat_request

OWN = """
showback:
  - id: own
    pool: own
    usd_per_mtok: {input: "1", output: "10"}
    batch_usd_per_mtok: {input: "0.5", output: "5"}
    valid_from: 2026-01-01
    source: test
    checked_at: 2026-01-01
"""
FAR = """
remote_tokens:
  - id: far
    provider: acme
    model: moe
    usd_per_mtok: {input: "2", output: "20"}
    batch_usd_per_mtok: {input: "1", output: "10"}
    valid_from: 2026-01-01
    source: test
    checked_at: 2026-01-01
"""


TEXT = "hello"


def priced(settings: GatewayConfig, folder: Path, catalog: str) -> GatewayConfig:
    (folder / "prices.yaml").write_text(catalog)
    return structs.replace(settings, prices=structs.replace(settings.prices, catalog="prices.yaml"))


async def run_job(
    gateway: Serving, *messages: batch_pb2.SubmitBatchRequest
) -> tuple[batch_pb2.Batch, list[batch_pb2.StreamBatchResultsResponse]]:
    stub = batch_pb2_grpc.BatchServiceStub(gateway.channel)
    submitted = await stub.SubmitBatch(iter(messages), metadata=METADATA)
    asked = batch_pb2.StreamBatchResultsRequest(batch_id=submitted.batch.batch_id, in_order=True)
    async with asyncio.timeout(READY_S):
        results = [each async for each in stub.StreamBatchResults(asked, metadata=METADATA)]
    state = batch_pb2.GetBatchRequest(batch_id=submitted.batch.batch_id)
    return (await stub.GetBatch(state, metadata=METADATA)).batch, results


def item(name: str, **fields: Any) -> batch_pb2.SubmitBatchRequest:
    request = chat_request(TEXT, max_output_tokens=4, **fields)
    return batch_pb2.SubmitBatchRequest(item_id=name, request=request)


async def generated(gateway: Serving, **fields: Any) -> inference_pb2.GenerateOnceResponse:
    request = inference_pb2.GenerateOnceRequest(request=chat_request(max_output_tokens=4, **fields))
    return await gateway.stub.GenerateOnce(request, metadata=METADATA)


def charge_of(response: Any) -> int:
    return int(response.done.cost.charged_nano_usd)


async def attempts(folder: Path) -> list[tuple[str, str, str, int]]:
    """Class, price row, labels and charge of each row of the ledger."""
    reader = FileReader(folder / "moegate-ledger.sqlite3")

    async def query(tx: Tx) -> list[tuple[str, str, str, int]]:
        found = await tx.rows(
            "SELECT slo_class, price_row_id, labels, charged_nano_usd FROM attempt"
            " ORDER BY charged_nano_usd, slo_class"
        )
        return [(row[0], row[1], row[2], row[3]) for row in found]

    return await reader.read(query)


async def spend_by(gateway: Serving, group: Any, label: str = "") -> dict[str, int]:
    stub = usage_pb2_grpc.UsageServiceStub(gateway.channel)
    request = usage_pb2.GetSpendRequest(group_by=[group], label=label)
    rows = (await stub.GetSpend(request, metadata=METADATA)).rows
    return {row.group[0]: row.charged_nano_usd for row in rows}


async def test_batch_work_has_its_own_prices_in_every_report(tmp_path: Path) -> None:
    upstream = Counting()
    async with counting(upstream):
        settings = serving.config(pools=[serving.pool([upstream.url])])
        async with serving.serving_in(tmp_path, priced(settings, tmp_path, OWN)) as gateway:
            full = await generated(gateway)
            alone = await generated(gateway, slo=generation_pb2.Slo(slo_class="SLO_CLASS_BATCH"))
            first = item("a", labels={"team": "search"})
            first.labels["team"], first.labels["app"] = "chat", "night"
            batch, results = await run_job(gateway, first, item("b"))
            by_job = await spend_by(gateway, usage_pb2.SPEND_GROUP_LABEL, "batch")
            by_team = await spend_by(gateway, usage_pb2.SPEND_GROUP_LABEL, "team")
            by_app = await spend_by(gateway, usage_pb2.SPEND_GROUP_LABEL, "app")
            by_tenant = await spend_by(gateway, usage_pb2.SPEND_GROUP_TENANT)
    full_nano, batch_nano = 20 * 1_000 + 4 * 10_000, 20 * 500 + 4 * 5_000
    assert charge_of(full) == full_nano
    assert charge_of(alone) == batch_nano
    assert [charge_of(each.response) for each in results] == [batch_nano, batch_nano]
    assert batch.charged_nano_usd == 2 * batch_nano
    assert by_job == {batch.batch_id: 2 * batch_nano}
    assert by_team == {"search": batch_nano, "chat": batch_nano}
    assert by_app == {"night": 2 * batch_nano}
    assert by_tenant == {"team": full_nano + 3 * batch_nano}
    rows = [each[:2] for each in await attempts(tmp_path)]
    assert rows == [("batch", "own@batch")] * 3 + [("interactive", "own")]


async def test_a_late_item_is_charged_as_batch_work_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "LATE_SHARE", 1.0)
    upstream = Counting()
    async with counting(upstream):
        settings = serving.config(pools=[serving.pool([upstream.url])])
        async with serving.serving_in(tmp_path, priced(settings, tmp_path, OWN)) as gateway:
            await run_job(gateway, item("a"))
    assert [each[:2] for each in await attempts(tmp_path)] == [("standard", "own@batch")]


async def test_a_line_brings_labels(tmp_path: Path) -> None:
    upstream = Counting()
    async with counting(upstream):
        settings = serving.config(pools=[serving.pool([upstream.url])])
        async with serving.serving_in(tmp_path, settings) as gateway:
            marked = {"team": "a", "No label": "x", "long": "y" * 65}
            odd = {"team": 7}
            content = b"\n".join(
                line(name, model=MODEL, body={**chat_body(), "metadata": metadata})
                for name, metadata in (("one", marked), ("two", odd))
            )
            message = batch_pb2.SubmitBatchRequest(
                openai_lines=content, endpoint="/v1/chat/completions", labels={"app": "night"}
            )
            batch, results = await run_job(gateway, message)
    assert (batch.succeeded, len(results)) == (2, 2)
    found = sorted(json.loads(labels).items() for _, _, labels, _ in await attempts(tmp_path))
    mine = ("batch", batch.batch_id)
    assert [sorted(each) for each in found] == [
        [("app", "night"), mine],
        [("app", "night"), mine, ("team", "a")],
    ]


def chat_body() -> dict[str, object]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


async def test_a_remote_is_asked_for_its_batch_price_and_charged_by_it(tmp_path: Path) -> None:
    script = Scripted(frames=GOOD)
    async with listening(script):
        far = structs.replace(
            serving.remote(script.url),
            price_row="acme/moe",
            batch_body_json='{"service_tier": "flex"}',
        )
        settings = priced(serving.config(remotes=[far]), tmp_path, FAR)
        async with serving.serving_in(tmp_path, settings) as gateway:
            full = await generated(gateway)
            assert "service_tier" not in script.body
            batch, [result] = await run_job(gateway, item("a"))
            assert script.body["service_tier"] == "flex"
    assert charge_of(full) == 5 * 2_000 + 2 * 20_000
    assert charge_of(result.response) == batch.charged_nano_usd == 5 * 1_000 + 2 * 10_000
    assert [row_id for _, row_id, *_ in await attempts(tmp_path)] == ["far@batch", "far"]


async def test_a_tier_without_a_price_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    far = structs.replace(
        serving.remote("http://127.0.0.1:1"),
        price_row="acme/moe",
        batch_body_json='{"service_tier": "flex"}',
    )
    catalog = FAR.replace('    batch_usd_per_mtok: {input: "1", output: "10"}\n', "")
    settings = priced(serving.config(remotes=[far]), tmp_path, catalog)
    with pytest.raises(ConfigError, match="far of acme/moe has no batch_usd_per_mtok"):
        async with serving.serving_in(tmp_path, settings, ready=False):
            pass


async def test_a_job_is_quoted_at_own_servers_and_at_a_remote(tmp_path: Path) -> None:
    upstream = Counting()
    async with counting(upstream):
        far = structs.replace(serving.remote("http://127.0.0.1:1"), price_row="acme/moe")
        settings = serving.config(pools=[serving.pool([upstream.url])], remotes=[far])
        async with serving.serving_in(
            tmp_path, priced(settings, tmp_path, OWN + FAR), ready=False
        ) as gateway:
            await serving.until_serving(gateway.gateway, 1)
            stub = batch_pb2_grpc.BatchServiceStub(gateway.channel)
            by_messages = await stub.QuoteBatch(
                iter(batch_pb2.QuoteBatchRequest(batch=item(name)) for name in "abc"),
                metadata=METADATA,
            )
            content = b"\n".join(
                line(name, model=MODEL, body={**chat_body(), "max_tokens": 4}) for name in "ab"
            )
            unknown = line("c", model="nobody")
            by_lines = await stub.QuoteBatch(
                iter(
                    [
                        batch_pb2.QuoteBatchRequest(
                            batch=batch_pb2.SubmitBatchRequest(
                                openai_lines=content, endpoint="/v1/chat/completions"
                            )
                        )
                    ]
                ),
                metadata=METADATA,
            )
            refused = await stub.QuoteBatch(
                iter(
                    [
                        batch_pb2.QuoteBatchRequest(
                            batch=batch_pb2.SubmitBatchRequest(
                                openai_lines=unknown, endpoint="/v1/chat/completions"
                            )
                        )
                    ]
                ),
                metadata=METADATA,
            )
            listed = await stub.ListBatches(batch_pb2.ListBatchesRequest(), metadata=METADATA)
    for quote, count in ((by_messages, 3), (by_lines, 2)):
        assert (quote.requests, quote.sampled, quote.refused) == (count, count, 0)
        # Four times the price of batch work, for the same tokens.
        [remote] = quote.remotes
        assert (remote.remote, remote.nano_usd) == ("far", 4 * quote.own_nano_usd)
        assert quote.own_nano_usd == quote.prompt_tokens * 500 + quote.output_tokens * 5_000
        assert quote.output_tokens <= 4 * count
        assert not quote.HasField("end")  # no minute has been measured yet
    assert (refused.refused, refused.HasField("own_nano_usd")) == (1, False)
    assert "'nobody' is not served here" in refused.refusal
    assert upstream.requests == 0
    assert not listed.batches
