"""Series of counters that begin at 0."""

from __future__ import annotations

from gateway.telemetry import semconv
from gateway.telemetry.instruments import Instruments


def test_a_counter_begins_at_zero_once_and_keeps_what_was_counted() -> None:
    instruments = Instruments()

    def counted(kind: str) -> float | None:
        name = f"{semconv.DEVIATIONS.prometheus}_total"
        labels = dict(zip(semconv.DEVIATIONS.prometheus_labels, ("own/a", kind), strict=True))
        return instruments.registry.get_sample_value(name, labels)

    assert counted("usage_zero") is None
    instruments.begin(semconv.DEVIATIONS, "own/a", ("output_cut", "usage_zero"))
    assert (counted("output_cut"), counted("usage_zero")) == (0.0, 0.0)
    instruments.add(semconv.DEVIATIONS, 1, "own/a", "usage_zero")
    instruments.begin(semconv.DEVIATIONS, "own/a", ("output_cut", "usage_zero"))
    assert counted("usage_zero") == 1.0
