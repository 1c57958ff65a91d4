"""Pages of several processes add up, and what a process has counted stays when it has ended."""

from __future__ import annotations

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from gateway.telemetry.page_samples import AddedPages, PageSamples, added, page_samples


def registry(count: int, seconds: float, **exemplar: str) -> CollectorRegistry:
    made = CollectorRegistry(auto_describe=False)
    counter = Counter("done", "Requests.", ["kind"], registry=made)
    counter.labels("a").inc(count)
    Histogram("took_seconds", "Time.", buckets=(1.0, 2.0), registry=made).observe(
        seconds, exemplar or None
    )
    return made


def test_counters_and_buckets_add_up() -> None:
    pages = [
        page_samples(registry(2, 0.5, trace_id="one")),
        page_samples(registry(3, 1.5)),
        PageSamples(),
        page_samples(None),
    ]
    travelled = [
        msgspec.msgpack.decode(msgspec.msgpack.encode(page), type=PageSamples) for page in pages
    ]
    assert travelled == pages
    both = AddedPages()
    both.page = added(travelled)
    shown = CollectorRegistry(auto_describe=False)
    shown.register(both)
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    text = encode(shown).decode()
    assert 'done_total{kind="a"} 5.0' in text
    assert "took_seconds_count 2.0" in text
    assert 'took_seconds_bucket{le="1.0"} 1.0 # {trace_id="one"} 0.5' in text
    assert 'took_seconds_bucket{le="+Inf"} 2.0' in text
    assert "took_seconds_sum 2.0" in text


def test_series_of_one_process_alone_stay_as_they_are() -> None:
    made = CollectorRegistry(auto_describe=False)
    Gauge("level", "Level.", registry=made).set(4)
    [family] = added([page_samples(made), page_samples(registry(1, 0.1))]).families[:1]
    assert [(sample.name, sample.value) for sample in family.samples] == [("level", 4.0)]
