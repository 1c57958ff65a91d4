"""A real Prometheus scrapes the running demo: every query of dashboard and alerts has data."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.stack.prometheus import (
    Prometheus,
    free_port,
    install,
    measured,
    panels,
    running_prometheus,
)

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "moegate"
RULES, DASHBOARD = CHART / "alerts.yaml", CHART / "dashboards" / "moegate.json"
DEMO_S = 45
PATIENCE_S = 180


@pytest.fixture(scope="module")
def prometheus() -> Iterator[Prometheus]:
    """One that has seen a demo from before its burst until after it."""
    port = free_port()
    with running_prometheus(f"127.0.0.1:{port}", RULES) as server:
        demo = subprocess.Popen(
            (sys.executable, "-m", "moegate", "demo", "--seconds", str(DEMO_S), "--metrics-listen",
             f"127.0.0.1:{port}", "--kill-replica-after", str(0.8 * DEMO_S)),
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield server
        finally:
            demo.terminate()
            demo.communicate(timeout=PATIENCE_S)


def until_data(server: Prometheus, expressions: dict[str, str]) -> dict[str, str]:
    """Asks until each expression has had data; returns those that had none in time."""
    left = dict(expressions)
    deadline_s = time.monotonic() + PATIENCE_S
    while left and time.monotonic() < deadline_s:
        for name, expression in list(left.items()):
            if server.query(expression):
                del left[name]
        time.sleep(0.5)
    return left


def test_promtool_finds_the_rules_right() -> None:
    install()
    done = subprocess.run(
        ("promtool", "check", "rules", RULES), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_query_of_the_dashboard_and_the_alerts_has_data(prometheus: Prometheus) -> None:
    expressions = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels(DASHBOARD)
        for target in panel["targets"]
    }
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            expressions[rule["alert"]] = measured(rule["expr"])
    assert len(expressions) > 40
    assert until_data(prometheus, expressions) == {}


def test_every_alert_has_its_line_in_the_runbook() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    headings = {line.removeprefix("## ").strip() for line in runbook.splitlines() if "## " in line}
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            anchor = rule["annotations"]["runbook_url"]
            assert anchor == f"docs/runbook.md#{rule['alert'].lower()}"
            assert rule["alert"] in headings
