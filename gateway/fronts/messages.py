"""What a front's process and its parent tell each other, beside the scheduler port."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.auth.run_time import NO_RUN_TIME_ACCESS, AccessTable
from gateway.config.gateway import GatewayConfig
from gateway.telemetry.page_samples import PageSamples

PREPARE = "prepare"
"""Call to a front: read another configuration, without using it. Answers why it cannot; empty: it
can."""
ACCESS = "access"
"""Call to a front: use these keys and tenants, which were made at run time."""
APPLY = "apply"
"""Call to a front: use the configuration that was prepared last."""
MEASURE = "measure"
"""Call to a front: its `Measured`."""
READY = "ready"
"""Call of a front: it accepts calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontSetting:
    """What a front needs to start. The parent has read the configuration; the front reads the files
    that it names. `base_dir`: what these are relative to; `accounts`: socket of the services of
    usage and administration."""

    config: GatewayConfig
    base_dir: str
    accounts: str
    log_level: str
    access: AccessTable = NO_RUN_TIME_ACCESS
    """Keys and tenants that were made at run time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSetting:
    """What the scheduler's process needs to start.

    Attributes:
        path: configuration file.
        sockets: folder of the sockets, and of the configuration in force.
        addresses: `listen`, `http_listen` and `console_listen`, with the ports that were taken.
        fronts_before: fronts of a scheduler that was killed, which this one replaces: it starts
            with the configuration that was in force. 0: it starts with the file.
    """

    path: str
    sockets: str
    addresses: dict[str, str]
    log_level: str
    fronts_before: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerAnswer:
    """What the scheduler's process says of its start. `error`: why it cannot; empty: it runs."""

    error: str = ""
    health_address: str | None = None
    metrics_address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontAddresses:
    """Where a front accepts calls."""

    address: str
    http_address: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Figures of one front. `busy_share`: CPU time of its process as a share of one core."""

    page: PageSamples
    active_requests: int
    busy_share: float
    dropped_log_lines: int
    lost_ends: int = 0
    """Ends of attempts that it could not keep until a scheduler took them."""
