"""A validated configuration with all its files read. Applying it cannot fail."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from gateway.accounting.prices.source import rows_without_batch, unknown_price_rows
from gateway.auth.authenticator import Authenticator
from gateway.auth.run_time import NO_RUN_TIME_ACCESS, AccessTable, with_run_time
from gateway.config.gateway import GatewayConfig
from gateway.config.problems import ConfigError
from gateway.fleet.connections import FleetSettings, fleet_settings
from gateway.fleet.placements import placements_of
from gateway.pipeline.settings import PipelineSettings, pipeline_settings
from gateway.scheduling.settings import (
    SchedulingSettings,
    scheduling_settings,
    with_tenants,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedConfiguration:
    """Settings of each part of a gateway, derived from one configuration.

    `config`: as the file declares it; `effective`: with the tenants and keys of `access`, which
    were made at run time.
    """

    config: GatewayConfig
    access: AccessTable
    authenticator: Authenticator
    scheduling: SchedulingSettings
    fleet: FleetSettings
    pipeline: PipelineSettings

    @property
    def effective(self) -> GatewayConfig:
        """The configuration with all tenants and keys."""
        return self.scheduling.config

    def with_access(self, access: AccessTable) -> PreparedConfiguration:
        """Returns the same configuration with other keys and tenants made at run time. Reads no
        files."""
        return replace(
            self,
            access=access,
            authenticator=self.authenticator.with_table(access),
            scheduling=with_tenants(self.scheduling, with_run_time(self.config, access)),
        )


def prepare(config: GatewayConfig, base_dir: Path) -> PreparedConfiguration:
    """Reads secrets, price catalogs and priors, without applying anything. `base_dir`: base of
    relative paths. Raises ConfigError."""
    placements = tuple(placements_of(config, base_dir))
    scheduling = scheduling_settings(config, base_dir, placements)
    prices = scheduling.prices
    if problems := [*unknown_price_rows(config, prices), *rows_without_batch(config, prices)]:
        raise ConfigError("price catalogs", problems)
    return PreparedConfiguration(
        config=config,
        access=NO_RUN_TIME_ACCESS,
        authenticator=Authenticator(config, base_dir),
        scheduling=scheduling,
        fleet=fleet_settings(config, base_dir),
        pipeline=pipeline_settings(config),
    )
