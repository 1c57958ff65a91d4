"""Histograms and counters in a Prometheus registry.

They use the Prometheus client instead of the OpenTelemetry metrics SDK: a measurement costs 2 µs
instead of 18, with about twelve per request, and the SDK's Prometheus reader drops the exemplars
that link a bucket to a trace.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from gateway.accounting.reports.statement import IDLE_ROW, REST_ROW
from gateway.config.money import NANO_USD
from gateway.config.telemetry import TelemetryConfig, label_name
from gateway.domain.tags import decoded
from gateway.telemetry import attributes, semconv
from gateway.telemetry.metric import Metric
from scheduler.metering.meter import PoolHour
from scheduler.metering.settlement import SettledAttempt

MAX_TENANTS = 100
"""Number of tenants with their own series. The spend of all others counts as `_other`."""
OTHER = "_other"
RESERVED = "__"
"""Beginning of names that the gateway gives itself."""
MOST_SERIES = 2000
"""Most combinations of labels that requests have; all others count as one, of `OTHER` alone."""
_REST = ("unavailable_nano_usd", "external_nano_usd", "unobserved_nano_usd")

Exemplar = dict[str, str]


class BoundedValues:
    """Values of one label: the first `most` stand for themselves, the rest are `OTHER`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """The label of a value. Empty stays empty: no label."""
        if not value or value in self._known:
            return value
        if len(self._known) >= self._most or value.startswith(RESERVED):
            return OTHER
        self._known.add(value)
        return value


class Allocation:
    """A counter of what everything cost, by tenant, model, pool and labels of requests.

    The process that has the ledger counts, each attempt and each hour of a pool once. What no
    request used has rows of its own, with the names that OpenCost gives them. There are at most
    `MOST_SERIES` rows, one more, and two of each pool. The methods take microseconds and never
    raise.
    """

    def __init__(self, registry: CollectorRegistry, keys: Sequence[str], most_values: int) -> None:
        """`keys`: labels of requests that the metric has; `most_values`: values of each."""
        metric = semconv.ALLOCATED_USD
        names = (*metric.prometheus_labels, *map(label_name, keys))
        self._counter = Counter(metric.prometheus, metric.about, names, registry=registry)
        self._tenants = BoundedValues(MAX_TENANTS)
        self._values = {key: BoundedValues(most_values) for key in keys}
        self._series: dict[tuple[str, ...], Counter] = {}
        self._owed_nano_usd: defaultdict[tuple[str, str], int] = defaultdict(int)

    def settled(self, account: SettledAttempt) -> None:
        """Counts an attempt. A `Sink`. One whose cost is unknown is in no sum."""
        if not account.metered_nano_usd:
            return
        labels = decoded(account.labels_json) if self._values else {}
        row = (
            self._tenants.of(account.tenant),
            account.model,
            account.pool or account.placement,
            attributes.route(account.kind),
            *(values.of(labels.get(key, "")) for key, values in self._values.items()),
        )
        series = self._series.get(row)
        if series is None:
            if len(self._series) >= MOST_SERIES:
                row = tuple(OTHER for _ in row)
            series = self._series[row] = self._counter.labels(*row)
        series.inc(account.metered_nano_usd / NANO_USD)

    def booked(self, hours: Sequence[PoolHour]) -> None:
        """Counts what pools cost beside their requests, as it is booked."""
        for hour in hours:
            self._add(IDLE_ROW, hour.pool, hour.amounts["idle_nano_usd"])
            self._add(REST_ROW, hour.pool, sum(hour.amounts[name] for name in _REST))

    def _add(self, name: str, pool: str, nano_usd: int) -> None:
        # A correction may be below zero. The counter waits for it, because it must not fall.
        owed = self._owed_nano_usd[name, pool] + nano_usd
        if owed > 0:
            row = (name, "", pool, attributes.LOCAL, *(name for _ in self._values))
            self._counter.labels(*row).inc(owed / NANO_USD)
            owed = 0
        self._owed_nano_usd[name, pool] = owed


class Instruments:
    """Records measurements. It caches the labelled child of each metric in a dict."""

    def __init__(self, settings: TelemetryConfig | None = None) -> None:
        """`settings`: None: the default ones."""
        settings = settings or TelemetryConfig()
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=False)
        self._histograms = {
            metric.name: Histogram(
                metric.prometheus,
                metric.about,
                metric.prometheus_labels,
                buckets=metric.buckets,
                registry=self.registry,
            )
            for metric in semconv.HISTOGRAMS
        }
        self._counters = {
            metric.name: Counter(
                metric.prometheus, metric.about, metric.prometheus_labels, registry=self.registry
            )
            for metric in semconv.COUNTERS
        }
        self._observed: dict[tuple[str, ...], Histogram] = {}
        self._counted: dict[tuple[str, ...], Counter] = {}
        self._tenants = BoundedValues(MAX_TENANTS)
        self.allocation = Allocation(
            self.registry, settings.metric_labels, settings.metric_label_values
        )

    def observe(
        self, metric: Metric, value: float, *labels: str, exemplar: Exemplar | None = None
    ) -> None:
        """Records a measurement of a histogram. `labels`: values in the order of the metric."""
        key = (metric.name, *labels)
        child = self._observed.get(key)
        if child is None:
            child = self._observed[key] = self._histograms[metric.name].labels(*labels)
        child.observe(value, exemplar)

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """Adds to a counter. `labels`: values in the order of the metric."""
        key = (metric.name, *labels)
        child = self._counted.get(key)
        if child is None:
            child = self._counted[key] = self._counters[metric.name].labels(*labels)
        child.inc(value)

    def begin(self, metric: Metric, label: str, values: Sequence[str]) -> None:
        """Creates the series of a counter with two labels at 0, where they are missing. `values`:
        all values of the second label."""
        if (metric.name, label, values[0]) not in self._counted:
            for value in values:
                self.add(metric, 0, label, value)

    def tenant(self, name: str) -> str:
        """The label of a tenant: its name for the first `MAX_TENANTS`, then `OTHER`."""
        return self._tenants.of(name)
