"""The configuration in force, and its replacement on reload.

A reload computes the difference and applies it to the running parts. Keys, limits and prices take
effect at once for new requests; a running request keeps the prices of its admission. Estimates
learnt for a placement survive if the placement stays.
"""

from __future__ import annotations

from gateway.accounting.prices.catalog import Prices
from gateway.auth.authenticator import Authenticator
from gateway.auth.run_time import AccessTable
from gateway.config.gateway import GatewayConfig
from gateway.pipeline.pipeline import Pipeline
from gateway.runtime.configuration import PreparedConfiguration


class ActiveConfiguration:
    """Configuration, authenticator and prices that the doors of one process read on every
    request."""

    def __init__(self, prepared: PreparedConfiguration) -> None:
        self._prepared = prepared

    @property
    def prepared(self) -> PreparedConfiguration:
        """The configuration in force, with its files read."""
        return self._prepared

    @property
    def config(self) -> GatewayConfig:
        """The configuration in force, as the file declares it."""
        return self._prepared.config

    @property
    def effective(self) -> GatewayConfig:
        """The configuration with the tenants and keys that were made at run time."""
        return self._prepared.effective

    @property
    def access(self) -> AccessTable:
        """Tenants and keys that were made at run time."""
        return self._prepared.access

    @property
    def authenticator(self) -> Authenticator:
        """Authenticates callers by key."""
        return self._prepared.authenticator

    @property
    def prices(self) -> Prices:
        """The price catalogs in force."""
        return self._prepared.scheduling.prices

    def replace(self, prepared: PreparedConfiguration, pipeline: Pipeline | None = None) -> None:
        """Puts another configuration into force for the doors and the pipeline of the process.
        Keys and tenants that were made at run time stay. `pipeline`: None: the process has none.
        """
        self._prepared = prepared.with_access(self.access)
        if pipeline is not None:
            pipeline.settings = prepared.pipeline

    def use_access(self, access: AccessTable) -> None:
        """Puts other keys and tenants that were made at run time into force, all at once."""
        self._prepared = self._prepared.with_access(access)


def changed_sections(old: GatewayConfig, new: GatewayConfig) -> list[str]:
    """Returns the names of the top-level sections that differ."""
    return [name for name in new.__struct_fields__ if getattr(old, name) != getattr(new, name)]
