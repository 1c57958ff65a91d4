"""How many replicas each pool should have, by money: what an autoscaler asks the gateway.

Demand comes from the settled attempts, prices and servers from the scheduler. The count that was
wanted last is the present one: a server that starts, or does not answer, is still wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from scheduler.contract import PlacementKind, Usage
from scheduler.metering.settlement import SettledAttempt
from scheduler.overflow.demand_window import BUCKET_S, DemandWindow
from scheduler.overflow.replica_count import ReplicaLimits, WantedReplicas, wanted_replicas
from scheduler.placement.decision_model import full_token_s
from scheduler.placement_state import Placement
from scheduler.port import FleetFigures
from scheduler.snapshot import PoolSnapshot
from scheduler.step_time.step_model import StepModel

LATE_SATURATION = 1.5
"""Saturation from which requests wait so long that no remote can have been open to them: others
leave the queue for one before."""
LATE_SHARE = 0.05
"""Share of arrivals that own servers turn away, from which it counts where no request overflows:
then they were late or refused."""


class ScaledFleet(Protocol):
    """The scheduler, as far as the count needs it."""

    @property
    def facts(self) -> Mapping[str, Placement]:
        """The placements with the prices in force, by name."""

    async def figures(self) -> FleetFigures:
        """The figures of the fleet."""


class UnknownPool(ValueError):
    """No pool has this name."""


class NotMeasured(Exception):
    """The demand of the first moments is not known yet."""


class ReplicaCounts:
    """Wanted replicas of the pools. `settled` is a sink of settled attempts."""

    def __init__(self, fleet: Callable[[], ScaledFleet], unix_s: Callable[[], float]) -> None:
        """`unix_s`: the clock of settled attempts."""
        self._fleet = fleet
        self._unix_s = unix_s
        self._began_s = unix_s()
        self._windows: dict[str, DemandWindow] = {}
        self._wanted: dict[str, int] = {}

    def settled(self, attempt: SettledAttempt) -> None:
        """Counts the work of an attempt that has ended. One without tokens is none."""
        facts = self._fleet().facts
        placement = facts.get(attempt.placement)
        if placement is None or attempt.usage is None:
            return
        if placement.kind is PlacementKind.SELF_HOSTED:
            step_model = placement.step_model
        else:
            step_model = _step_model(facts, placement.model)
        if step_model is None:
            return
        work_s = _work_s(step_model, attempt.usage)
        window = self._window(placement.model)
        if placement.kind is PlacementKind.SELF_HOSTED:
            window.add_self_hosted(attempt.ended_unix_s, work_s, attempt.cheapest_remote_nano_usd)
        else:
            window.add_overflow(attempt.ended_unix_s, work_s, attempt.metered_nano_usd)

    async def wanted(self, pool: str, limits: ReplicaLimits) -> WantedReplicas:
        """Returns how many replicas the pool should have. Raises UnknownPool and NotMeasured."""
        facts = self._fleet().facts
        own = self._placements(pool)
        model = own[0].model
        pools = [p for p in (await self._fleet().figures()).snapshot.pools if p.model == model]
        now_s = self._unix_s()
        window = self._window(model)
        window.observe(
            now_s,
            sum(p.groups_serving for p in pools),
            late=any(_late(pool) for pool in pools),
        )
        buckets = window.buckets(now_s)
        if not buckets:
            raise NotMeasured(f"demand is counted in pieces of {BUCKET_S:g} s: ask again then")
        self._keep_only(facts)
        there = sum(p.groups for p in pools if p.pool == pool)
        found = wanted_replicas(
            buckets,
            replicas=self._wanted.get(pool, there),
            nano_usd_per_s=_price(own),
            limits=limits,
            others=sum(p.groups_serving for p in pools if p.pool != pool),
        )
        self._wanted[pool] = found.replicas
        return found

    async def waits(self, pool: str) -> bool:
        """Whether requests wait for a server of the pool. Raises UnknownPool."""
        model = self._placements(pool)[0].model
        queues = (await self._fleet().figures()).snapshot.queues
        return any(queue.model == model and sum(queue.requests.values()) for queue in queues)

    def _placements(self, pool: str) -> list[Placement]:
        own = [p for p in self._fleet().facts.values() if p.pool]
        found = [placement for placement in own if placement.pool == pool]
        if not found:
            names = ", ".join(sorted({p.pool for p in own})) or "none"
            raise UnknownPool(f"no pool is called {pool!r}: the pools are {names}")
        return found

    def _window(self, model: str) -> DemandWindow:
        window = self._windows.get(model)
        if window is None:
            window = self._windows[model] = DemandWindow(self._began_s)
        return window

    def _keep_only(self, facts: Mapping[str, Placement]) -> None:
        """Forgets what a reload has removed."""
        models = {placement.model for placement in facts.values()}
        pools = {placement.pool for placement in facts.values()}
        self._windows = {model: w for model, w in self._windows.items() if model in models}
        self._wanted = {pool: n for pool, n in self._wanted.items() if pool in pools}


def _late(pool: PoolSnapshot) -> bool:
    """Whether requests that no remote takes are late or refused."""
    refused = pool.turned_away_share > LATE_SHARE and not pool.overflows
    return refused or pool.saturation > LATE_SATURATION


def _work_s(step_model: StepModel, usage: Usage) -> float:
    """Work in seconds of a full group, as the queue counts it."""
    uncached = max(0, usage.prompt_tokens - (usage.cached_tokens or 0))
    prompt_s = step_model.prompt_work_s(uncached, usage.prompt_tokens)
    return prompt_s + usage.completion_tokens * full_token_s(step_model)


def _step_model(facts: Mapping[str, Placement], model: str) -> StepModel | None:
    found = (p.step_model for p in facts.values() if p.model == model and p.pool)
    return next(found, None)


def _price(placements: list[Placement]) -> int | None:
    """The dearest of a pool's replicas; None: the price of one is unknown."""
    prices = [placement.nano_usd_per_s for placement in placements]
    known = [price for price in prices if price is not None]
    return max(known) if len(known) == len(prices) else None
