"""The counters and histograms of several processes on one metrics page, each counted once.

A process that has ended leaves its counts behind, so that no counter falls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSample:
    """One line of the page. `exemplar`: its labels, value and Unix seconds."""

    name: str
    labels: Labels
    value: float
    exemplar: tuple[Labels, float, float | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFamily:
    """The samples of one metric."""

    name: str
    about: str
    type: str
    samples: tuple[PageSample, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSamples:
    """The counters and histograms of one process."""

    families: tuple[PageFamily, ...] = ()


def page_samples(registry: CollectorRegistry | None) -> PageSamples:
    """Reads a registry. None: metrics are off."""
    if registry is None:
        return PageSamples()
    return PageSamples(families=tuple(map(_family, registry.collect())))


def added(pages: Iterable[PageSamples]) -> PageSamples:
    """Adds the pages of several processes. Of the exemplars of a sample the last one stays."""
    heads: dict[str, PageFamily] = {}
    sums: dict[str, dict[tuple[str, Labels], PageSample]] = {}
    for page in pages:
        for family in page.families:
            heads.setdefault(family.name, family)
            found = sums.setdefault(family.name, {})
            for sample in family.samples:
                key = sample.name, sample.labels
                before = found.get(key)
                if before is not None:
                    sample = replace(
                        sample,
                        value=sample.value + before.value,
                        exemplar=sample.exemplar or before.exemplar,
                    )
                found[key] = sample
    return PageSamples(
        families=tuple(
            replace(head, samples=tuple(sums[name].values())) for name, head in heads.items()
        )
    )


class AddedPages(Collector):
    """Collector of the last `page`, for the registry of the metrics page."""

    def __init__(self) -> None:
        self.page = PageSamples()

    def collect(self) -> Iterator[Metric]:
        """Yields each metric."""
        for family in self.page.families:
            metric = Metric(family.name, family.about, family.type)
            for sample in family.samples:
                metric.add_sample(
                    sample.name,
                    dict(sample.labels),
                    sample.value,
                    exemplar=_exemplar(sample),
                )
            yield metric


def _family(metric: Metric) -> PageFamily:
    samples = []
    for found in metric.samples:
        exemplar = found.exemplar
        samples.append(
            PageSample(
                name=found.name,
                labels=tuple(found.labels.items()),
                value=float(found.value),
                exemplar=None
                if exemplar is None
                else (tuple(exemplar.labels.items()), exemplar.value, _seconds(exemplar.timestamp)),
            )
        )
    return PageFamily(
        name=metric.name, about=metric.documentation, type=metric.type, samples=tuple(samples)
    )


def _seconds(timestamp: Any) -> float | None:
    return None if timestamp is None else float(timestamp)


def _exemplar(sample: PageSample) -> Exemplar | None:
    if sample.exemplar is None:
        return None
    labels, value, at_s = sample.exemplar
    return Exemplar(dict(labels), value, at_s)
