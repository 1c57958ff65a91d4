"""Labels of requests on the metrics page: each needs a name of its own there."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load.file import parse
from gateway.config.problems import ConfigError
from gateway.config.telemetry import label_name


def parsed(telemetry: str) -> tuple[str, ...]:
    remotes = "remotes: [{name: far, remote_class: eu, model: moe, url: http://127.0.0.1:9}]"
    text = f"{remotes}\ntelemetry: {{{telemetry}}}"
    return parse(text, "moegate.yaml", Path()).telemetry.metric_labels


def test_they_are_named_as_kubernetes_labels_are() -> None:
    keys = parsed("metric_labels: [team, cost.center-1]")
    assert [label_name(key) for key in keys] == ["label_team", "label_cost_center_1"]


@pytest.mark.parametrize(
    ("telemetry", "problem"),
    [
        ("metric_labels: [cost-center, team, cost.center]", "telemetry.metric_labels[2]"),
        ("metric_labels: [team, team]", "telemetry.metric_labels[1]"),
        ("metric_labels: [Team]", "telemetry.metric_labels[0]"),
        ("metric_labels: [a, b, c, d]", "telemetry.metric_labels"),
        ("metric_label_values: 0", "telemetry.metric_label_values"),
        ("metric_label_values: 1001", "telemetry.metric_label_values"),
    ],
)
def test_others_are_refused_by_name(telemetry: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(telemetry)
    assert any(each.path == problem for each in caught.value.problems), caught.value.problems
