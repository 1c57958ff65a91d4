"""The parts of the active configuration that every door reads."""

from __future__ import annotations

from typing import Protocol

from gateway.accounting.prices.catalog import Prices
from gateway.auth.authenticator import Authenticator
from gateway.auth.run_time import AccessTable
from gateway.config.gateway import GatewayConfig


class ActiveSettings(Protocol):
    """Settings in force, which a reload replaces."""

    @property
    def authenticator(self) -> Authenticator:
        """Authenticates callers by key."""

    @property
    def config(self) -> GatewayConfig:
        """The configuration, as the file declares it."""

    @property
    def effective(self) -> GatewayConfig:
        """The configuration with the tenants and keys that were made at run time."""

    @property
    def access(self) -> AccessTable:
        """Tenants and keys that were made at run time."""

    @property
    def prices(self) -> Prices:
        """The price catalogs."""
