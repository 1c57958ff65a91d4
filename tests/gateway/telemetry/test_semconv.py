"""The names that dashboards, alerts and autoscalers depend on: a change here is a breaking one."""

from __future__ import annotations

import ast
from pathlib import Path

from prometheus_client.exposition import generate_latest

from gateway.telemetry import semconv
from gateway.telemetry.instruments import MAX_TENANTS, OTHER, Instruments
from gateway.telemetry.metric import Metric, MetricKind

ROOT = Path(__file__).resolve().parents[3]
FROZEN = ROOT / "tests" / "golden" / "metric_names.txt"


def shown(metric: Metric) -> str:
    suffix = "_total" if metric.kind is MetricKind.COUNTER else ""
    return f"{metric.kind} {metric.prometheus}{suffix}{{{','.join(metric.prometheus_labels)}}}"


def metrics() -> list[Metric]:
    return [value for value in vars(semconv).values() if isinstance(value, Metric)]


def test_metric_names_and_labels_are_frozen() -> None:
    assert sorted(map(shown, metrics())) == FROZEN.read_text().splitlines()


def test_every_metric_is_in_one_of_the_lists_that_are_exported() -> None:
    listed = (*semconv.HISTOGRAMS, *semconv.COUNTERS, *semconv.FLEET_GAUGES, *semconv.SCHEDULER)
    alone = (semconv.LOG_LINES_DROPPED, semconv.ALLOCATED_USD)
    assert {metric.name for metric in listed} == {
        metric.name for metric in metrics() if metric not in alone
    }
    assert len({metric.prometheus for metric in metrics()}) == len(metrics())


def test_no_other_module_spells_a_name() -> None:
    prefixes = ("moegate.", "gen_ai.", "rpc.", "moegate_")
    names = {value for value in vars(semconv).values() if isinstance(value, str)} | {
        metric.name for metric in metrics()
    }
    dotted = {name for name in names if name.startswith(prefixes)}
    for path in (ROOT / "gateway").rglob("*.py"):
        if path.name in ("semconv.py", "pool_gauges.py", "scheduler_gauges.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in dotted, f"{path}:{node.lineno}: {node.value}"


def test_tenants_of_a_metric_are_bounded() -> None:
    instruments = Instruments()
    for number in range(3 * MAX_TENANTS):
        name = instruments.tenant(f"team-{number}")
        instruments.add(semconv.COST_USD, 1.0, name, "local", "charged")
    assert instruments.tenant("team-0") == "team-0"
    page = generate_latest(instruments.registry).decode()
    series = [line for line in page.splitlines() if line.startswith("moegate_cost_usd_total{")]
    assert len(series) == MAX_TENANTS + 1
    [other] = [line for line in series if OTHER in line]
    assert float(other.rpartition(" ")[2]) == 2 * MAX_TENANTS
