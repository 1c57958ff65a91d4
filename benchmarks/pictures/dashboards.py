"""Pictures of the dashboard's panels from a demo that runs now, scraped by a real Prometheus.

Grafana draws the dashboard; this draws the same queries, so that the docs can show what they look
like. Needs Debian's `prometheus` (it installs it, as root).

    python -m benchmarks.pictures.dashboards docs/img [--seconds 120]
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from tests.stack.prometheus import Prometheus, free_port, panels, running_prometheus

CHART = Path(__file__).resolve().parents[2] / "helm" / "moegate"
COLUMNS, PANELS = 3, 14
"""Of one picture."""
WARM_S = 8.0
UNITS = {"s": "s", "reqps": "1/s", "percentunit": "%", "currencyUSD": "$", "short": ""}


def main() -> None:
    """Runs the demo and draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=120.0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with running_prometheus(f"127.0.0.1:{port}", CHART / "alerts.yaml") as server:
        demo = (sys.executable, "-m", "moegate", "demo", "--seconds", str(arguments.seconds))
        subprocess.run((*demo, "--metrics-listen", f"127.0.0.1:{port}"), check=False)
        end_s = time.time()
        start_s = first_sample_s(server, end_s) + WARM_S
        rows = panels(CHART / "dashboards" / "moegate.json")
        for number in range(0, len(rows), PANELS):
            path = arguments.folder / f"dashboard-{number // PANELS + 1}.png"
            draw(server, rows[number : number + PANELS], start_s, end_s, path)
            print(path)


def first_sample_s(server: Prometheus, end_s: float) -> float:
    """When the gateway was first scraped."""
    [series] = server.range("moegate_requests_in_flight", end_s - 3600, end_s)
    return float(series["values"][0][0])


def draw(
    server: Prometheus, rows: list[dict[str, Any]], start_s: float, end_s: float, path: Path
) -> None:
    """One picture of some panels."""
    lines = math.ceil(len(rows) / COLUMNS)
    figure, axes = plt.subplots(
        lines, COLUMNS, figsize=(5.2 * COLUMNS, 3.1 * lines), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(rows) :]:
        axis.axis("off")
    for axis, panel in zip(axes.flat, rows, strict=False):
        unit = panel["fieldConfig"]["defaults"]["unit"]
        scale = 100 if unit == "percentunit" else 1
        seen = [0.0]
        for target in panel["targets"]:
            for series in server.range(target["expr"], start_s, end_s):
                times = [float(at) - start_s for at, _ in series["values"]]
                values = [float(value) * scale for _, value in series["values"]]
                seen += filter(math.isfinite, values)
                axis.plot(times, values, label=legend(target["legendFormat"], series["metric"]))
        axis.set_title(panel["title"], fontsize=11)
        axis.set_ylabel(UNITS[unit])
        axis.set_xlabel("seconds of the demo", fontsize=8)
        # What never goes below zero has no axis there; a flat zero, one that shows it as such.
        axis.set_ylim(bottom=0.0 if min(seen) >= 0 else None, top=None if any(seen) else 1.0)
        axis.grid(alpha=0.3)
        handles, _ = axis.get_legend_handles_labels()
        if handles:
            axis.legend(fontsize=7, ncols=2 if len(handles) > 4 else 1, framealpha=0.6)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def legend(form: str, labels: dict[str, str]) -> str:
    """What Grafana would write."""
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), form)
    return " ".join(text.split())


if __name__ == "__main__":
    main()
