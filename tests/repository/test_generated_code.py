"""The committed stubs are those of the committed protos, and every public item is described."""

from __future__ import annotations

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PROTOS = sorted((ROOT / "protos/moegate/v1").glob("*.proto"))


def test_committed_stubs_match_the_protos(tmp_path: Path) -> None:
    plugin = Path(sys.executable).with_name("protoc-gen-mypy_grpc")
    assert plugin.exists(), f"{plugin} is missing: run make .venv/.ready"
    include = Path(grpc_tools.__file__).with_name("_proto")
    arguments = [
        "protoc",
        f"-I{ROOT / 'protos'}",
        f"-I{include}",
        f"--plugin=protoc-gen-mypy_grpc={plugin}",
        *(f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")),
        *map(str, PROTOS),
    ]
    assert protoc.main(arguments) == 0
    made = {path.name: path.read_text() for path in (tmp_path / "moegate/v1").iterdir()}
    committed = {
        path.name: path.read_text()
        for path in (ROOT / "protos/moegate/v1").glob("*_pb2*")
        if path.suffix in (".py", ".pyi")
    }
    assert len(PROTOS) * 4 == len(made)
    assert made.keys() == committed.keys()
    stale = [name for name in made if made[name] != committed[name]]
    assert stale == [], "run `make proto` and commit what it writes"


def test_committed_messages_of_other_programs_match_their_protos(tmp_path: Path) -> None:
    protos = sorted(ROOT.glob("gateway/upstream/*/*.proto"))
    protos += sorted(ROOT.glob("gateway/doors/*/*.proto"))
    assert len(protos) == 2
    arguments = [f"-I{ROOT}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    assert protoc.main(["protoc", *arguments, *map(str, protos)]) == 0
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.py*")}
    assert len(made) == 2 * len(protos)
    stale = [name for name, text in made.items() if (ROOT / name).read_text() != text]
    assert stale == [], "run `make proto` and commit what it writes"
