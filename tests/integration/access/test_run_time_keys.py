"""Keys, tenants and the audit log through a real gateway, changed while it runs."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from gateway.config.gateway import GatewayConfig, KeyConfig, KeyRole, TenantConfig
from gateway.config.ledger import LedgerConfig
from gateway.config.limits import KeyLimitsConfig
from gateway.config.problems import ReloadRefused
from gateway.config.resolve.api_keys import key_sha256
from moegate.v1 import admin_pb2, admin_pb2_grpc, inference_pb2, usage_pb2, usage_pb2_grpc
from tests import serving
from tests.integration.money.test_budgets import ANSWER
from tests.ledgers import a_nano_dollar_a_token
from tests.scripted import Scripted, listening
from tests.serving import Serving, chat_request, first_message, read_stream, until

ADMIN = (("authorization", "Bearer mg-admin"),)
BOSS = (("authorization", "Bearer mg-boss"),)
THEIRS = (("authorization", "Bearer mg-theirs"),)
CALLER = admin_pb2.KEY_ROLE_CALLER


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


def config_of(*urls: str) -> GatewayConfig:
    keys = (
        KeyConfig(
            id="admin",
            sha256=key_sha256("mg-admin"),
            role=KeyRole.TENANT_ADMIN,
            limits=KeyLimitsConfig(tokens_per_minute=100_000),
        ),
        KeyConfig(id="boss", sha256=key_sha256("mg-boss"), role=KeyRole.OPERATOR),
    )
    config = serving.config(pools=[serving.pool(urls)], keys=keys)
    theirs = KeyConfig(id="theirs", sha256=key_sha256("mg-theirs"), role=KeyRole.TENANT_ADMIN)
    other = TenantConfig(name="other", keys=(theirs,))
    return msgspec.structs.replace(config, tenants=(*config.tenants, other))


@dataclass
class Stack:
    serving: Serving
    admin: admin_pb2_grpc.AdminServiceAsyncStub
    script: Scripted

    async def create(
        self, key_id: str = "", *, by: Sequence[tuple[str, str]] = BOSS, tenant: str = "", **of: Any
    ) -> admin_pb2.CreateKeyResponse:
        request = admin_pb2.CreateKeyRequest(
            key_id=key_id, tenant=tenant, settings=admin_pb2.KeySettings(**of)
        )
        return await self.admin.CreateKey(request, metadata=by)

    async def generate(self, secret: str) -> int:
        call = self.serving.stub.Generate(chat_request("hi"), metadata=bearer(secret))
        seen = await read_stream(call)
        assert seen.done is not None
        return seen.done.usage.completion_tokens

    async def taken(self, secret: str) -> bool:
        """Whether a key is taken."""
        try:
            await self.serving.stub.ListModels(
                inference_pb2.ListModelsRequest(), metadata=bearer(secret)
            )
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                raise
            return False
        return True

    async def keys(self, **fields: Any) -> dict[str, admin_pb2.Key]:
        answer = await self.admin.ListKeys(admin_pb2.ListKeysRequest(**fields), metadata=BOSS)
        return {key.key_id: key for key in answer.keys}

    async def events(self, **fields: Any) -> list[admin_pb2.AuditEvent]:
        request = admin_pb2.ListAuditEventsRequest(**fields)
        return list((await self.admin.ListAuditEvents(request, metadata=BOSS)).events)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Stack]:
    script = Scripted(frames=ANSWER)
    async with (
        listening(script),
        serving.serving_in(folder, config_of(script.url)) as gateway,
    ):
        a_nano_dollar_a_token(gateway.gateway)
        yield Stack(gateway, admin_pb2_grpc.AdminServiceStub(gateway.channel), script)


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(tmp_path) as made:
        yield made


async def refused(work: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await work
    return caught.value


async def test_a_key_lives_from_its_creation_to_its_revocation(stack: Stack) -> None:
    made = await stack.create("bot", models=[serving.MODEL])
    assert made.key.owner == admin_pb2.OWNER_RUN_TIME
    assert made.key.state == admin_pb2.KEY_STATE_IN_FORCE
    assert made.key.tenant == "team"
    assert made.key.created_by == "boss"
    assert made.secret.startswith(made.key.secret_prefix)
    assert len(made.key.secret_prefix) < 10 < len(made.secret)
    assert await stack.generate(made.secret) == 2
    listed = await stack.keys()
    assert listed["bot"] == made.key
    assert listed["test"].owner == admin_pb2.OWNER_FILE
    await stack.admin.RevokeKey(admin_pb2.RevokeKeyRequest(key_id="bot"), metadata=BOSS)
    error = await refused(stack.generate(made.secret))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "bot" not in await stack.keys()
    assert (await stack.keys(with_revoked=True))["bot"].state == admin_pb2.KEY_STATE_REVOKED
    again = await refused(
        stack.admin.RotateKey(admin_pb2.RotateKeyRequest(key_id="bot"), metadata=BOSS)
    )
    assert again.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert (await refused(stack.create("bot"))).code() is grpc.StatusCode.ALREADY_EXISTS


async def test_a_running_stream_of_a_revoked_key_goes_on_to_its_end(stack: Stack) -> None:
    made = await stack.create("bot")
    stack.script.pause_s = 0.2
    call = stack.serving.stub.Generate(chat_request("hi"), metadata=bearer(made.secret))
    await first_message(call)
    await stack.admin.RevokeKey(admin_pb2.RevokeKeyRequest(key_id="bot"), metadata=BOSS)
    assert not await stack.taken(made.secret)
    seen = await read_stream(call)
    assert seen.done is not None
    assert seen.done.usage.completion_tokens == 2


async def test_a_rotated_key_takes_both_secrets_for_the_grace_period(stack: Stack) -> None:
    first = await stack.create("bot")
    request = admin_pb2.RotateKeyRequest(key_id="bot", grace=Duration(seconds=3600))
    second = await stack.admin.RotateKey(request, metadata=BOSS)
    assert second.key.secrets == 2
    assert await stack.taken(first.secret)
    assert await stack.taken(second.secret)
    third = await stack.admin.RotateKey(admin_pb2.RotateKeyRequest(key_id="bot"), metadata=BOSS)
    assert third.key.secrets == 1
    assert not await stack.taken(first.secret)
    assert not await stack.taken(second.secret)
    assert await stack.taken(third.secret)


async def test_an_expiry_ends_a_key_and_a_later_one_brings_it_back(stack: Stack) -> None:
    made = await stack.create("bot")
    settings = admin_pb2.KeySettings()
    settings.expires_at.FromSeconds(int(time.time()) - 1)
    update = admin_pb2.UpdateKeyRequest(
        key_id="bot", settings=settings, update_mask=FieldMask(paths=["expires_at"])
    )
    ended = await stack.admin.UpdateKey(update, metadata=BOSS)
    assert ended.key.state == admin_pb2.KEY_STATE_EXPIRED
    error = await refused(stack.generate(made.secret))
    assert error.details() == "the API key has expired"
    update.settings.expires_at.FromSeconds(int(time.time()) + 3600)
    await stack.admin.UpdateKey(update, metadata=BOSS)
    assert await stack.taken(made.secret)
    soon = admin_pb2.KeySettings()
    soon.expires_at.FromMilliseconds(int(time.time() * 1000) + 300)
    brief = await stack.admin.CreateKey(
        admin_pb2.CreateKeyRequest(key_id="brief", settings=soon), metadata=BOSS
    )
    async with asyncio.timeout(serving.READY_S):
        while await stack.taken(brief.secret):
            await asyncio.sleep(0.02)


async def test_an_update_changes_the_fields_of_its_mask_at_once(stack: Stack) -> None:
    made = await stack.create("bot", models=[serving.MODEL], max_priority=3)
    settings = admin_pb2.KeySettings(limits=admin_pb2.KeyLimits(max_output_tokens=1))
    request = admin_pb2.UpdateKeyRequest(
        key_id="bot", settings=settings, update_mask=FieldMask(paths=["limits", "models"])
    )
    changed = await stack.admin.UpdateKey(request, metadata=BOSS)
    assert changed.key.settings.max_priority == 3
    assert not changed.key.settings.models
    error = await refused(stack.generate(made.secret))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "max_output_tokens" in str(error.details())
    bad = admin_pb2.UpdateKeyRequest(key_id="bot", update_mask=FieldMask(paths=["tenant"]))
    assert "tenant" in str((await refused(stack.admin.UpdateKey(bad, metadata=BOSS))).details())


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"models": ["no-such"]}, "settings.models[0]"),
        ({"role": 77}, "settings.role"),
        ({"slo_classes": [99]}, "settings.slo_classes[0]"),
        ({"max_priority": 11}, "settings.max_priority"),
        ({"min_ttft_s": -1.0}, "settings.min_ttft_s"),
        ({"limits": admin_pb2.KeyLimits(tokens_per_minute=0)}, "settings.limits.tokens_per_minute"),
        ({"remote_classes": admin_pb2.Names(names=["mars"])}, "settings.remote_classes[0]"),
        ({"models": ["x"] * 201}, "settings.models"),
        ({"key_id": "with space"}, "key_id"),
    ],
)
async def test_faults_name_the_field(stack: Stack, fields: dict[str, Any], field: str) -> None:
    error = await refused(stack.create(**{"key_id": "bot", **fields}))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(error.details()).startswith(f"{field}: ")


async def test_what_the_file_declares_changes_there(stack: Stack) -> None:
    admin = stack.admin
    for work in (
        admin.RotateKey(admin_pb2.RotateKeyRequest(key_id="test"), metadata=BOSS),
        admin.RevokeKey(admin_pb2.RevokeKeyRequest(key_id="test"), metadata=BOSS),
        admin.UpdateKey(admin_pb2.UpdateKeyRequest(key_id="test"), metadata=BOSS),
        admin.SetTenant(
            admin_pb2.SetTenantRequest(tenant=admin_pb2.Tenant(name="team")), metadata=BOSS
        ),
        admin.DeleteTenant(admin_pb2.DeleteTenantRequest(name="team"), metadata=BOSS),
    ):
        error = await refused(work)
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "declared in the configuration: change it there and reload" in str(error.details())
    error = await refused(stack.create("test"))
    assert error.code() is grpc.StatusCode.ALREADY_EXISTS
    assert "choose another id" in str(error.details())


async def test_tenants_with_a_weight_and_a_bound(stack: Stack) -> None:
    error = await refused(stack.create("bot", tenant="lab"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    request = admin_pb2.SetTenantRequest(tenant=admin_pb2.Tenant(name="lab", weight=3.0, rpcs=1))
    made = await stack.admin.SetTenant(request, metadata=BOSS)
    assert made.tenant.owner == admin_pb2.OWNER_RUN_TIME
    bot = await stack.create("bot", tenant="lab")
    caller = stack.serving.gateway.active.authenticator.authenticate(bearer(bot.secret))
    assert (caller.tenant, caller.weight, caller.tenant_rpcs) == ("lab", 3.0, 1)
    stack.script.pause_s = 0.3
    call = stack.serving.stub.Generate(chat_request("hi"), metadata=bearer(bot.secret))
    await first_message(call)
    error = await refused(
        stack.serving.stub.ListModels(
            inference_pb2.ListModelsRequest(), metadata=bearer(bot.secret)
        )
    )
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await read_stream(call)
    listed = await stack.admin.ListTenants(admin_pb2.ListTenantsRequest(), metadata=BOSS)
    assert [(each.name, each.keys, each.owner) for each in listed.tenants] == [
        ("lab", 1, admin_pb2.OWNER_RUN_TIME),
        ("other", 1, admin_pb2.OWNER_FILE),
        ("team", 3, admin_pb2.OWNER_FILE),
    ]
    delete = admin_pb2.DeleteTenantRequest(name="lab")
    error = await refused(stack.admin.DeleteTenant(delete, metadata=BOSS))
    assert "has 1 keys: revoke them first" in str(error.details())
    await stack.admin.RevokeKey(admin_pb2.RevokeKeyRequest(key_id="bot"), metadata=BOSS)
    await stack.admin.DeleteTenant(delete, metadata=BOSS)
    error = await refused(stack.admin.DeleteTenant(delete, metadata=BOSS))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_what_is_not_given_of_a_tenant_stays(stack: Stack) -> None:
    async def set_tenant(*paths: str, **fields: Any) -> tuple[float, int | None]:
        tenant = admin_pb2.Tenant(name="lab", **fields)
        request = admin_pb2.SetTenantRequest(tenant=tenant, update_mask=FieldMask(paths=paths))
        made = (await stack.admin.SetTenant(request, metadata=BOSS)).tenant
        return made.weight, made.rpcs if made.HasField("rpcs") else None

    assert await set_tenant() == (1.0, None)
    assert await set_tenant(weight=3.0, rpcs=7) == (3.0, 7)
    assert await set_tenant(rpcs=8) == (3.0, 8)
    assert await set_tenant(weight=2.0) == (2.0, 8)
    assert await set_tenant() == (2.0, 8)
    assert await set_tenant("rpcs", weight=5.0, rpcs=9) == (2.0, 9)
    assert await set_tenant("rpcs") == (2.0, None)
    assert await set_tenant("weight") == (1.0, None)
    for fields, path in (({"weight": -1.0}, "tenant.weight"), ({"rpcs": 0}, "tenant.rpcs")):
        error = await refused(set_tenant(**fields))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert str(error.details()).startswith(f"{path}: ")
    assert "update_mask.paths" in str((await refused(set_tenant("keys"))).details())
    assert await set_tenant() == (1.0, None)
    [last, *_] = await stack.events(target="lab")
    assert (last.before_json, last.after_json) == ('{"weight": 1.0, "rpcs": null}',) * 2


async def test_two_who_change_limits_of_a_key_at_once_keep_each_others(stack: Stack) -> None:
    await stack.create(
        "bot", limits=admin_pb2.KeyLimits(concurrent_requests=3, message_bytes=99_999)
    )

    async def change(**limits: int | None) -> None:
        given = admin_pb2.KeyLimits(**limits)
        await stack.admin.UpdateKey(
            admin_pb2.UpdateKeyRequest(
                key_id="bot",
                settings=admin_pb2.KeySettings(limits=given),
                update_mask=FieldMask(paths=[f"limits.{name}" for name in limits]),
            ),
            metadata=BOSS,
        )

    await asyncio.gather(
        change(requests_per_minute=5), change(tokens_per_minute=600, concurrent_requests=None)
    )
    limits = (await stack.keys())["bot"].settings.limits
    assert limits == admin_pb2.KeyLimits(
        requests_per_minute=5, tokens_per_minute=600, message_bytes=99_999
    )
    with pytest.raises(grpc.aio.AioRpcError, match="update_mask"):
        await stack.admin.UpdateKey(
            admin_pb2.UpdateKeyRequest(key_id="bot", update_mask=FieldMask(paths=["limits.x"])),
            metadata=BOSS,
        )


async def test_a_tenants_admin_manages_its_own_keys_and_gives_no_more_than_it_has(
    stack: Stack,
) -> None:
    mine = await stack.create("mine", by=ADMIN, limits=admin_pb2.KeyLimits(concurrent_requests=2))
    limits = mine.key.settings.limits
    assert (limits.tokens_per_minute, limits.concurrent_requests) == (100_000, 2)
    for fields in (
        {"role": admin_pb2.KEY_ROLE_OPERATOR},
        {"max_priority": 1},
        {"min_ttft_s": 0.1},
        {"limits": admin_pb2.KeyLimits(tokens_per_minute=100_001)},
        {"tenant": "other"},
    ):
        error = await refused(stack.create("more", by=ADMIN, **fields))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED, fields
    await stack.create("chief", role=admin_pb2.KEY_ROLE_OPERATOR)
    rotate = admin_pb2.RotateKeyRequest(key_id="chief")
    error = await refused(stack.admin.RotateKey(rotate, metadata=ADMIN))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    rotate = admin_pb2.RotateKeyRequest(key_id="mine")
    error = await refused(stack.admin.RotateKey(rotate, metadata=THEIRS))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    rotated = await stack.admin.RotateKey(rotate, metadata=ADMIN)
    listed = await stack.admin.ListKeys(admin_pb2.ListKeysRequest(), metadata=THEIRS)
    assert [key.key_id for key in listed.keys] == ["theirs"]
    events = await stack.admin.ListAuditEvents(admin_pb2.ListAuditEventsRequest(), metadata=ADMIN)
    assert [event.target for event in events.events] == ["mine", "chief", "mine"]
    events = await stack.admin.ListAuditEvents(admin_pb2.ListAuditEventsRequest(), metadata=THEIRS)
    assert not events.events
    plain = bearer(rotated.secret)
    error = await refused(stack.admin.ListKeys(admin_pb2.ListKeysRequest(), metadata=plain))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_audit_log_has_who_what_before_and_after(stack: Stack) -> None:
    admin = stack.admin
    await stack.create("bot", max_priority=2)
    await admin.Drain(admin_pb2.DrainRequest(placement="own/a"), metadata=BOSS)
    await admin.Undrain(admin_pb2.UndrainRequest(placement="own/a"), metadata=BOSS)
    scope = admin_pb2.BudgetScope(tenant="team", key_id="bot", period=admin_pb2.BUDGET_PERIOD_DAY)
    budget = admin_pb2.Budget(scope=scope, cap_nano_usd=10**9, hard=True)
    await admin.SetBudget(admin_pb2.SetBudgetRequest(budget=budget), metadata=ADMIN)
    await admin.DeleteBudget(admin_pb2.DeleteBudgetRequest(scope=scope), metadata=BOSS)
    await admin.RevokeKey(admin_pb2.RevokeKeyRequest(key_id="bot"), metadata=BOSS)
    events = await stack.events()
    assert [(e.actor, e.action, e.tenant, e.target) for e in events] == [
        ("boss", "RevokeKey", "team", "bot"),
        ("boss", "DeleteBudget", "team", "team/bot/day"),
        ("admin", "SetBudget", "team", "team/bot/day"),
        ("boss", "Undrain", "", "own/a"),
        ("boss", "Drain", "", "own/a"),
        ("boss", "CreateKey", "team", "bot"),
    ]
    assert json.loads(events[2].after_json) == {"cap_nano_usd": 10**9, "hard": True}
    assert json.loads(events[1].before_json) == {"cap_nano_usd": 10**9, "hard": True}
    assert not events[1].after_json
    assert json.loads(events[-1].after_json)["max_priority"] == 2
    assert "revoked_at" in json.loads(events[0].after_json)
    assert abs(events[0].at.seconds - time.time()) < 600
    first = await admin.ListAuditEvents(
        admin_pb2.ListAuditEventsRequest(page_size=4), metadata=BOSS
    )
    rest = await admin.ListAuditEvents(
        admin_pb2.ListAuditEventsRequest(page_size=4, page_token=first.next_page_token),
        metadata=BOSS,
    )
    assert [*first.events, *rest.events] == events
    assert not rest.next_page_token
    assert [e.action for e in await stack.events(actor="admin")] == ["SetBudget"]
    assert len(await stack.events(target="own/a")) == 2


async def test_pages_of_keys_hold_those_of_the_file_and_of_run_time(stack: Stack) -> None:
    for number in range(5):
        await stack.create(f"k{number}")
    names: list[str] = []
    token = ""
    while True:
        request = admin_pb2.ListKeysRequest(page_size=3, page_token=token)
        answer = await stack.admin.ListKeys(request, metadata=BOSS)
        names += [key.key_id for key in answer.keys]
        token = answer.next_page_token
        if not token:
            break
    assert names == sorted(["admin", "boss", "test", "theirs", *(f"k{i}" for i in range(5))])


async def test_limits_budgets_and_reports_hold_for_a_key_of_run_time(stack: Stack) -> None:
    made = await stack.create("bot", limits=admin_pb2.KeyLimits(requests_per_minute=3))
    scope = admin_pb2.BudgetScope(tenant="team", key_id="bot", period=admin_pb2.BUDGET_PERIOD_DAY)
    budget = admin_pb2.Budget(scope=scope, cap_nano_usd=10**9, hard=True)
    await stack.admin.SetBudget(admin_pb2.SetBudgetRequest(budget=budget), metadata=BOSS)
    for _ in range(3):
        await stack.generate(made.secret)
    error = await refused(stack.generate(made.secret))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # A change of another key gives this one no new requests.
    await stack.create("another")
    assert (await refused(stack.generate(made.secret))).code() is error.code()
    await stack.serving.gateway.accounting.write_rows()
    budgets = await stack.admin.ListBudgets(admin_pb2.ListBudgetsRequest(), metadata=BOSS)
    assert budgets.budgets[0].accounts[0].settled_nano_usd == 21
    usage = usage_pb2_grpc.UsageServiceStub(stack.serving.channel)
    request = usage_pb2.GetSpendRequest(group_by=[usage_pb2.SPEND_GROUP_KEY])
    request.to.FromSeconds(int(time.time()) + 60)
    getattr(request, "from").FromSeconds(int(time.time()) - 86_400)
    spent = await usage.GetSpend(request, metadata=BOSS)
    assert [(*row.group, row.charged_nano_usd) for row in spent.rows] == [("bot", 21)]


async def test_keys_outlive_a_restart_and_only_their_hashes_are_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running(tmp_path) as stack:
        await stack.admin.SetTenant(
            admin_pb2.SetTenantRequest(tenant=admin_pb2.Tenant(name="lab")), metadata=BOSS
        )
        made = await stack.create("bot", tenant="lab")
        await stack.create("gone")
        await stack.admin.RevokeKey(admin_pb2.RevokeKeyRequest(key_id="gone"), metadata=BOSS)
        rotated = await stack.admin.RotateKey(
            admin_pb2.RotateKeyRequest(key_id="bot", grace=Duration(seconds=60)), metadata=BOSS
        )
        listed = repr(await stack.keys(with_revoked=True)) + repr(await stack.events())
    async with running(tmp_path) as stack:
        assert await stack.taken(made.secret)
        assert await stack.generate(rotated.secret) == 2
        assert (await stack.keys())["bot"].tenant == "lab"
    everything = caplog.text + listed
    with sqlite3.connect(tmp_path / LedgerConfig().sqlite) as connection:
        everything += "\n".join(connection.iterdump())
    connection.close()
    everything += "".join(path.read_bytes().decode("latin-1") for path in tmp_path.glob("*"))  # noqa: ASYNC240
    for secret in (made.secret, rotated.secret):
        assert secret not in everything
        assert secret[10:] not in everything
    assert key_sha256(made.secret) in everything
    assert key_sha256(made.secret) not in caplog.text + listed


async def test_a_reload_that_clashes_with_run_time_is_refused(stack: Stack, tmp_path: Path) -> None:
    gateway = stack.serving.gateway
    made = await stack.create("bot")
    await stack.admin.SetTenant(
        admin_pb2.SetTenantRequest(tenant=admin_pb2.Tenant(name="lab")), metadata=BOSS
    )
    old = gateway.active.config
    bot = KeyConfig(id="bot", sha256=key_sha256("mg-file-bot"))
    team, other = old.tenants
    cases = {
        "tenants[0].keys[3].id": (
            msgspec.structs.replace(team, keys=(*team.keys, bot)),
            other,
        ),
        "tenants[2].name": (team, other, TenantConfig(name="lab")),
        "the file has no tenant team": (other,),
    }
    for text, tenants in cases.items():
        with pytest.raises(ReloadRefused, match=text.replace("[", r"\[").replace("]", r"\]")):
            await gateway.reload(msgspec.structs.replace(old, tenants=tenants), tmp_path)
    assert await stack.taken(made.secret)
    # A reload that does not clash keeps them.
    more = msgspec.structs.replace(other, weight=2.0)
    await gateway.reload(msgspec.structs.replace(old, tenants=(team, more)), tmp_path)
    assert await stack.taken(made.secret)
    await stack.admin.RevokeKey(admin_pb2.RevokeKeyRequest(key_id="bot"), metadata=BOSS)
    await gateway.reload(
        msgspec.structs.replace(old, tenants=cases["tenants[0].keys[3].id"]), tmp_path
    )
    assert await stack.taken("mg-file-bot")
    assert not await stack.taken(made.secret)


async def test_at_a_start_the_file_wins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with running(tmp_path) as stack:
        made = await stack.create("bot")
        settings = stack.serving.gateway.active.config
    team, other = settings.tenants
    bot = KeyConfig(id="bot", sha256=key_sha256("mg-file-bot"))
    changed = msgspec.structs.replace(
        settings, tenants=(msgspec.structs.replace(team, keys=(*team.keys, bot)), other)
    )
    async with (
        serving.serving_in(tmp_path, changed, ready=False) as gateway,
    ):
        again = Stack(gateway, admin_pb2_grpc.AdminServiceStub(gateway.channel), stack.script)
        assert await again.taken("mg-file-bot")
        assert not await again.taken(made.secret)
        assert "the configuration file wins" in caplog.text
        listed = await again.admin.ListKeys(admin_pb2.ListKeysRequest(key_id="bot"), metadata=BOSS)
        assert {key.state for key in listed.keys} == {
            admin_pb2.KEY_STATE_IN_FORCE,
            admin_pb2.KEY_STATE_SHADOWED,
        }


async def test_without_a_database_keys_stay_as_they_were_read(stack: Stack) -> None:
    made = await stack.create("bot")
    accounting = stack.serving.gateway.accounting
    # Another process holds the file's write lock, longer than SQLite waits.
    path = next(accounting.database._writer.execute("PRAGMA database_list"))[2]  # type: ignore[attr-defined]
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        error = await refused(stack.create("late"))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert await stack.taken(made.secret)
    finally:
        holder.rollback()
        holder.close()
    # Whether the key was made is found out, and nothing else changes.
    await until(lambda: not accounting.ledger.status.error)
    assert await stack.taken(made.secret)
