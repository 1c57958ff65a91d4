"""The start of a gateway: what it needs before, and what it prints after.

`moegate serve` and `moegate check` both call `startable`, so that a file which one of them accepts
is accepted by the other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

from gateway.accounting.accounting import configured_budget
from gateway.accounting.budget_prices import catalog_rates, refusing_budget, unpriced_budget
from gateway.accounting.meter_checkpoint import UnreadableCheckpoint, read_checkpoint
from gateway.config.gateway import GatewayConfig
from gateway.config.problems import ConfigError, Problem, problem
from gateway.runtime.configuration import PreparedConfiguration, prepare
from gateway.runtime.file_access import certificate_problems, open_secrets, written_file_problems
from gateway.scheduling.settings import metering_state

log = logging.getLogger(__name__)


def startable(
    config: GatewayConfig, base_dir: Path, source: str, now_s: float
) -> tuple[PreparedConfiguration, list[Problem]]:
    """Reads everything that the configuration refers to, and tries the folders that the gateway
    writes to. Returns what was read, and warnings.

    `source`: name of the configuration file in errors. `now_s`: Unix seconds. Raises ConfigError
    with all problems that prevent a start.
    """
    prepared = prepare(config, base_dir)
    certificates = list(certificate_problems(config, base_dir, now_s))
    fatal = [found for prevents, found in certificates if prevents]
    fatal += written_file_problems(config, base_dir)
    if fatal:
        raise ConfigError(source, fatal)
    warnings = [found for _, found in certificates]
    warnings += open_secrets(config, base_dir)
    warnings += _meter_state(config, base_dir)
    rates_of = catalog_rates(prepared.scheduling.prices, now_s)
    for i, entry in enumerate(config.budgets):
        budget = configured_budget(entry)
        for problems in (refusing_budget, unpriced_budget):
            warnings += problems(budget, config, rates_of, f"budgets[{i}]")
    return prepared, warnings


def prepare_start(
    config: GatewayConfig, base_dir: Path, path: Path | None
) -> PreparedConfiguration:
    """Reads everything that a start needs, and logs its warnings. `path`: the configuration file;
    None: there is none. Raises ConfigError."""
    source = "the configuration" if path is None else str(path)
    prepared, warnings = startable(config, base_dir, source, time.time())
    for warning in warnings:
        log.warning("%s", warning)
    return prepared


def _meter_state(config: GatewayConfig, base_dir: Path) -> Iterator[Problem]:
    file = metering_state(config, base_dir)
    try:
        if file is not None:
            read_checkpoint(file)
    except UnreadableCheckpoint as error:
        message = f"the meter begins anew: {error}"
        yield problem("metering.state", config.metering.state, message, "restore it, or remove it")


def announce(address: str, *, http: str | None, console: str | None) -> None:
    """Prints where a gateway that has just started listens. None: there is no such port."""
    print(f"moegate listens on {address}", flush=True)
    if http is not None:
        print(f"moegate speaks HTTP on {http}", flush=True)
    if console is not None:
        print(f"moegate shows its console on {console}", flush=True)
