"""Another configuration is in force at once, in every part, and what changed is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from gateway.accounting.accounting import Accounting
from gateway.auth.authenticator import Authenticator
from gateway.config.gateway import GatewayConfig, KeyConfig, TenantConfig
from gateway.config.ledger import BudgetConfig
from gateway.config.limits import LimitsConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.pipeline.observer import unobserved
from gateway.runtime.active_configuration import ActiveConfiguration
from gateway.runtime.assembly import GatewayParts, assemble
from gateway.runtime.configuration import prepare
from gateway.scheduling.metering import Metering
from gateway.upstream.http.connections import upstream_session
from gateway.upstream.http.loop_load import LoopLoad
from scheduler.budgets.budget_window import Period
from tests import serving
from tests.gateway.pipeline.rig import CALLER
from tests.gateway.scheduling.scheduling_made import UNIX_NS, hosted, settings_of

CONFIG = serving.config(pools=[serving.pool(["http://127.0.0.1:9"])])


@pytest.fixture
async def parts() -> AsyncIterator[tuple[ActiveConfiguration, GatewayParts]]:
    """Parts whose tasks were not given time to run: nothing is connected."""

    async def changed() -> None:
        pass

    clock = asyncio.get_running_loop().time
    prepared = prepare(CONFIG, Path())
    budgets = hosted(settings_of(CONFIG)).budgets
    async with upstream_session() as upstream:
        made = assemble(
            prepared,
            upstream=upstream,
            clock=clock,
            load=LoopLoad(clock, lambda: 0.0, 1.0),
            metering=Metering(clock, lambda: UNIX_NS),
            budgets=budgets,
            observe=unobserved,
            on_change=changed,
        )
        accounting = cast(Accounting, SimpleNamespace(budgets=budgets))
        yield ActiveConfiguration(prepared, made, accounting), made
        await made.close()
        assert all(task.done() for task in made.tasks)


def with_(**changes: object) -> GatewayConfig:
    return msgspec.structs.replace(CONFIG, **changes)


async def test_what_changed_is_named(parts: tuple[ActiveConfiguration, GatewayParts]) -> None:
    active, _ = parts
    assert await active.apply(prepare(CONFIG, Path())) == []
    changed = with_(limits=LimitsConfig(attempts=1), remotes=(serving.remote("http://far"),))
    assert set(await active.apply(prepare(changed, Path()))) == {"remotes", "limits"}
    assert active.config is changed


async def test_keys_limits_fleet_and_budgets_hold_at_once(
    parts: tuple[ActiveConfiguration, GatewayParts],
) -> None:
    active, made = parts
    scheduler, pipeline = made.scheduler, made.pipeline
    key = KeyConfig(id="new", sha256=key_sha256("mg-new"))
    changed = with_(
        pools=(serving.pool(["http://127.0.0.1:9", "http://127.0.0.1:10"]),),
        tenants=(TenantConfig(name="team", keys=(key,)),),
        limits=LimitsConfig(default_max_output_tokens=77),
        budgets=(BudgetConfig(tenant="team", period=Period.DAY, cap_usd="1"),),
    )
    prepared = prepare(changed, Path())
    before: Authenticator = active.authenticator
    await active.apply(prepared)
    assert active.authenticator is prepared.authenticator is not before
    assert active.prices is prepared.scheduling.prices
    assert made.scheduler is scheduler
    assert made.pipeline is pipeline
    assert pipeline.settings is prepared.pipeline
    assert pipeline.default_output_tokens("moe", CALLER, 1) == 77
    assert [view.name for view in scheduler.fleet.placements] == ["own/a", "own/b"]
    assert all(view.address for view in scheduler.fleet.placements)
    assert set(made.fleet.targets) == {"own/a", "own/b"}
    assert active._accounting.budgets.holder("team", "new", "") is not None
