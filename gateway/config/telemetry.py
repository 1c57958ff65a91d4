"""The part of the configuration on metrics and logs. Traces follow the OTEL_* variables alone."""

from __future__ import annotations

import enum
import re
from typing import Annotated

import msgspec
from msgspec import Meta

LabelKey = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9_.-]{0,31}$",
        description="Key of a label: a small letter, then small letters, digits or one of _.-",
    ),
]


MOST_METRIC_LABELS = 3


class LogFormat(enum.StrEnum):
    """How the log is written."""

    AUTO = "auto"
    """Plain on a terminal, JSON elsewhere."""
    PLAIN = "plain"
    """One line of text."""
    JSON = "json"
    """One JSON object a line, with the ids of the trace, and a line for every request."""


class TelemetryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Metrics and logs. Traces have no field: the standard OTEL_* variables configure them."""

    metrics_listen: (
        Annotated[
            str,
            Meta(pattern=r"^(\[[0-9a-fA-F:.]+\]|[^:\s]+):[0-9]{1,5}$", description="host:port"),
        ]
        | None
    ) = None
    """Address of the Prometheus page, /metrics; port 0 takes a free one; absent: no metrics."""
    metric_labels: tuple[LabelKey, ...] = ()
    """Labels of requests by which the metric `moegate_cost_allocation_usd_total` tells cost,
    at most three: `team` becomes `label_team`."""
    metric_label_values: Annotated[int, Meta(ge=1, le=1000)] = 50
    """Values of each of them that have series of their own; the others count as `_other`."""
    log_format: LogFormat = LogFormat.AUTO
    """How `moegate serve` writes its log."""
    record_content: bool = False
    """Whether prompts and outputs are recorded on the spans of attempts. They hold what users
    wrote, so that everybody who reads the traces can read it."""


def label_name(key: str) -> str:
    """The name of a request's label on the metrics page, as kube-state-metrics names labels of
    Kubernetes."""
    return f"label_{re.sub('[^a-z0-9_]', '_', key)}"
