"""A reload of a whole cluster: the leader reloads its own file, and asks every other gateway to do
the same. Each has a file of its own, so each may refuse; the answer says what every one did."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from gateway.config.problems import ConfigError, ReloadRefused
from gateway.link.host import SchedulerHost
from gateway.link.wire.connection import CallFailed, Connection, Handler, LinkLost
from gateway.link.wire.messages import LinkError

RELOAD_S = 30.0
"""Longest wait for the answer of a gateway."""
Reload = Callable[[], Awaitable[list[str]]]
"""Reloads the file of this process. Returns the sections that changed. Raises ConfigError,
ReloadRefused or OSError, and then changes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """What a gateway did. `changes`: sections that changed; `refused`: why the old configuration
    stays in force; empty: it does not."""

    gateway: str
    changes: tuple[str, ...] = ()
    refused: str = ""

    def __str__(self) -> str:
        if self.refused:
            return f"{self.gateway} keeps its old configuration: {self.refused}"
        return f"{self.gateway}: {', '.join(self.changes) or 'nothing'}"


def reload_handlers(gateway: str, reload: Reload) -> dict[str, Handler]:
    """Returns what the leader may ask a front. `gateway`: name of its process."""

    async def reloaded(_: None) -> Reloaded:
        try:
            return Reloaded(gateway=gateway, changes=tuple(await reload()))
        except (ConfigError, ReloadRefused, OSError) as error:
            return Reloaded(gateway=gateway, refused=str(error)[:500])

    return {"reload": (None, reloaded)}


async def reload_all(gateway: str, reload: Reload, host: SchedulerHost) -> list[str]:
    """Reloads this process, and then the others. Returns a line for each. Raises as `reload`, and
    then no gateway has changed anything."""
    own = Reloaded(gateway=gateway, changes=tuple(await reload()))
    others = [front for front in host.fronts if not front.is_own]
    asked = (_ask(f"gateway {front.number}", front.connection) for front in others)
    return [str(own), *map(str, await asyncio.gather(*asked))]


async def _ask(shown: str, connection: Connection) -> Reloaded:
    try:
        async with asyncio.timeout(RELOAD_S):
            found: Reloaded = await connection.call("reload", None, Reloaded)
            return found
    except (CallFailed, LinkLost, LinkError, TimeoutError) as error:
        return Reloaded(gateway=shown, refused=str(error) or type(error).__name__)
