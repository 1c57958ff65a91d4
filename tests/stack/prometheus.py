"""A real Prometheus: Debian's, in a temporary folder, scraping one target every half second."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.stack.install import apt_install

START_S = 60
COMPARISON = re.compile(r"\s(?:>|<|==)\s*-?[0-9.]+\s*$")
"""The end of an alert's expression."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A server that runs."""

    port: int

    def query(self, expression: str) -> list[dict[str, Any]]:
        """An instant query. Raises ValueError where Prometheus refuses it."""
        return self._ask("query", query=expression)

    def range(self, expression: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
        """The same over time, a value each second."""
        return self._ask("query_range", query=expression, start=start_s, end=end_s, step=1)

    def _ask(self, what: str, **parameters: object) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters['query']}: {error.read().decode()}") from error
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


def install() -> None:
    """Prometheus and promtool."""
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        apt_install("prometheus")


@contextlib.contextmanager
def running_prometheus(target: str, rules: Path) -> Iterator[Prometheus]:
    """Runs one that scrapes `target`, host:port, under these rules."""
    install()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="moegate-prometheus-") as folder:
        config = Path(folder) / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 500ms, evaluation_interval: 1s}\n"
            f"rule_files: ['{rules.resolve()}']\n"
            "scrape_configs:\n"
            f"  - {{job_name: moegate, static_configs: [{{targets: ['{target}']}}]}}\n"
        )
        command = (
            *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/data"),
            f"--web.listen-address=127.0.0.1:{port}",
        )
        with (Path(folder) / "log").open("w+") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            try:
                _until_ready(process, port, Path(folder) / "log")
                yield Prometheus(port)
            finally:
                process.terminate()
                process.wait(30)


def free_port() -> int:
    """A port of loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=5),
        ):
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"Prometheus is not ready:\n{log.read_text()}")


def panels(dashboard: Path) -> list[dict[str, Any]]:
    """The dashboard's panels with queries, its variables filled in: all of them, half a minute."""
    found = []
    for panel in json.loads(dashboard.read_text())["panels"]:
        for target in panel.get("targets", ()):
            target["expr"] = _filled(target["expr"])
        if panel.get("targets"):
            found.append(panel)
    return found


def _filled(expression: str) -> str:
    variables = dict.fromkeys(("$model", "$pool", "$instance"), ".*")
    for name, value in {"$__rate_interval": "30s", **variables}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def measured(alert: str) -> str:
    """What an alert compares with its threshold: there must be data, on most days below it."""
    assert COMPARISON.search(alert), alert
    return COMPARISON.sub("", alert)
