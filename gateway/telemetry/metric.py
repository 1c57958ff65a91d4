"""What describes one metric; all metrics with their names stand in `semconv.py`."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class MetricKind(enum.StrEnum):
    """Type of a metric."""

    HISTOGRAM = "histogram"
    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric. `unit`: UCUM with annotations in braces; `labels`: attribute names."""

    name: str
    kind: MetricKind
    unit: str
    labels: tuple[str, ...]
    about: str
    buckets: tuple[float, ...] = ()

    @property
    def prometheus(self) -> str:
        """Name on the metrics page by OpenTelemetry's rules for Prometheus. The client adds _total
        to counters, and _bucket, _sum and _count to histograms."""
        name = self.name.replace(".", "_")
        suffix = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        return name if name.endswith(suffix) else name + suffix

    @property
    def prometheus_labels(self) -> tuple[str, ...]:
        """Labels on the metrics page."""
        return tuple(label.replace(".", "_") for label in self.labels)


def histogram(
    name: str, unit: str, labels: tuple[str, ...], buckets: tuple[float, ...], about: str
) -> Metric:
    """Describes a histogram. `buckets`: upper bounds, in `unit`."""
    return Metric(
        name=name, kind=MetricKind.HISTOGRAM, unit=unit, labels=labels, buckets=buckets, about=about
    )


def counter(name: str, unit: str, labels: tuple[str, ...], about: str) -> Metric:
    """Describes a counter."""
    return Metric(name=name, kind=MetricKind.COUNTER, unit=unit, labels=labels, about=about)


def gauge(name: str, unit: str, labels: tuple[str, ...], about: str) -> Metric:
    """Describes a gauge."""
    return Metric(name=name, kind=MetricKind.GAUGE, unit=unit, labels=labels, about=about)
