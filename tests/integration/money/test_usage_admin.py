"""UsageService and AdminService on a real gateway: sums, export, roles, budgets, drains, reload."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import msgspec
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from gateway.config.gateway import KeyConfig, KeyRole, TenantConfig
from gateway.config.resolve.api_keys import key_sha256
from moegate.v1 import admin_pb2, admin_pb2_grpc, usage_pb2, usage_pb2_grpc
from scheduler.metering.rate_snapshot import RateSnapshot
from tests import serving
from tests.integration.money.test_budgets import ANSWER, until_refused
from tests.ledgers import a_nano_dollar_a_token, one, settled
from tests.scripted import Scripted, listening
from tests.serving import METADATA, Serving, chat_request, read_stream

DAY_S = 86_400
MONDAY_S = 1_768_176_000  # 2026-01-12
ADMIN = (("authorization", "Bearer mg-admin"),)
OPERATOR = (("authorization", "Bearer mg-operator"),)


@dataclass
class Stack:
    serving: Serving
    usage: usage_pb2_grpc.UsageServiceAsyncStub
    admin: admin_pb2_grpc.AdminServiceAsyncStub

    async def write(self) -> None:
        """Waits until all rows are in the ledger."""
        await self.serving.gateway.accounting.write(_nothing)


async def _nothing(_: object) -> None:
    pass


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path) as made:
        yield made


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Stack]:
    """Two tenants; keys of every role; two replicas with a price."""
    scripts = [Scripted(frames=ANSWER), Scripted(frames=ANSWER)]
    async with listening(*scripts):
        keys = (
            KeyConfig(id="admin", sha256=key_sha256("mg-admin"), role=KeyRole.TENANT_ADMIN),
            KeyConfig(id="operator", sha256=key_sha256("mg-operator"), role=KeyRole.OPERATOR),
        )
        config = serving.config(pools=[serving.pool([s.url for s in scripts])], keys=keys)
        other = TenantConfig(
            name="other", keys=(KeyConfig(id="theirs", sha256=key_sha256("mg-theirs")),)
        )
        config = msgspec.structs.replace(config, tenants=(*config.tenants, other))
        async with serving.serving_in(folder, config) as gateway:
            a_nano_dollar_a_token(gateway.gateway, ("own/a", "own/b"))
            yield Stack(
                gateway,
                usage_pb2_grpc.UsageServiceStub(gateway.channel),
                admin_pb2_grpc.AdminServiceStub(gateway.channel),
            )


def fill(stack: Stack) -> None:
    """Two weeks of two models, for two tenants."""
    take = stack.serving.gateway.accounting.record_attempt
    for day, tenant, key, model, charged in (
        (0, "team", "test", "small", 100),
        (1, "team", "admin", "small", 10),
        (6, "team", "test", "large", 300),
        (7, "team", "test", "large", 1),
        (7, "other", "theirs", "small", None),
    ):
        take(
            settled(
                f"{key}/{day}",
                charged=charged,
                key_id=key,
                tenant=tenant,
                model=model,
                ended_unix_s=MONDAY_S + day * DAY_S + 60.0,
            )
        )


def asked(*groups: int, **fields: object) -> usage_pb2.GetSpendRequest:
    request = usage_pb2.GetSpendRequest(group_by=groups, **fields)  # type: ignore[arg-type]
    getattr(request, "from").FromSeconds(MONDAY_S)
    request.to.FromSeconds(MONDAY_S + 14 * DAY_S)
    return request


async def test_spend_is_grouped_by_whatever_is_asked(stack: Stack) -> None:
    fill(stack)
    await stack.write()
    answer = await stack.usage.GetSpend(
        asked(usage_pb2.SPEND_GROUP_TENANT, usage_pb2.SPEND_GROUP_DAY), metadata=OPERATOR
    )
    found = {tuple(row.group): row.charged_nano_usd for row in answer.rows}
    assert found == {
        ("team", "2026-01-12"): 100,
        ("team", "2026-01-13"): 10,
        ("team", "2026-01-18"): 300,
        ("team", "2026-01-19"): 1,
        ("other", "2026-01-19"): 0,
    }
    (total,) = (await stack.usage.GetSpend(asked(), metadata=OPERATOR)).rows
    assert (total.requests, total.charged_nano_usd, total.metered_nano_usd) == (5, 411, 822)
    assert (total.uncached_input_tokens, total.cached_input_tokens) == (30, 20)
    assert (total.output_tokens, total.unpriced_attempts) == (25, 1)


async def test_models_are_ranked_by_spend_and_by_tokens_per_week(stack: Stack) -> None:
    fill(stack)
    await stack.write()
    week_and_model = (usage_pb2.SPEND_GROUP_WEEK, usage_pb2.SPEND_GROUP_MODEL)
    by_spend = await stack.usage.GetSpend(
        asked(*week_and_model, order_by=usage_pb2.SPEND_ORDER_SPEND), metadata=OPERATOR
    )
    assert [tuple(row.group) for row in by_spend.rows] == [
        ("2026-01-12", "large"),
        ("2026-01-12", "small"),
        ("2026-01-19", "large"),
        ("2026-01-19", "small"),
    ]
    by_tokens = await stack.usage.GetSpend(
        asked(*week_and_model, order_by=usage_pb2.SPEND_ORDER_TOKENS, limit=1), metadata=OPERATOR
    )
    assert [tuple(row.group) for row in by_tokens.rows] == [("2026-01-12", "small")]
    assert by_tokens.truncated


async def test_each_role_sees_its_own(stack: Stack) -> None:
    fill(stack)
    await stack.write()
    by_key = asked(usage_pb2.SPEND_GROUP_KEY)
    seen = {}
    for name, metadata in (("caller", METADATA), ("admin", ADMIN), ("operator", OPERATOR)):
        answer = await stack.usage.GetSpend(by_key, metadata=metadata)
        seen[name] = sorted(row.group[0] for row in answer.rows)
    assert seen == {
        "caller": ["test"],
        "admin": ["admin", "test"],
        "operator": ["admin", "test", "theirs"],
    }
    scope = admin_pb2.BudgetScope(tenant="team", period=admin_pb2.BUDGET_PERIOD_DAY)
    budget = admin_pb2.Budget(scope=scope, cap_nano_usd=5, hard=True)
    for call in (
        stack.usage.GetSpend(asked(tenant="other"), metadata=ADMIN),
        stack.usage.GetSpend(asked(key_id="admin"), metadata=METADATA),
        stack.usage.WatchFleet(usage_pb2.WatchFleetRequest(), metadata=ADMIN).read(),
        stack.admin.Drain(admin_pb2.DrainRequest(placement="own/a"), metadata=ADMIN),
        stack.admin.Reload(admin_pb2.ReloadRequest(), metadata=METADATA),
        stack.admin.ListBudgets(admin_pb2.ListBudgetsRequest(), metadata=METADATA),
        # The whole tenant's cap is the operator's to set.
        stack.admin.SetBudget(admin_pb2.SetBudgetRequest(budget=budget), metadata=ADMIN),
        stack.admin.GetLedgerStatus(admin_pb2.GetLedgerStatusRequest(), metadata=ADMIN),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_export_has_every_row_in_order(stack: Stack) -> None:
    take = stack.serving.gateway.accounting.record_attempt
    for i in range(1234):
        take(settled(f"test/{i}", charged=i, key_id="test", ended_unix_s=MONDAY_S + i // 3))
    await stack.write()
    rows: list[usage_pb2.AttemptRow] = []
    call = stack.usage.ExportAttempts(usage_pb2.ExportAttemptsRequest(), metadata=METADATA)
    async for page in call:
        rows += page.rows
    assert sorted(row.charged_nano_usd for row in rows) == list(range(1234))
    ends = [row.ended_at.seconds for row in rows]
    assert ends == sorted(ends)
    first = rows[0]
    assert (first.state, first.request_id, first.key_id) == ("final", "0", "test")
    assert (first.prompt_tokens, first.cached_tokens, first.completion_tokens) == (10, 4, 5)
    assert not first.HasField("reasoning_tokens")


async def test_a_budget_set_at_run_time_holds_at_once_and_can_be_taken_away(stack: Stack) -> None:
    scope = admin_pb2.BudgetScope(
        tenant="team", key_id="test", period=admin_pb2.BUDGET_PERIOD_MONTH
    )
    budget = admin_pb2.Budget(scope=scope, cap_nano_usd=350, hard=True)
    await stack.admin.SetBudget(admin_pb2.SetBudgetRequest(budget=budget), metadata=ADMIN)
    answered, error = await until_refused(stack.serving)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert answered > 3
    request = admin_pb2.ListBudgetsRequest()
    (listed,) = (await stack.admin.ListBudgets(request, metadata=ADMIN)).budgets
    assert listed.set_at_run_time
    (account,) = listed.accounts
    assert account.settled_nano_usd == 7 * answered
    await stack.admin.DeleteBudget(admin_pb2.DeleteBudgetRequest(scope=scope), metadata=ADMIN)
    await read_stream(stack.serving.stub.Generate(chat_request(), metadata=METADATA))
    assert not (await stack.admin.ListBudgets(request, metadata=ADMIN)).budgets


async def test_a_correction_is_a_row_of_its_own_and_frees_the_budget(stack: Stack) -> None:
    scope = admin_pb2.BudgetScope(
        tenant="team", key_id="test", period=admin_pb2.BUDGET_PERIOD_MONTH
    )
    budget = admin_pb2.Budget(scope=scope, cap_nano_usd=350, hard=True)
    await stack.admin.SetBudget(admin_pb2.SetBudgetRequest(budget=budget), metadata=OPERATOR)
    answered, _ = await until_refused(stack.serving)
    call = stack.usage.ExportAttempts(usage_pb2.ExportAttemptsRequest(), metadata=METADATA)
    row = (await anext(aiter(call))).rows[0]
    refund = admin_pb2.CorrectChargeRequest(
        epoch=row.epoch, seq=row.seq, delta_nano_usd=-7, note="it was our fault"
    )
    answer = await stack.admin.CorrectCharge(refund, metadata=OPERATOR)
    assert answer.charged_nano_usd == 0
    database = stack.serving.gateway.accounting.database
    assert await one(database, "SELECT settled_nano_usd FROM account") == 7 * answered - 7
    again, _ = await until_refused(stack.serving)
    assert again >= 1
    refund.seq = 1_000_000
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.admin.CorrectCharge(refund, metadata=OPERATOR)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_drained_placement_gets_no_request_until_it_is_taken_back(stack: Stack) -> None:
    async def placements(n: int) -> set[str]:
        seen = set()
        for _ in range(n):
            answer = await read_stream(
                stack.serving.stub.Generate(chat_request(), metadata=METADATA)
            )
            assert answer.done is not None
            seen.add(answer.done.route.replica)
        return seen

    drain = admin_pb2.DrainRequest(placement="own/a")
    answer = await stack.admin.Drain(drain, metadata=OPERATOR)
    assert answer.running_requests == 0
    assert await placements(6) == {"b"}
    interval = Duration(nanos=100_000_000)
    request = usage_pb2.WatchFleetRequest(interval=interval)
    call = stack.usage.WatchFleet(request, metadata=OPERATOR)
    async for seen in call:
        states = {state.placement: state for state in seen.placements}
        assert states["own/b"].serving
        assert (states["own/a"].serving, states["own/a"].reason) == (
            False,
            "drained by an operator",
        )
        break
    call.cancel()
    # A reload does not take it back.
    gateway = stack.serving.gateway
    await gateway.reload(gateway.active.config, Path.cwd())
    await serving.until_serving(gateway, 1)
    assert await placements(6) == {"b"}
    undrain = admin_pb2.UndrainRequest(placement="own/a")
    await stack.admin.Undrain(undrain, metadata=OPERATOR)
    await serving.until_serving(gateway, 2)
    for unknown in ("own/z", "own", ""):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stack.admin.Drain(admin_pb2.DrainRequest(placement=unknown), metadata=OPERATOR)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert all(state.serving for state in gateway.scheduler.core.placements)


async def test_the_ledger_tells_how_it_stands(stack: Stack) -> None:
    fill(stack)
    await stack.write()
    status = await stack.admin.GetLedgerStatus(
        admin_pb2.GetLedgerStatusRequest(), metadata=OPERATOR
    )
    assert (status.error, status.backlog_rows, status.written_rows) == ("", 0, 5)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.admin.Reload(admin_pb2.ReloadRequest(), metadata=OPERATOR)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def refused_budget(stack: Stack, budget: admin_pb2.Budget) -> str:
    """Why a budget is refused without `force`; with it, it is set, with the same as warning."""
    request = admin_pb2.SetBudgetRequest(budget=budget)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.admin.SetBudget(request, metadata=OPERATOR)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert serving.detail(caught.value, error_details_pb2.ErrorInfo).reason == "BUDGET_REFUSES_ALL"
    none = await stack.admin.ListBudgets(admin_pb2.ListBudgetsRequest(), metadata=OPERATOR)
    assert not none.budgets
    request.force = True
    answer = await stack.admin.SetBudget(request, metadata=OPERATOR)
    assert answer.budget.cap_nano_usd == budget.cap_nano_usd
    assert answer.warnings
    scope = admin_pb2.DeleteBudgetRequest(scope=budget.scope)
    await stack.admin.DeleteBudget(scope, metadata=OPERATOR)
    text = caught.value.details() or ""
    assert "--force" in text
    return text


def team_budget(cap_nano_usd: int, *, hard: bool = True) -> admin_pb2.Budget:
    scope = admin_pb2.BudgetScope(tenant="team", period=admin_pb2.BUDGET_PERIOD_MONTH)
    return admin_pb2.Budget(scope=scope, cap_nano_usd=cap_nano_usd, hard=hard)


async def test_a_budget_that_would_refuse_every_request_has_to_be_forced(stack: Stack) -> None:
    # The least request has one token in and one out, of 1 nano-USD each.
    text = await refused_budget(stack, team_budget(1))
    assert "the least request for moe, 2" in text
    for budget in (team_budget(2), team_budget(1, hard=False)):
        request = admin_pb2.SetBudgetRequest(budget=budget)
        await stack.admin.SetBudget(request, metadata=OPERATOR)
        scope = admin_pb2.DeleteBudgetRequest(scope=budget.scope)
        await stack.admin.DeleteBudget(scope, metadata=OPERATOR)


async def test_a_hard_budget_without_any_price_has_to_be_forced(stack: Stack) -> None:
    stack.serving.gateway.scheduler.use_rates(RateSnapshot())
    text = await refused_budget(stack, team_budget(10**12))
    assert "own has no price per token now: every request for moe is refused" in text
    assert "prices.catalog" in text
    request = admin_pb2.SetBudgetRequest(budget=team_budget(10**12, hard=False))
    (warning,) = (await stack.admin.SetBudget(request, metadata=OPERATOR)).warnings
    assert "charged nothing" in warning


async def test_a_budget_below_what_is_spent_already_has_to_be_forced(stack: Stack) -> None:
    request = admin_pb2.SetBudgetRequest(budget=team_budget(350))
    await stack.admin.SetBudget(request, metadata=OPERATOR)
    await read_stream(stack.serving.stub.Generate(chat_request(), metadata=METADATA))
    request.budget.cap_nano_usd = 3
    await stack.write()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stack.admin.SetBudget(request, metadata=OPERATOR)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "7 nano-USD of this month are spent already" in (caught.value.details() or "")
    request.force = True
    assert (await stack.admin.SetBudget(request, metadata=OPERATOR)).budget.cap_nano_usd == 3
