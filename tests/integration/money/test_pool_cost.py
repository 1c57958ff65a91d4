"""GetPoolCost and `moegate cost` on a running gateway: exact sums, restarts, who may ask."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import msgspec
import pytest
from google.protobuf.duration_pb2 import Duration

from gateway.config.engines import DisaggregatedNodesConfig
from gateway.config.gateway import GatewayConfig, KeyConfig, KeyRole
from gateway.config.prices import MeteringConfig, PricesConfig
from gateway.config.resolve.api_keys import key_sha256
from moegate.cli.main import main
from moegate.v1 import usage_pb2, usage_pb2_grpc
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests import serving
from tests.scripted import GOOD, Scripted, listening
from tests.serving import METADATA, Serving, chat_request, read_stream

OPERATOR_KEY = "mg-operator-key"
OPERATOR = (("authorization", f"Bearer {OPERATOR_KEY}"),)
RATE = 2_500_000_000
"""Of the pool, nano-USD per hour."""
CATALOG = """
remote_tokens:
  - id: far-2026
    provider: far
    model: moe
    usd_per_mtok: {input: "0.50", output: "2.00"}
    valid_from: 2026-01-01
    source: test
    checked_at: 2026-01-01
showback:
  - id: own-2026
    pool: own
    usd_per_mtok: {input: "0.10", output: "0.40"}
    valid_from: 2026-01-01
    source: test
    checked_at: 2026-01-01
"""


def settings(url: str, folder: Path, *, disaggregated: bool = False) -> GatewayConfig:
    (folder / "prices.yaml").write_text(CATALOG)
    pool = serving.pool([url])
    if disaggregated:
        nodes = DisaggregatedNodesConfig(prefill=1, decode=3)
        pool = msgspec.structs.replace(pool, disaggregated=nodes)
    remote = msgspec.structs.replace(serving.remote(url), price_row="far/moe")
    operator = KeyConfig(id="ops", sha256=key_sha256(OPERATOR_KEY), role=KeyRole.OPERATOR)
    return msgspec.structs.replace(
        serving.config(pools=[pool], remotes=[remote], keys=[operator]),
        prices=PricesConfig(catalog=str(folder / "prices.yaml")),
        metering=MeteringConfig(state=str(folder / "meter.json")),
    )


@contextlib.asynccontextmanager
async def metered(
    script: Scripted, folder: Path, *, disaggregated: bool = False
) -> AsyncIterator[Serving]:
    async with (
        listening(script),
        serving.serving(settings(script.url, folder, disaggregated=disaggregated)) as served,
    ):
        yield served


async def ask(served: Serving, **fields: object) -> usage_pb2.GetPoolCostResponse:
    stub = usage_pb2_grpc.UsageServiceStub(served.channel)
    request = usage_pb2.GetPoolCostRequest(**{"pool": "own", **fields})  # type: ignore[arg-type]
    answer = await stub.GetPoolCost(request, metadata=OPERATOR)
    assert isinstance(answer, usage_pb2.GetPoolCostResponse)
    return answer


def check_sums(answer: usage_pb2.GetPoolCostResponse) -> dict[str, int]:
    """The accounts, after they were compared with the bill and the bill with time x price."""
    accounts = {account.name: account.nano_usd for account in answer.accounts}
    assert sum(accounts.values()) == answer.bill_nano_usd
    paid = answer.covered.ToNanoseconds() * RATE
    assert abs(answer.bill_nano_usd - paid // 3_600_000_000_000) <= 1
    return accounts


async def test_the_accounts_sum_to_the_bill_and_answers_carry_their_share(tmp_path: Path) -> None:
    async with metered(Scripted(GOOD, pause_s=0.05), tmp_path) as served:
        costs = []
        for _ in range(3):
            seen = await read_stream(served.stub.Generate(chat_request(), metadata=METADATA))
            assert seen.done is not None
            costs.append(seen.done.cost)
        answer = await ask(served)
    accounts = check_sums(answer)
    assert accounts["requests"] == sum(cost.metered_nano_usd for cost in costs) > 0
    assert accounts["idle"] > 0
    # 5 prompt and 2 output tokens at the frozen showback rate, and at the remote's price.
    assert [cost.charged_nano_usd for cost in costs] == [500 + 800] * 3
    assert [cost.cheapest_remote_nano_usd for cost in costs] == [2500 + 4000] * 3
    assert {cost.price_row_id for cost in costs} == {"own-2026"}
    assert answer.charged_nano_usd == 3 * 1300
    (remote,) = answer.remotes
    assert (remote.price_row_id, remote.nano_usd) == ("far-2026", 3 * 6500)
    tokens = (answer.uncached_input_tokens, answer.cached_input_tokens, answer.output_tokens)
    assert tokens == (15, 0, 6)
    rates = {rate.token_kind: rate for rate in answer.rates}
    by_kind = [
        count * rates[kind].allocated_nano_usd_per_mtok
        for kind, count in (("uncached_input", 15), ("output", 6))
    ]
    # The bill is told in whole nano-USD, and each rate was rounded down once.
    assert sum(by_kind) / 1e6 == pytest.approx(answer.bill_nano_usd, abs=2)
    assert 0.0 < answer.utilisation < 1.0
    assert not rates["cached_input"].HasField("allocated_nano_usd_per_mtok")


async def test_time_without_the_gateway_is_unobserved_and_in_the_bill(tmp_path: Path) -> None:
    script = Scripted(GOOD)
    async with listening(script):
        config = settings(script.url, tmp_path)
        async with serving.serving(config) as served:
            await read_stream(served.stub.Generate(chat_request(), metadata=METADATA))
            before = check_sums(await ask(served))
        await asyncio.sleep(0.3)
        async with serving.serving(config) as served:
            accounts = check_sums(await ask(served))
    assert before["unobserved"] == 0
    assert accounts["unobserved"] >= RATE * 0.25 / 3600


async def test_a_broken_state_file_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "meter.json").write_text("{")
    async with metered(Scripted(GOOD), tmp_path) as served:
        check_sums(await ask(served))
    assert json.loads((tmp_path / "meter.json").read_text())["version"] == 1


async def test_a_disaggregated_pool_shows_the_load_of_its_stages(tmp_path: Path) -> None:
    async with metered(Scripted(GOOD, pause_s=0.05), tmp_path, disaggregated=True) as served:
        await read_stream(served.stub.Generate(chat_request(), metadata=METADATA))
        answer = await ask(served)
    check_sums(answer)
    assert answer.HasField("prefill_utilisation")
    rates = {rate.token_kind: rate.allocated_nano_usd_per_mtok for rate in answer.rates}
    # Node share: a quarter of the bill over the prompt, the rest over the output.
    assert rates["uncached_input"] * 5 / 1e6 == pytest.approx(answer.bill_nano_usd / 4, rel=1e-4)
    assert rates["output"] * 2 / 1e6 == pytest.approx(answer.bill_nano_usd * 3 / 4, rel=1e-4)


async def test_the_meter_shares_by_the_model_that_the_scheduler_fits(tmp_path: Path) -> None:
    async with metered(Scripted(GOOD), tmp_path) as served:
        metering = served.gateway.parts.metering
        group = metering.group("own/a")
        assert group is not None
        group.set_model(replace(QWEN3_30B_H100, base_s=1.0), metering.now_ns)
        metering.update_step_models()
        fitted = served.gateway.scheduler.core.step_model("own/a")
        assert group.model == fitted != replace(QWEN3_30B_H100, base_s=1.0)
        check_sums(await ask(served))


async def test_only_an_operator_may_ask_and_for_what_there_is(tmp_path: Path) -> None:
    async with metered(Scripted(GOOD), tmp_path) as served:
        stub = usage_pb2_grpc.UsageServiceStub(served.channel)
        with pytest.raises(grpc.aio.AioRpcError) as denied:
            await stub.GetPoolCost(usage_pb2.GetPoolCostRequest(pool="own"), metadata=METADATA)
        assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED
        for fields in ({"pool": "none"}, {"window": Duration(seconds=90_000)}):
            with pytest.raises(grpc.aio.AioRpcError) as invalid:
                await ask(served, **fields)
            assert invalid.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_command_prints_a_table_json_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with metered(Scripted(GOOD), tmp_path) as served:
        await read_stream(served.stub.Generate(chat_request(), metadata=METADATA))
        png = tmp_path / "cost.png"
        common = ["cost", "own", "--target", served.gateway.address, "--key", OPERATOR_KEY]
        assert await asyncio.to_thread(main, [*common, "--png", str(png)]) == 0
        table = capsys.readouterr().out
        assert await asyncio.to_thread(main, [*common, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert await asyncio.to_thread(main, ["cost", "none", *common[2:]]) != 0
    assert png.read_bytes().startswith(b"\x89PNG")
    for words in ("allocated", "saturated floor", "unobserved", "break-even", "far-2026"):
        assert words in table
    assert " s since its meter began, of the 60 min asked for: utilisation" in table
    assert sum(int(account["nano_usd"]) for account in told["accounts"]) == int(
        told["bill_nano_usd"]
    )
