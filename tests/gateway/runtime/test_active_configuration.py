"""Another configuration is in force at once, in every part, and what changed is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from gateway.auth.authenticator import Authenticator
from gateway.config.gateway import GatewayConfig, KeyConfig, TenantConfig
from gateway.config.ledger import BudgetConfig
from gateway.config.limits import LimitsConfig
from gateway.config.resolve.api_keys import key_sha256
from gateway.pipeline.observer import unobserved
from gateway.runtime.active_configuration import ActiveConfiguration, changed_sections
from gateway.runtime.assembly import (
    FrontParts,
    SchedulerParts,
    assemble_front,
    assemble_scheduler,
)
from gateway.runtime.configuration import prepare
from gateway.scheduling.metering import Metering
from gateway.upstream.http.connections import upstream_session
from gateway.upstream.http.loop_load import LoopLoad
from scheduler.budgets.budget_window import Period
from tests import serving
from tests.gateway.pipeline.rig import CALLER
from tests.gateway.scheduling.scheduling_made import UNIX_NS, hosted, settings_of

CONFIG = serving.config(pools=[serving.pool(["http://127.0.0.1:9"])])


@dataclass(frozen=True)
class Sides:
    """Both sides of a gateway in one process, and the configuration in force."""

    active: ActiveConfiguration
    scheduler: SchedulerParts
    front: FrontParts

    async def apply(self, config: GatewayConfig) -> None:
        prepared = prepare(config, Path())
        self.active.replace(prepared, self.front.pipeline)
        await self.scheduler.apply(prepared)


@pytest.fixture
async def sides() -> AsyncIterator[Sides]:
    """Sides whose tasks were not given time to run: nothing is connected."""

    async def changed() -> None:
        pass

    clock = asyncio.get_running_loop().time
    prepared = prepare(CONFIG, Path())
    load = LoopLoad(clock, lambda: 0.0, 1.0)
    made = hosted(settings_of(CONFIG))
    async with upstream_session() as upstream:
        scheduler = assemble_scheduler(
            prepared,
            upstream=upstream,
            clock=clock,
            pace=load,
            metering=Metering(clock, lambda: UNIX_NS),
            budgets=made.budgets,
            reads=made.reads,
            on_change=changed,
        )
        front = assemble_front(
            prepared,
            scheduler.scheduler,
            scheduler.fleet.connections,
            clock=clock,
            load=load,
            observe=unobserved,
        )
        yield Sides(ActiveConfiguration(prepared), scheduler, front)
        await front.close()
        await scheduler.close()
        assert all(task.done() for task in (*scheduler.tasks, *front.tasks))


def with_(**changes: object) -> GatewayConfig:
    return msgspec.structs.replace(CONFIG, **changes)


async def test_what_changed_is_named(sides: Sides) -> None:
    assert changed_sections(CONFIG, CONFIG) == []
    changed = with_(limits=LimitsConfig(attempts=1), remotes=(serving.remote("http://far"),))
    assert set(changed_sections(CONFIG, changed)) == {"remotes", "limits"}
    await sides.apply(changed)
    assert sides.active.config is changed


async def test_keys_limits_fleet_and_budgets_hold_at_once(sides: Sides) -> None:
    scheduler, pipeline = sides.scheduler.scheduler, sides.front.pipeline
    key = KeyConfig(id="new", sha256=key_sha256("mg-new"))
    changed = with_(
        pools=(serving.pool(["http://127.0.0.1:9", "http://127.0.0.1:10"]),),
        tenants=(TenantConfig(name="team", keys=(key,)),),
        limits=LimitsConfig(default_max_output_tokens=77),
        budgets=(BudgetConfig(tenant="team", period=Period.DAY, cap_usd="1"),),
    )
    before: Authenticator = sides.active.authenticator
    prices = sides.active.prices
    await sides.apply(changed)
    assert sides.active.authenticator is not before
    assert sides.active.prices is not prices
    assert sides.scheduler.scheduler is scheduler
    assert pipeline.settings.default_max_output_tokens == 77
    assert pipeline.default_output_tokens("moe", CALLER, 1) == 77
    assert [view.name for view in scheduler.fleet.placements] == ["own/a", "own/b"]
    assert all(view.address for view in scheduler.fleet.placements)
    assert set(sides.scheduler.fleet.connections.targets) == {"own/a", "own/b"}
    assert sides.scheduler.budgets.holder("team", "new", "") is not None
