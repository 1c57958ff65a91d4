"""A reload of a gateway that does not lead is in the audit log, which the leader writes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.access.audit import Event
from gateway.cluster.reload_audit import RemoteAuditLog, reload_audit_handlers
from gateway.link.wire.connection import Connection, LinkLost
from tests.gateway.link.pipes import Joined, turns
from tests.gateway.scheduling.scheduling_made import ONE_USD, config, running, settings_of

EVENT = Event(actor="signal:HUP", action="Reload", after={"changes": ["tenants"]})


@dataclass
class Log:
    events: list[Event] = field(default_factory=list)

    async def record(self, event: Event) -> None:
        self.events.append(event)


async def recorded(handlers: dict[str, Any]) -> None:
    made = Joined(running(settings_of(config(), catalog=ONE_USD)))
    front = await made.join(1)
    front.host_side._handlers = handlers
    recording = asyncio.ensure_future(RemoteAuditLog("m1", front.remote.present).record(EVENT))
    for _ in range(4):
        await turns()
        front.exchange()
    await asyncio.wait_for(recording, 10)


async def test_the_leader_writes_which_gateway_has_reloaded() -> None:
    log = Log()
    await recorded(reload_audit_handlers(lambda: log))
    assert [(event.actor, event.action, event.target, event.after) for event in log.events] == [
        ("signal:HUP", "Reload", "m1", {"changes": ["tenants"]})
    ]


async def test_a_leader_of_an_earlier_version_leaves_it_to_the_log_of_the_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await recorded({})
    assert "the audit log misses: signal:HUP did Reload to m1 (no such call" in caplog.text


async def test_without_a_leader_it_is_in_the_log_of_the_process(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def absent() -> Connection:
        raise LinkLost("the scheduler cannot be reached now")

    await RemoteAuditLog("m1", absent).record(EVENT)
    assert "did Reload to m1 (the scheduler cannot be reached now)" in caplog.text
