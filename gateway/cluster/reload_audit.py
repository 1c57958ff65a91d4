"""The audit log of reloads that nobody asked for by RPC: a gateway that does not lead tells the
leader, which has the ledger and writes the event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

import msgspec

from gateway.access.audit import Event
from gateway.link.wire.connection import CallFailed, Connection, Handler, LinkLost
from gateway.link.wire.messages import LinkError
from gateway.runtime.reload import AuditLog

log = logging.getLogger(__name__)

RECORD_S = 5.0
"""Longest wait for the leader."""
_RECORD, _ACTION = "audit.reload", "Reload"


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A reload of one gateway. `gateway`: name of its process."""

    gateway: str
    actor: str
    after: dict[str, list[str]]


def reload_audit_handlers(audit: Callable[[], AuditLog]) -> dict[str, Handler]:
    """Returns what the gateways of a cluster may call at the leader: events of reloads only."""

    async def record(told: Told) -> None:
        await audit().record(
            Event(actor=told.actor, action=_ACTION, target=told.gateway, after=told.after)
        )

    return {_RECORD: (Told, record)}


class RemoteAuditLog:
    """The audit log of reloads at a gateway that does not lead."""

    def __init__(self, gateway: str, connection: Callable[[], Connection]) -> None:
        """`gateway`: name of its process. `connection`: its link to the leader."""
        self._gateway = gateway
        self._connection = connection

    async def record(self, event: Event) -> None:
        """See `AuditLog`. Where the leader cannot be told, the event is in the log of this
        process."""
        event = replace(event, target=self._gateway)
        try:
            told = msgspec.convert(
                {"gateway": event.target, "actor": event.actor, "after": dict(event.after or {})},
                Told,
            )
            async with asyncio.timeout(RECORD_S):
                await self._connection().call(_RECORD, told, None)
        except (CallFailed, LinkLost, LinkError, TimeoutError) as error:
            log.error(
                "the audit log misses: %s did %s to %s (%s)",
                *(event.actor, event.action, event.target, str(error) or type(error).__name__),
            )
