"""What a reload of the configuration may change, and what it warns of."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Protocol

from gateway.access.audit import Event
from gateway.auth.run_time import AccessTable, clashes
from gateway.config.gateway import GatewayConfig
from gateway.config.problems import ConfigError, ReloadRefused
from gateway.runtime.active_configuration import ActiveConfiguration
from gateway.runtime.configuration import PreparedConfiguration, prepare
from gateway.runtime.file_access import certificate_problems

log = logging.getLogger(__name__)

_AT_ONCE = frozenset(
    {
        *("tls", "drain_delay_s", "drain_s", "blocked_write_s", "probe_interval_s"),
        *("cors_origins", "ping_s", "watch_files_s"),
    }
)
"""Fields of `server` that a reload puts into force."""


def check_reload(old: GatewayConfig, new: GatewayConfig, access: AccessTable) -> None:
    """Raises ReloadRefused for a change that needs a restart and cannot be ignored, or that names
    what was made at run time. `access`: what was."""
    if (old.server.tls is None) != (new.server.tls is None):
        raise ReloadRefused("server.tls: turning TLS on or off needs a restart")
    if found := list(clashes(new, access)):
        raise ReloadRefused("; ".join(f"{p.path}: {p.message}: {p.fix}" for p in found[:5]))


async def prepared_reload(
    active: ActiveConfiguration, config: GatewayConfig, base_dir: Path
) -> PreparedConfiguration:
    """Checks a configuration that replaces the active one, reads its files, and logs what it leaves
    as it was. Raises ConfigError, ReloadRefused or OSError."""
    old = active.config
    check_reload(old, config, active.access)
    prepared = await asyncio.to_thread(prepare, config, base_dir)
    warn_of_reload(old, config, base_dir)
    return prepared


def warn_of_reload(old: GatewayConfig, new: GatewayConfig, base_dir: Path) -> None:
    """Logs what a reload leaves as it was, and dates of certificates."""
    # Dates prevent a start, but no reload: a key has to be revocable at any time.
    for _, found in certificate_problems(new, base_dir, time.time()):
        log.warning("%s", found)
    for name in new.server.__struct_fields__:
        if name not in _AT_ONCE and getattr(old.server, name) != getattr(new.server, name):
            log.warning("server.%s: takes effect at the next start", name)
    for name in ("ledger", "telemetry", "cluster"):
        if getattr(old, name) != getattr(new, name):
            log.warning("%s: takes effect at the next start", name)


SIGNAL, FILE_WATCH = "signal:HUP", "watch:files"
"""Actors of the audit log, for a reload that nobody asked for by RPC. No key's id has a colon."""


class ReloadRequests:
    """Requests of this process to read the configuration file again. Those that come while one
    waits are one with it."""

    def __init__(self) -> None:
        self._asked: dict[str, None] = {}
        self._any = asyncio.Event()

    def ask(self, actor: str) -> None:
        """Adds a request. `actor`: for the audit log."""
        self._asked[actor] = None
        self._any.set()

    async def next(self) -> str:
        """Waits for a request. Returns who asked."""
        await self._any.wait()
        self._any.clear()
        actor = ", ".join(self._asked)
        self._asked.clear()
        return actor


class AuditLog(Protocol):
    """Keeps what was done."""

    async def record(self, event: Event) -> None:
        """Adds an event."""


class Reloadable(Protocol):
    """What `reload_on` needs of a gateway."""

    @property
    def path(self) -> Path | None:
        """The configuration file."""

    @property
    def access(self) -> AuditLog:
        """The audit log."""

    async def reload_file(self) -> list[str]:
        """Reads the file again. Returns the names of the sections that changed. Raises ConfigError,
        ReloadRefused or OSError, and then changes nothing."""


async def reload_on(requests: ReloadRequests, gateway: Reloadable) -> None:
    """Reloads the file for each request. An invalid file changes nothing."""
    while True:
        actor = await requests.next()
        try:
            changes = await gateway.reload_file()
            event = Event(actor=actor, action="Reload", after={"changes": changes})
            await gateway.access.record(event)
            log.info("reloaded %s: %s", gateway.path, ", ".join(changes) or "nothing changed")
        except (ConfigError, ReloadRefused, OSError) as error:
            log.error("reload refused, the old configuration stays in force: %s", error)
        except Exception:  # the next signal must still be heard
            log.exception("reload failed inside the gateway")
