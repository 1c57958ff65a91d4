"""checkov over everything that the examples render: what it finds is known, with a reason each."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.stack.chart.helm import EXAMPLES, ROOT, Helm

CHECKOV = "checkov==3.3.30"
VENV = ROOT / ".cache" / "checkov"
TIMEOUT_S = 600
LISTED = re.compile(r"^\| (CKV2?_K8S_[0-9]+) \|", re.MULTILINE)


@pytest.fixture(scope="module")
def checkov() -> Path:
    """Its executable, in an environment of its own."""
    executable = VENV / "bin" / "checkov"
    if not executable.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)
        pip = (VENV / "bin" / "pip", "install", "-q", "--disable-pip-version-check", CHECKOV)
        subprocess.run(pip, check=True, timeout=TIMEOUT_S)
    return executable


def test_what_checkov_finds_is_listed_with_its_reason(
    checkov: Path, helm: Helm, tmp_path: Path
) -> None:
    for example in EXAMPLES:
        objects = helm.render(example=example).objects.values()
        (tmp_path / f"{example}.yaml").write_text(yaml.safe_dump_all(objects))
    done = subprocess.run(
        [checkov, "-d", tmp_path, "--framework", "kubernetes", "--quiet", "-o", "json"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 100
    assert report["summary"]["parsing_errors"] == 0
    found = {check["check_id"] for check in report["results"]["failed_checks"]}
    listed = set(LISTED.findall((ROOT / "docs" / "deployment.md").read_text()))
    assert found == listed
