"""What a reload of the configuration may change, and what it warns of."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

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


async def reload_on(
    requested: asyncio.Event, reload_file: Callable[[], Awaitable[list[str]]], path: Path | None
) -> None:
    """Reloads the file each time the event is set. An invalid file changes nothing."""
    while True:
        await requested.wait()
        requested.clear()
        try:
            await reload_file()
        except (ConfigError, ReloadRefused, OSError) as error:
            log.error("reload refused, the old configuration stays in force: %s", error)
        except Exception:  # the next signal must still be heard
            log.exception("reload failed inside the gateway")
        else:
            log.info("reloaded %s", path)
