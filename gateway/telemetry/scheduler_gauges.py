"""Metrics of who has the scheduler, with their names. `semconv` has all names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.core import Metric as PrometheusMetric

from gateway.telemetry.metric import counter, gauge

LEADS = gauge(
    "moegate.scheduler.leads",
    "1",
    (),
    "1: the scheduler is in this gateway; 0: another gateway of the cluster has it, or none.",
)
TERM = gauge(
    "moegate.scheduler.term",
    "1",
    (),
    "Number of the newest term that this gateway of a cluster knows of; 0: there is no cluster.",
)
LEASE_AGE = gauge(
    "moegate.scheduler.lease.age",
    "s",
    (),
    "Time since the leader of a cluster has taken or renewed its lease.",
)
TAKEOVERS = counter(
    "moegate.scheduler.takeovers",
    "{term}",
    (),
    "Terms that this gateway has begun as the leader of its cluster.",
)
KEYS_UNKEPT = counter(
    "moegate.scheduler.keys.unkept",
    "{request}",
    (),
    "Requests of the leader's own front that went on before another gateway of the cluster was "
    "known to keep their idempotency key: it was too slow to say so.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Who has the scheduler, as one gateway knows it. `lease_age_s`: None: it holds no lease.
    `unkept_keys`: see `KEYS_UNKEPT`."""

    leads: bool
    term: int
    lease_age_s: float | None
    takeovers: int
    unkept_keys: int = 0


ALONE = Standing(leads=True, term=0, lease_age_s=None, takeovers=0)
"""A gateway without a cluster."""


def standing_metrics(standing: Standing) -> Iterator[PrometheusMetric]:
    """Yields one family for each metric. What is not known has no sample."""
    values = (
        (LEADS, float(standing.leads)),
        (TERM, float(standing.term)),
        (LEASE_AGE, standing.lease_age_s),
    )
    for metric, value in values:
        family = GaugeMetricFamily(metric.prometheus, metric.about)
        if value is not None:
            family.add_metric((), value)
        yield family
    counts = (TAKEOVERS, standing.takeovers), (KEYS_UNKEPT, standing.unkept_keys)
    for metric, count in counts:
        yield CounterMetricFamily(metric.prometheus, metric.about, value=count)
