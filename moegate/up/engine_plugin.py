"""Makes moegate's plugin importable for a vLLM of another Python environment.

    python -m moegate.up.engine_plugin FOLDER

writes what vLLM's PYTHONPATH needs into a folder, such as a volume that both containers see.
"""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "vllm_plugin"
ROUTE = "moegate.vllm_plugin.route.StepsRoute"
FLAGS = ("--enable-logging-iteration-details", f"--middleware={ROUTE}")
"""Flags of `vllm serve` that the plugin needs."""
COUNT_EXPERTS = "MOEGATE_EXPERTS"
"""Variable that makes the plugin count experts, if it is 1."""


def with_plugin(
    environment: Mapping[str, str], folder: Path, *, count_experts: bool = False
) -> dict[str, str]:
    """The environment in which vLLM also finds the plugin, which is written into `folder`."""
    paths = [str(make_plugin_folder(folder)), environment.get("PYTHONPATH", "")]
    counting = {COUNT_EXPERTS: "1"} if count_experts else {}
    return {**environment, **counting, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def make_plugin_folder(folder: Path) -> Path:
    """Writes into `folder` what PYTHONPATH needs, so that vLLM finds the plugin and its entry
    points as if they were installed; returns the folder."""
    package = folder / "moegate"
    package.mkdir(parents=True, exist_ok=True)
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SOURCE, package / SOURCE.name, ignore=skipped, dirs_exist_ok=True)
    project = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]
    name, version = project["name"], project["version"]
    facts = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    facts.mkdir(exist_ok=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{point} = {target}" for point, target in points.items())]
    (facts / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


if __name__ == "__main__":
    make_plugin_folder(Path(sys.argv[1]))
