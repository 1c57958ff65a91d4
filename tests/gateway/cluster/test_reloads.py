"""A reload reaches every gateway of a cluster, and the answer says what each did."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.cluster.reloads import reload_all, reload_handlers
from gateway.config.problems import ReloadRefused
from tests.gateway.link.pipes import Joined, JoinedFront, turns
from tests.gateway.scheduling.scheduling_made import ONE_USD, config, running, settings_of


async def gateways(*fronts: Any) -> tuple[Joined, list[JoinedFront]]:
    """The first one is in the process of the leader."""
    made = Joined(running(settings_of(config(), catalog=ONE_USD)))
    joined = []
    for number, handlers in enumerate(fronts, 1):
        front = await made.join(number, own=number == 1)
        front.remote.connection._handlers = handlers  # type: ignore[union-attr]
        joined.append(front)
    return made, joined


async def reloaded(made: Joined, fronts: list[JoinedFront], own: Any) -> list[str]:
    asking = asyncio.ensure_future(reload_all("m0", own, made.host))
    for _ in range(4):
        await turns()
        for front in fronts:
            front.exchange()
    return await asyncio.wait_for(asking, 10)


async def changes() -> list[str]:
    return ["pools", "tenants"]


async def nothing() -> list[str]:
    return []


async def refuses() -> list[str]:
    raise ReloadRefused("server.listen needs a restart")


async def test_each_gateway_says_what_it_did() -> None:
    made, fronts = await gateways(
        reload_handlers("m0", refuses),  # it has reloaded already
        reload_handlers("m1", nothing),
        reload_handlers("m2", refuses),
        {},
    )
    assert await reloaded(made, fronts, changes) == [
        "m0: pools, tenants",
        "m1: nothing",
        "m2 keeps its old configuration: server.listen needs a restart",
        "gateway 4 keeps its old configuration: no such call: reload",
    ]


async def test_what_the_leader_refuses_is_asked_of_nobody() -> None:
    asked = []

    async def ask() -> list[str]:
        asked.append(1)
        return []

    made, fronts = await gateways(reload_handlers("m0", ask), reload_handlers("m1", ask))
    with pytest.raises(ReloadRefused):
        await reloaded(made, fronts, refuses)
    assert not asked
