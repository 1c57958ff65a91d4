"""What a finance person asks from the command line, on a gateway with three weeks of rows."""

from __future__ import annotations

import asyncio
import csv
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from pyarrow import parquet

from gateway.config.ledger import BudgetConfig
from moegate.cli.main import main
from moegate.cli.reports.focus import COLUMNS
from moegate.v1 import usage_pb2, usage_pb2_grpc
from scheduler.budgets.budget_window import Period
from scheduler.contract import AttemptOutcome, PlacementKind, Usage
from tests import serving
from tests.integration.money.test_pool_cost import OPERATOR_KEY
from tests.integration.money.test_statement import config
from tests.ledgers import settled
from tests.scripted import GOOD, Scripted, listening
from tests.serving import METADATA, Serving

DAY_S = 86_400
DAYS = 20
replace = msgspec.structs.replace
Command = Callable[..., Coroutine[Any, Any, str]]


def fill(served: Serving) -> None:
    """Each day one request of one dollar and a remote one of two, which failed once before."""
    take = served.gateway.accounting.record_attempt
    now_s = time.time()
    usage = Usage(prompt_tokens=1000, completion_tokens=500, cached_tokens=0)
    for day in range(DAYS):
        ended_s = now_s - 60.0 - day * DAY_S
        own = settled(f"test/own-{day}", charged=10**9, key_id="test", ended_unix_s=ended_s)
        take(replace(own, usage=usage, placement="own/a", pool="own"))
        away = replace(
            settled(f"test/away-{day}", charged=2 * 10**9, key_id="test", ended_unix_s=ended_s),
            usage=usage,
            placement="far",
            pool="",
            kind=PlacementKind.REMOTE,
            cheapest_remote_nano_usd=10**9,
        )
        take(replace(away, charged_nano_usd=0, outcome=AttemptOutcome.RETRYABLE, final=False))
        take(replace(away, attempt=2))


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Serving]:
    script = Scripted(GOOD)
    budgets = (
        BudgetConfig(tenant="team", period=Period.MONTH, cap_usd="100000"),
        BudgetConfig(tenant="team", key="test", period=Period.DAY, cap_usd="0.50", hard=False),
    )
    async with listening(script):
        settings = msgspec.structs.replace(config(script.url, tmp_path), budgets=budgets)
        async with serving.serving_in(tmp_path, settings) as running:
            fill(running)
            await running.gateway.accounting.write_rows()
            yield running


@pytest.fixture
def moegate(served: Serving, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `moegate usage` as the operator; returns standard output."""

    async def run(*arguments: str) -> str:
        common = ["--target", served.gateway.address, "--key", OPERATOR_KEY]
        status = await asyncio.to_thread(main, ["usage", *arguments, *common])
        out, err = capsys.readouterr()
        assert status == 0, err
        return out

    return run


async def test_the_outlook_forecasts_the_month_and_budgets(
    served: Serving, moegate: Command
) -> None:
    stub = usage_pb2_grpc.UsageServiceStub(served.channel)
    answer = await stub.GetOutlook(
        usage_pb2.GetOutlookRequest(), metadata=(("authorization", f"Bearer {OPERATOR_KEY}"),)
    )
    assert answer.HasField("forecast_charged_nano_usd")
    assert answer.forecast_charged_nano_usd >= answer.month_to_date.charged_nano_usd
    months = answer.month_to_date.charged_nano_usd + answer.last_month.charged_nano_usd
    assert months == DAYS * 3 * 10**9
    month, day = sorted(answer.budgets, key=lambda budget: budget.period, reverse=True)
    assert not month.HasField("reached_at")
    assert month.forecast_nano_usd >= month.spent_nano_usd
    assert (day.key_id, day.cap_nano_usd, day.hard) == ("test", 500_000_000, False)
    own = await stub.GetOutlook(usage_pb2.GetOutlookRequest(), metadata=METADATA)
    assert own.month_to_date.charged_nano_usd == answer.month_to_date.charged_nano_usd
    out = await moegate("outlook")
    for words in ("so far", "last, to this day", "forecast, whole", "team, test, a day, soft"):
        assert words in out


async def test_requests_are_listed_with_all_their_attempts(
    moegate: Command, tmp_path: Path
) -> None:
    out = await moegate("requests", "--since", "30d", "--limit", "2", "--json")
    first, second = json.loads(out)
    assert {first["charged_nano_usd"], second["charged_nano_usd"]} == {2 * 10**9}
    assert (first["attempts"], first["outcome"], first["placements"]) == (2, "ok", "far")
    assert (first["metered_nano_usd"], first["prompt_tokens"]) == (8 * 10**9, 1000)
    out = await moegate("requests", "--since", "30d", "--placement", "own/a", "--limit", "100")
    assert out.count("own-") == DAYS
    assert "away-" not in out
    file = tmp_path / "requests.parquet"
    await moegate("requests", "--in", "2020", "--out", str(file))
    assert parquet.read_table(file).num_rows == 0
    filters = ("--outcome", "retryable", "--min-usd", "1.5", "--order", "ended", "--json")
    assert len(json.loads(await moegate("requests", "--since", "3d", *filters))) == 3
    assert json.loads(await moegate("requests", "--tenant", "other", "--json")) == []


async def test_spend_has_what_is_known_and_leaves_the_rest_blank(
    moegate: Command, tmp_path: Path
) -> None:
    files = [tmp_path / f"spend{ending}" for ending in (".csv", ".json", ".parquet")]
    for file in files:
        out = await moegate("spend", "--by", "kind,placement", "--out", str(file))
    assert "at the cheapest" in out
    with files[0].open(newline="") as opened:
        own, away = csv.DictReader(opened)
    assert own["cheapest_remote_nano_usd"] == "", "no remote was allowed"
    assert int(away["cheapest_remote_nano_usd"]) == 2 * DAYS * 10**9
    assert int(away["wasted_nano_usd"]) == DAYS * 4 * 10**9
    assert json.loads(files[1].read_text())[0]["cheapest_remote_nano_usd"] is None
    column = parquet.read_table(files[2]).column("cheapest_remote_nano_usd").to_pylist()
    assert column == [None, 2 * DAYS * 10**9]
    out = await moegate("models", "--order", "tokens", "--since", "3w")
    assert "rank" in out
    assert "growth" in out


async def test_overflow_and_rates_over_time(moegate: Command, tmp_path: Path) -> None:
    (row,) = json.loads(await moegate("overflow", "--json"))
    assert (row["model"], row["requests"]) == ("moe", DAYS)
    assert row["remote_nano_usd"] == DAYS * 8 * 10**9
    assert row["own_nano_usd"] is None, "the pool has computed no token that the meter saw"
    png = tmp_path / "rates.png"
    rates = json.loads(await moegate("rates", "--per", "hour", "--json", "--png", str(png)))
    assert {rate["pool"] for rate in rates} == {"own"}
    assert all(rate["output_nano_usd_per_mtok"] is None for rate in rates)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "saved by own $" in await moegate("overflow", "--per", "day")


async def test_the_focus_file_sums_to_the_bill(moegate: Command, tmp_path: Path) -> None:
    file = tmp_path / "focus.csv"
    await moegate("focus", str(file), "--since", "25d")
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert list(rows[0]) == list(COLUMNS)
    told = json.loads(await moegate("bill", "--since", "25d", "--json"))
    (part,) = told["statements"]
    billed = round(sum(float(row["BilledCost"]) for row in rows) * 1e9)
    whole = int(part["gpu_bill_nano_usd"]) + int(part["remote_bill_nano_usd"])
    # The pool has gone on between the two calls.
    assert 0 <= whole - billed < 10**9
    charged = sum(float(row["x_ChargedCost"] or 0) for row in rows)
    assert charged == pytest.approx(DAYS * 3)
    usage = [row for row in rows if row["ChargeCategory"] == "Usage"]
    assert {row["ServiceProviderName"] for row in usage} == {"self-hosted", "far"}
    assert all(row["ConsumedUnit"] == "Tokens" for row in usage)
    assert {row["BillingCurrency"] for row in rows} == {"USD"}
    assert {row["ChargeFrequency"] for row in rows} == {"Usage-Based", "Recurring"}


async def test_a_key_sees_its_own_requests(served: Serving) -> None:
    stub = usage_pb2_grpc.UsageServiceStub(served.channel)
    request = usage_pb2.ListRequestsRequest(tenant="other")
    with pytest.raises(grpc.aio.AioRpcError) as denied:
        await stub.ListRequests(request, metadata=METADATA)
    assert denied.value.code() is grpc.StatusCode.PERMISSION_DENIED
    answer = await stub.ListRequests(usage_pb2.ListRequestsRequest(), metadata=METADATA)
    assert {cost.key_id for cost in answer.requests} == {"test"}
