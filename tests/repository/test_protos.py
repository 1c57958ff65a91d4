"""The protos stay compatible with those of the last release (`protos/released.binpb`)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUF = Path(sys.executable).with_name("buf")
GENERATION = Path("moegate/v1/generation.proto")


def breaking(protos: Path) -> subprocess.CompletedProcess[str]:
    """Compares protos with those of the last release; without a network."""
    command: list[str | Path] = [BUF, "breaking", "--against", ROOT / "protos" / "released.binpb"]
    return subprocess.run(command, cwd=protos, capture_output=True, text=True, timeout=60)


def test_no_breaking_change() -> None:
    found = breaking(ROOT / "protos")
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("  optional int64 max_cost_nano_usd = 24;\n", ""),
        ("int64 max_cost_nano_usd = 24", "int64 max_cost_nano_usd = 99"),
        ("repeated string stop = 7", "repeated bytes stop = 7"),
        ("uint32 choices = 8", "uint32 number_of_choices = 8"),
    ],
)
def test_a_breaking_change_is_found(tmp_path: Path, was: str, becomes: str) -> None:
    protos = tmp_path / "protos"
    shutil.copytree(ROOT / "protos", protos, ignore=shutil.ignore_patterns("*.py*", "__pycache__"))
    text = (protos / GENERATION).read_text()
    assert was in text
    (protos / GENERATION).write_text(text.replace(was, becomes))
    found = breaking(protos)
    assert found.returncode != 0
    assert "generation.proto" in found.stdout


def test_an_addition_is_no_breaking_change(tmp_path: Path) -> None:
    protos = tmp_path / "protos"
    shutil.copytree(ROOT / "protos", protos, ignore=shutil.ignore_patterns("*.py*", "__pycache__"))
    text = (protos / GENERATION).read_text()
    added = "// New.\nmessage Added {\n  // New.\n  string field = 1;\n}\n"
    (protos / GENERATION).write_text(text + added)
    assert breaking(protos).returncode == 0
