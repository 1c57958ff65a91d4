"""The configuration in force, and its replacement on reload.

A reload computes the difference and applies it to the running parts. Keys, limits and prices take
effect at once for new requests; a running request keeps the prices of its admission. Estimates
learnt for a placement survive if the placement stays.
"""

from __future__ import annotations

from gateway.accounting.accounting import Accounting, configured_budget
from gateway.accounting.prices.catalog import Prices
from gateway.auth.authenticator import Authenticator
from gateway.config.gateway import GatewayConfig
from gateway.runtime.assembly import GatewayParts
from gateway.runtime.configuration import PreparedConfiguration


class ActiveConfiguration:
    """Configuration, authenticator and prices that the doors read on every request."""

    def __init__(
        self, prepared: PreparedConfiguration, parts: GatewayParts, accounting: Accounting
    ) -> None:
        self._prepared = prepared
        self._parts = parts
        self._accounting = accounting

    @property
    def config(self) -> GatewayConfig:
        """The configuration in force."""
        return self._prepared.config

    @property
    def authenticator(self) -> Authenticator:
        """Authenticates callers by key."""
        return self._prepared.authenticator

    @property
    def prices(self) -> Prices:
        """The price catalogs in force."""
        return self._prepared.scheduling.prices

    async def apply(self, prepared: PreparedConfiguration) -> list[str]:
        """Puts another configuration into force. Returns the names of the top-level sections that
        changed."""
        old, self._prepared = self.config, prepared
        new = prepared.config
        self._parts.pipeline.settings = prepared.pipeline
        # The scheduler comes first, because the fleet may report new placements at once.
        self._parts.scheduler.apply(prepared.scheduling)
        await self._parts.fleet.apply(prepared.fleet)
        self._accounting.budgets.configure(map(configured_budget, new.budgets))
        return [name for name in new.__struct_fields__ if getattr(old, name) != getattr(new, name)]
