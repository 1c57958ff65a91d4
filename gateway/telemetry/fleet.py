"""Gauges of the fleet, the queues, the budgets and the ledger, read for each metrics page.

`refresh` runs on the event loop and reads frozen values. `collect` runs in the thread that formats
the page and reads only the values of the last `refresh`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as PrometheusMetric
from prometheus_client.registry import Collector

from gateway.accounting.ledger.ledger import LedgerStatus
from gateway.batch.running.runner import TenantLoad
from gateway.config.money import NANO_USD
from gateway.telemetry import semconv
from gateway.telemetry.logs import dropped_lines
from gateway.telemetry.metric import Metric
from gateway.telemetry.scheduler_gauges import ALONE, Standing, standing_metrics
from scheduler.contract import PlacementKind
from scheduler.limits.breaker import BreakerPhase
from scheduler.metering.report import KindRates
from scheduler.port import FleetFigures
from scheduler.provenance import Provenance
from scheduler.snapshot import PlacementSnapshot

Samples = dict[Metric, list[tuple[tuple[str, ...], float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLeft:
    """Current state of a budget. `left`: share that is neither spent nor granted to requests."""

    tenant: str
    key_id: str
    period: str
    cap_usd: float
    left: float


class Sources(Protocol):
    """Sources of the values. Every call is cheap and happens on the event loop."""

    async def fleet(self) -> FleetFigures:
        """Current state of the fleet."""

    def in_flight(self) -> int:
        """Requests in the gateway, waiting or running."""

    def busy_share(self) -> float:
        """CPU time of the process as a share of one core."""

    async def rates(self) -> Mapping[str, Sequence[KindRates]]:
        """Cost rates by pool."""

    def ledger(self) -> LedgerStatus:
        """State of the ledger's writer."""

    def budgets(self) -> Sequence[BudgetLeft]:
        """Budgets as of the last read."""

    def batch(self) -> Sequence[TenantLoad]:
        """Offline jobs that run here, by tenant."""


class FleetMetrics(Collector):
    """Collector of the gauges for a registry."""

    def __init__(
        self,
        sources: Sources,
        dropped: Callable[[], int] = dropped_lines,
        lost_ends: Callable[[], int] = lambda: 0,
        standing: Callable[[], Standing] = lambda: ALONE,
    ) -> None:
        """`dropped`: log lines that found no room, since the start. `lost_ends`: ends of attempts
        that fronts could not keep until a scheduler took them; they are lost rows of the ledger.
        `standing`: who has the scheduler."""
        self._dropped = dropped
        self._lost_ends = lost_ends
        self._standing = standing
        self._sources = sources
        self._samples: Samples = {}

    async def refresh(self) -> None:
        """Reads the current values."""
        sources = self._sources
        samples: Samples = {metric: [] for metric in semconv.FLEET_GAUGES}
        figures = await sources.fleet()
        snapshot = figures.snapshot
        samples[semconv.IN_FLIGHT].append(((), sources.in_flight()))
        samples[semconv.LOOP_BUSY].append(((), sources.busy_share()))
        for queue in snapshot.queues:
            for slo_class, waiting in queue.requests.items():
                labels = (queue.model, slo_class.value)
                samples[semconv.QUEUE_DEPTH].append((labels, waiting))
                oldest_s = queue.oldest_wait_s.get(slo_class, 0.0)
                samples[semconv.QUEUE_OLDEST].append((labels, oldest_s))
            samples[semconv.QUEUE_DRAIN].append(((queue.model,), queue.predicted_drain_s))
        for pool in snapshot.pools:
            labels = (pool.pool, pool.model)
            samples[semconv.SATURATION].append((labels, pool.saturation))
            samples[semconv.PREDICTED_WAIT].append((labels, pool.predicted_wait_share))
            samples[semconv.TURNED_AWAY].append((labels, pool.turned_away_share))
            samples[semconv.OVERFLOWING].append((labels, pool.overflows))
            samples[semconv.GROUPS].append((labels, pool.groups))
            samples[semconv.GROUPS_SERVING].append((labels, pool.groups_serving))
            samples[semconv.RELEASABLE].append((labels, pool.releasable_groups))
        for placement in snapshot.placements:
            _placement(samples, placement, figures.output_tokens_per_s.get(placement.name))
            phase = figures.breaker_phases.get(placement.name)
            for each in BreakerPhase:
                samples[semconv.BREAKER].append(((placement.name, each.value), phase is each))
        for name, rates in (await sources.rates()).items():
            _rates(samples, name, rates)
        for budget in sources.budgets():
            labels3 = (budget.tenant, budget.key_id, budget.period)
            samples[semconv.BUDGET_CAP].append((labels3, budget.cap_usd))
            samples[semconv.BUDGET_LEFT].append((labels3, budget.left))
        for load in sources.batch():
            samples[semconv.BATCH_JOBS].append(((load.tenant,), load.jobs))
            samples[semconv.BATCH_ITEMS].append(((load.tenant, "left"), load.left))
            samples[semconv.BATCH_ITEMS].append(((load.tenant, "in_flight"), load.in_flight))
        ledger = sources.ledger()
        samples[semconv.LEDGER_BACKLOG].append(((), ledger.backlog_rows))
        samples[semconv.LEDGER_LIMIT].append(((), ledger.backlog_limit_rows))
        samples[semconv.LEDGER_LOST].append(((), ledger.lost_rows + self._lost_ends()))
        self._samples = samples

    def collect(self) -> Iterable[PrometheusMetric]:
        """Yields one family for each metric that has samples."""
        for metric, found in self._samples.items():
            family = GaugeMetricFamily(
                metric.prometheus, metric.about, labels=metric.prometheus_labels
            )
            for labels, value in found:
                family.add_metric(labels, value)
            yield family
        yield from standing_metrics(self._standing())
        dropped = semconv.LOG_LINES_DROPPED
        yield CounterMetricFamily(dropped.prometheus, dropped.about, value=self._dropped())


def _rates(samples: Samples, pool: str, rates: Sequence[KindRates]) -> None:
    for rate in rates:
        for name, nano_usd in (
            ("allocated", rate.allocated),
            ("floor", rate.saturated),
            ("marginal", rate.marginal),
        ):
            if nano_usd is not None:
                labels = (pool, name, rate.kind.value)
                samples[semconv.USD_PER_MTOK].append((labels, nano_usd / NANO_USD))


def _placement(samples: Samples, placement: PlacementSnapshot, per_s: float | None) -> None:
    labels = (placement.name,)
    local = placement.kind is PlacementKind.SELF_HOSTED  # a remote reports no steps
    gauges_believed = None
    if not placement.report_stale:
        gauges_believed = placement.gauges_source is not Provenance.UNKNOWN
    figures: dict[Metric, float | None] = {
        semconv.SERVING: placement.serving,
        semconv.RUNNING: placement.running_sequences,
        semconv.EXTERNAL: placement.external_sequences,
        semconv.ENGINE_WAITING: placement.waiting_in_engine,
        semconv.GAUGES_BELIEVED: gauges_believed,
        semconv.KV_TOKENS: placement.kv_tokens,
        semconv.KV_CAPACITY: placement.kv_capacity_tokens,
        semconv.BATCH: placement.predicted_batch if local else None,
        semconv.DISTINCT_EXPERTS: placement.distinct_experts,
        semconv.EXPERTS_OBSERVED: placement.distinct_experts_source is Provenance.DERIVED
        if local
        else None,
        semconv.EXPERT_IMBALANCE: placement.expert_imbalance,
        semconv.DECODE_STEP: placement.decode_step_s,
        semconv.REPORT_AGE: placement.report_age_s,
        semconv.ERROR_SHARE: placement.error_share,
        semconv.OUTPUT_RATE: per_s,
    }
    for metric, value in figures.items():
        if value is not None:  # an unknown value has no sample
            samples[metric].append((labels, float(value)))
