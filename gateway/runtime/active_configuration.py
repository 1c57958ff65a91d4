"""The configuration in force, and how another one takes its place.

A reload computes what differs and applies it to the parts that run: keys, limits and prices hold at
once, whatever still runs; what was learnt about a placement that stays, stays.
"""

from __future__ import annotations

from gateway.accounting.accounting import Accounting, configured_budget
from gateway.accounting.prices.catalog import Prices
from gateway.auth.authenticator import Authenticator
from gateway.config.gateway import GatewayConfig
from gateway.runtime.assembly import Parts
from gateway.runtime.configuration import PreparedConfiguration


class ActiveConfiguration:
    """What the doors read: who may call, and the configuration itself."""

    def __init__(
        self, prepared: PreparedConfiguration, parts: Parts, accounting: Accounting
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
        """Who may call."""
        return self._prepared.authenticator

    @property
    def prices(self) -> Prices:
        """The price catalogs in force."""
        return self._prepared.scheduling.prices

    async def apply(self, prepared: PreparedConfiguration) -> list[str]:
        """Puts another configuration into force; returns its parts that changed."""
        old, self._prepared = self.config, prepared
        new = prepared.config
        self._parts.pipeline.settings = prepared.pipeline
        # The scheduler first: the fleet may then report placements that are new.
        self._parts.scheduler.apply(prepared.scheduling)
        await self._parts.fleet.apply(prepared.fleet)
        self._accounting.budgets.configure(map(configured_budget, new.budgets))
        return [name for name in new.__struct_fields__ if getattr(old, name) != getattr(new, name)]
