"""What the image is made of: the lock on other machines, and the bill of materials."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.stack.chart.helm import ROOT

LOCK = ROOT / "requirements-image.lock"
TIMEOUT_S = 900


def locked() -> dict[str, str]:
    """Versions of the image's packages, keyed by name."""
    found = re.findall(r"^([A-Za-z0-9_.-]+)==([^ \\;]+)", LOCK.read_text(), re.MULTILINE)
    return {name.lower().replace("_", "-"): version for name, version in found}


def test_every_package_has_a_wheel_for_arm64_with_a_locked_hash(tmp_path: Path) -> None:
    platforms = [f"--platform=manylinux{part}_aarch64" for part in ("_2_28", "_2_17", "2014")]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps"),
            *("--ignore-installed", "--target", str(tmp_path), "--only-binary=:all:"),
            *("--python-version=3.11", "--implementation=cp", "--require-hashes", *platforms),
            *("--report", str(tmp_path / "report.json"), "-r", str(LOCK)),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    chosen = json.loads((tmp_path / "report.json").read_text())["install"]
    names = {one["metadata"]["name"].lower().replace("_", "-") for one in chosen}
    assert names == locked().keys()


def test_the_bill_of_materials_names_every_package_with_its_hashes() -> None:
    subprocess.run(["make", "sbom"], cwd=ROOT, check=True, timeout=TIMEOUT_S, capture_output=True)
    bill = json.loads((ROOT / "sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    components = {one["name"].lower().replace("_", "-"): one for one in bill["components"]}
    assert {name: one["version"] for name, one in components.items()} == locked()
    for name, one in components.items():
        (distribution,) = one["externalReferences"]
        assert distribution["hashes"], name
        assert {each["alg"] for each in distribution["hashes"]} == {"SHA-256"}
