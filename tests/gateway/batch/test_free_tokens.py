"""Throughput that is left for batch work, from measured minutes and the rows of the ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from gateway.batch.free_tokens import DAY_NS, RECENT_S, FreeTokens
from scheduler.metering.report import LoadPoint
from scheduler.port import SchedulerPort
from tests.gateway.batch.rig import rig


@dataclass
class Cost:
    load: tuple[LoadPoint, ...] = ()
    covered_ns: int = RECENT_S * 1_000_000_000
    uncached_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


@dataclass
class Place:
    pool: str


@dataclass
class Port:
    """The two questions that are asked of a scheduler. `costs`: by pool and window."""

    costs: dict[tuple[str, int], Cost | None]
    pools: tuple[str, ...] = ("own", "own", "")
    fleet: Any = field(init=False)

    def __post_init__(self) -> None:
        self.fleet = self

    def base_model(self, model: str) -> str:
        return model

    def of_model(self, _: str) -> list[Place]:
        return [Place(pool) for pool in self.pools]

    async def pool_cost(self, pool: str, window_ns: int) -> Any:
        report = type("Report", (), {})()
        report.cost = self.costs.get((pool, window_ns))
        return report


def minute(per_s: float, slo_met: float | None = 1.0) -> LoadPoint:
    return LoadPoint(
        tokens_per_s=per_s,
        output_tokens_per_s=per_s / 5,
        nano_usd_per_mtok=1,
        utilisation=1.0,
        slo_met=slo_met,
    )


async def free(path: Path, day: Cost | None, recent: Cost | None) -> float | None:
    recent_ns = RECENT_S * 1_000_000_000
    port = cast(SchedulerPort, Port({("own", DAY_NS): day, ("own", recent_ns): recent}))
    async with rig(path) as made:
        return await FreeTokens(made.database, port, lambda: made.now_us).of_model("moe")


async def test_the_best_minute_that_kept_the_slo_without_what_is_used_now(tmp_path: Path) -> None:
    day = Cost(load=(minute(500.0), minute(900.0, 0.5), minute(700.0, None)))
    recent = Cost(uncached_tokens=60_000, cached_tokens=30_000, output_tokens=30_000)
    assert await free(tmp_path, day, recent) == 700.0 - 200.0


async def test_nothing_measured_or_nothing_free_is_unknown(tmp_path: Path) -> None:
    busy = Cost(uncached_tokens=700 * RECENT_S)
    assert await free(tmp_path, None, busy) is None
    assert await free(tmp_path, Cost(), busy) is None
    assert await free(tmp_path, Cost(load=(minute(700.0),)), None) is None
    assert await free(tmp_path, Cost(load=(minute(700.0),)), busy) is None
