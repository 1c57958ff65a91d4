"""`scheduler/` and `simulation/` are pure: what they may import is checked in their source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PURE = {"scheduler": {"scheduler"}, "simulation": {"simulation", "scheduler"}}
# What a pure module may use beside its own package. Clocks, I/O, tasks and hidden randomness are
# in none of these; numpy's generators take a seed (see below).
ALLOWED = {
    "__future__", "abc", "bisect", "collections", "dataclasses", "decimal", "enum", "fractions",
    "functools", "hashlib", "heapq", "itertools", "json", "math", "numpy", "operator",
    "types", "typing",
}  # fmt: skip
SOURCES = [path for package in PURE for path in sorted((ROOT / package).rglob("*.py"))]


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: name the package"
            yield node.module or ""


def violations(source: str, package: str) -> list[str]:
    tree = ast.parse(source)
    allowed = ALLOWED | PURE[package]
    found = [name for name in imported(tree) if name.partition(".")[0] not in allowed]
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Call) else ""
        seeded = ("Generator", "default_rng", "SeedSequence", "PCG64")
        if text.startswith("np.random.") and text.partition("(")[0].split(".")[2] not in seeded:
            found.append(f"{text}: hidden state")
        if text.endswith("default_rng()"):
            found.append(f"{text}: no seed")
        if text.startswith(("open(", "print(", "input(")):
            found.append(f"{text}: I/O")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pure_packages_import_nothing_that_touches_the_world(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert violations(path.read_text(), package) == []


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio",
        "import time",
        "from grpc import aio",
        "import random",
        "import aiohttp.web",
        "from opentelemetry import trace",
        "from gateway import config",
        "import numpy as np\nnp.random.random()",
        "import numpy as np\nrng = np.random.default_rng()",
        "open('x')",
    ],
)
def test_the_rule_finds_what_it_forbids(source: str) -> None:
    assert violations(source, "scheduler") != []


def test_the_scheduler_does_not_know_the_simulation() -> None:
    assert violations("from simulation import engine", "scheduler") != []
    assert violations("from scheduler import core", "simulation") == []


def test_the_gateway_never_imports_an_engine() -> None:
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        roots = {name.partition(".")[0] for name in imported(ast.parse(path.read_text()))}
        assert not roots & {"vllm", "torch", "transformers"}, path
