"""Pages of money on a running gateway with three weeks of rows: figures, roles, files, forms."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from gateway.config.ledger import BudgetConfig
from moegate.v1 import admin_pb2, admin_pb2_grpc, usage_pb2, usage_pb2_grpc
from scheduler.budgets.budget_window import Period
from tests import serving
from tests.console_serving import Reader, ServingConsole, Shown, with_console
from tests.integration.money.test_money_reports import DAYS, fill
from tests.integration.money.test_pool_cost import OPERATOR, OPERATOR_KEY
from tests.integration.money.test_statement import config
from tests.scripted import GOOD, Scripted, listening
from tests.serving import KEY

ADMIN_KEY = "mg-admin"
READ_BY_ALL = ("/money/month", "/money/spend", "/money/models")
READ_BY_ADMINS = ("/money/statement", "/budgets")
READ_BY_OPERATORS = ("/money/now", "/money/rates", "/prices")
BUDGETS = (
    BudgetConfig(tenant="team", period=Period.MONTH, cap_usd="100000"),
    BudgetConfig(tenant="team", key="test", period=Period.DAY, cap_usd="0.50", hard=False),
)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[ServingConsole]:
    script = Scripted(GOOD)
    async with listening(script):
        settings = msgspec.structs.replace(config(script.url, tmp_path), budgets=BUDGETS)
        async with serving.serving_in(tmp_path, with_console(settings)) as running:
            fill(running)
            await running.gateway.accounting.write_rows()
            yield ServingConsole(running, f"http://{running.gateway.front.console_address}")


@contextlib.asynccontextmanager
async def operator(served: ServingConsole) -> AsyncIterator[Reader]:
    async with served.reader(OPERATOR_KEY) as reader:
        yield reader


async def page(reader: Reader, path: str) -> Shown:
    shown = await reader.get(path)
    assert shown.status == 200, shown.words
    assert "style=" not in shown.text
    return shown


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize(
    ("key", "sees", "denied"),
    [
        (OPERATOR_KEY, (*READ_BY_ALL, *READ_BY_ADMINS, *READ_BY_OPERATORS), ()),
        (ADMIN_KEY, (*READ_BY_ALL, *READ_BY_ADMINS), READ_BY_OPERATORS),
        (KEY, READ_BY_ALL, (*READ_BY_ADMINS, *READ_BY_OPERATORS)),
    ],
)
async def test_each_role_sees_its_pages(
    served: ServingConsole, key: str, sees: tuple[str, ...], denied: tuple[str, ...]
) -> None:
    async with served.reader(key) as reader:
        for path in sees:
            shown = await page(reader, path)
            assert f'href="{path}" aria-current="page"' in shown.text
        for path in denied:
            shown = await reader.get(path)
            assert shown.status == 403
            assert f'href="{path}"' not in shown.text


async def test_spend_has_the_figures_of_the_ledger_as_table_chart_and_file(
    served: ServingConsole,
) -> None:
    async with operator(served) as reader:
        shown = await page(reader, "/money/spend?in=30d&by=day,model")
        assert shown.text.count('class="series-0"') >= 2 * DAYS
        whole = await page(reader, "/money/spend?in=30d&by=tenant")
        assert "team 40 $60.00" in whole.words
        assert '<svg class="chart-picture' not in whole.text, "no time, no chart over time"
        file = await reader.get("/money/spend?in=30d&by=tenant,kind&format=csv")
        assert file.headers["Content-Disposition"] == 'attachment; filename="spend.csv"'
        assert file.headers["Content-Type"].startswith("text/csv")
        charged = {row["kind"]: int(row["charged_nano_usd"]) for row in rows_of(file.text)}
        assert charged == {"local": DAYS * 10**9, "remote": 2 * DAYS * 10**9}
        none = await page(reader, "/money/spend?in=30d&by=tenant&tenant=nobody")
        assert "Nothing was spent" in none.words


async def test_what_cannot_be_asked_is_explained(served: ServingConsole) -> None:
    async with operator(served) as reader:
        for path, words in (
            ("/money/spend?by=colour", "colour: give up to 6 of tenant"),
            ("/money/spend?in=yesteryear", "such as 30d, 2026-03-07"),
            ("/money/spend?from=2026-03-07&to=2026-03-01", "It ends before it begins"),
            ("/money/spend?in=1970&by=hour&order=size", "size: give group, spend, tokens"),
            ("/money/statement?by=label:team", "label:team: give up to 3 of tenant"),
            ("/money/statement?share=weight&weight=team", "such as search=3,ads=1"),
            ("/prices?at=soon", "give a day such as 2026-03-07"),
            ("/money/spend?from=1970-01-01&by=hour", "choose a longer period"),
        ):
            shown = await reader.get(path)
            assert (shown.status, words in shown.words) == (400, True), (path, shown.words)


async def test_the_statement_closes_on_the_page_and_in_its_file(served: ServingConsole) -> None:
    stub = usage_pb2_grpc.UsageServiceStub(served.serving.channel)
    async with operator(served) as reader:
        shown = await page(reader, "/money/statement?in=30d&share=use")
        assert "It closes" in shown.words
        assert "differ from the bill" not in shown.words
        for words in ("bill of own servers", "idle", "unobserved", "of it wasted"):
            assert words in shown.words
        assert "At remotes Own would be" in shown.words
        monthly = await page(reader, "/money/statement?in=30d&per=month&by=tenant,kind")
        assert monthly.text.count("It closes") == 2 or "It closes" in monthly.text
        answer = await stub.GetStatement(
            usage_pb2.GetStatementRequest(group_by=[usage_pb2.SPEND_GROUP_KEY]), metadata=OPERATOR
        )
        [line] = answer.statements[0].lines
        file = await reader.get("/money/statement?in=30d&by=key&format=csv")
        [row] = rows_of(file.text)
        assert int(row["own_nano_usd"]) == line.own_nano_usd
        assert int(row["charged_nano_usd"]) == line.charged_nano_usd == 3 * DAYS * 10**9
    async with served.reader(ADMIN_KEY) as reader:
        shown = await page(reader, "/money/statement?in=30d&by=model")
        assert "Tenant Model" in shown.words, "an admin's lines are those of its tenant"
        assert "bill of own servers" not in shown.words


async def test_the_month_has_forecasts_and_budgets(served: ServingConsole) -> None:
    async with operator(served) as reader:
        shown = await page(reader, "/money/month")
        for words in ("Forecast, charged", "last month, whole", "How each budget will end"):
            assert words in shown.words
        assert "team month $100,000.00" in shown.words
        assert "team, key test day, only reported $0.50" in shown.words
        assert "Spent up to each day of the month" in shown.words


async def test_a_budget_of_nothing_is_used_up(served: ServingConsole, tmp_path: Path) -> None:
    """A cap of 0 is a way to switch a key off; it has no share."""
    nothing = BudgetConfig(tenant="team", period=Period.HOUR, cap_usd="0", hard=False)
    gateway = served.serving.gateway
    changed = msgspec.structs.replace(gateway.active.config, budgets=(*BUDGETS, nothing))
    await gateway.reload(changed, tmp_path)
    async with served.reader(OPERATOR_KEY) as reader:
        for path in ("/money/month", "/budgets"):
            assert "100\u202f%" in (await page(reader, path)).text


async def test_rates_and_models_are_shown_over_time(served: ServingConsole) -> None:
    async with operator(served) as reader:
        rates = await page(reader, "/money/rates?in=7d")
        assert "Pool own: cost of a million tokens, idle inside" in rates.words
        models = await page(reader, "/money/models?in=30d&order=tokens")
        assert "moe" in models.words
        assert "Rank" in models.words


async def test_cost_now_refreshes_itself(served: ServingConsole) -> None:
    async with operator(served) as reader:
        shown = await page(reader, "/money/now")
        for words in ("A million tokens", "Idle", "Wasted", "the same at far"):
            assert words in shown.words
        live = await reader.get("/money/now", X_Moegate_Live="1")
        assert "A million tokens" in live.words
        assert "<nav" not in live.text


async def test_price_rows_have_their_source_and_use(served: ServingConsole) -> None:
    async with operator(served) as reader:
        shown = await page(reader, "/prices")
        assert "own-2026 own $0.10" in shown.words.replace("$0.1000", "$0.10")
        assert "far-2026 far/moe" in shown.words
        assert "pools[0].gpu.usd_per_gpu_hour" in shown.words
        before = await page(reader, "/prices?at=2020-01-01&all=1")
        assert "not now" in before.words
        assert "remote far: no row of far/moe holds at this time" in before.words


async def budgets(served: ServingConsole) -> dict[tuple[str, str], admin_pb2.Budget]:
    stub = admin_pb2_grpc.AdminServiceStub(served.serving.channel)
    answer = await stub.ListBudgets(admin_pb2.ListBudgetsRequest(), metadata=OPERATOR)
    return {
        (each.scope.key_id, admin_pb2.BudgetPeriod.Name(each.scope.period)): each
        for each in answer.budgets
    }


async def test_a_budget_is_set_and_deleted_with_a_confirmation(served: ServingConsole) -> None:
    async with operator(served) as reader:
        shown = await page(reader, "/budgets")
        fields = {"csrf": shown.csrf, "tenant": "team", "period": "hour", "cap": "1,250.50"}
        asked = await reader.post("/budgets", {**fields, "hard": "1"})
        assert "Set this budget?" in asked.words
        assert "$1,250.50 each hour" in asked.words
        assert ("", "BUDGET_PERIOD_HOUR") not in await budgets(served)
        done = await reader.post("/budgets", {**fields, "hard": "1", "confirmed": "1"})
        assert done.status == 200
        assert "The budget is set" in done.words
        budget = (await budgets(served))["", "BUDGET_PERIOD_HOUR"]
        assert (budget.cap_nano_usd, budget.hard) == (1_250_500_000_000, True)

        asked = await page(reader, "/budgets/delete?tenant=team&key=&period=hour")
        assert "Delete this budget?" in asked.words
        gone = await reader.post(
            "/budgets/delete", {"csrf": asked.csrf, "tenant": "team", "key": "", "period": "hour"}
        )
        assert "The budget is deleted" in gone.words
        assert ("", "BUDGET_PERIOD_HOUR") not in await budgets(served)


async def test_a_budget_that_refuses_everything_needs_a_second_word(
    served: ServingConsole,
) -> None:
    async with operator(served) as reader:
        shown = await page(reader, "/budgets")
        fields = {"csrf": shown.csrf, "tenant": "team", "period": "month", "cap": "0.000000001"}
        fields |= {"hard": "1", "confirmed": "1"}
        asked = await reader.post("/budgets", fields)
        assert asked.status == 409
        assert "set it although it refuses requests" in asked.words
        assert (await budgets(served))["", "BUDGET_PERIOD_MONTH"].cap_nano_usd == 10**14
        done = await reader.post("/budgets", {**fields, "force": "1"})
        assert done.status == 200
        assert (await budgets(served))["", "BUDGET_PERIOD_MONTH"].cap_nano_usd == 1
        for cap in ("0", "-1", "much", "1e20", "0.0000000001"):
            assert (await reader.post("/budgets", {**fields, "cap": cap})).status == 400
        wrong = await reader.post("/budgets", {**fields, "csrf": "0" * 64})
        assert wrong.status == 403


async def test_an_admin_sets_budgets_of_its_own_keys_only(served: ServingConsole) -> None:
    async with served.reader(ADMIN_KEY) as reader:
        shown = await page(reader, "/budgets")
        fields = {"csrf": shown.csrf, "tenant": "team", "period": "day", "cap": "5"}
        fields |= {"confirmed": "1"}
        assert (await reader.post("/budgets", fields)).status == 403
        done = await reader.post("/budgets", {**fields, "key": "test"})
        assert done.status == 200
        assert (await budgets(served))["test", "BUDGET_PERIOD_DAY"].cap_nano_usd == 5 * 10**9
