"""Throughput that own servers have left for batch work, as they were measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.accounting.ledger.database import Database, Tx
from scheduler.port import SchedulerPort

DAY_NS = 86_400 * 1_000_000_000
RECENT_S = 600
"""Time in which the present load is measured."""
LEAST_SLO = 0.9
"""Share of the requests of a minute that kept their SLO, for its throughput to count."""
_OF_BATCHES = (
    "SELECT CAST(SUM(prompt_tokens + completion_tokens) AS BIGINT) FROM attempt"
    " WHERE ended_unix_us >= $1 AND model = $2 AND slo_class = 'batch' AND pool <> ''"
)


@dataclass(frozen=True, slots=True)
class FreeTokens:
    """The best minute of the last day in which the SLO was kept, without what other requests take
    now."""

    database: Database
    port: SchedulerPort
    now_us: Callable[[], int]

    async def of_model(self, model: str) -> float | None:
        """Tokens per second, of all kinds, over all pools of a model; None: no minute of a pool was
        measured, or nothing is free now."""
        base = self.port.fleet.base_model(model)
        pools = {each.pool for each in self.port.fleet.of_model(base) if each.pool}
        best_per_s = used_per_s = 0.0
        for pool in sorted(pools):
            day = (await self.port.pool_cost(pool, DAY_NS)).cost
            recent = (await self.port.pool_cost(pool, RECENT_S * 1_000_000_000)).cost
            minutes = [
                point.tokens_per_s
                for point in (() if day is None else day.load)
                if point.slo_met is None or point.slo_met >= LEAST_SLO
            ]
            if not minutes or recent is None or recent.covered_ns <= 0:
                return None
            best_per_s += max(minutes)
            tokens = recent.uncached_tokens + recent.cached_tokens + recent.output_tokens
            used_per_s += tokens / (recent.covered_ns / 1e9)
        since_us = self.now_us() - RECENT_S * 1_000_000
        batches = await self.database.read(lambda tx: _tokens(tx, since_us, model))
        free_per_s = best_per_s - max(0.0, used_per_s - batches / RECENT_S)
        return free_per_s if free_per_s > 0.0 else None


async def _tokens(tx: Tx, since_us: int, model: str) -> int:
    [(tokens,)] = await tx.rows(_OF_BATCHES, since_us, model)
    return int(tokens or 0)
