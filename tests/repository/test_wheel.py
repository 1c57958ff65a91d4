"""The wheel: every part of moegate is in it once, and it runs without the source tree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [built] = folder.glob("*.whl")
    return built


def test_every_module_is_in_the_wheel_once(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py")]
    expected = [
        str(path.relative_to(base))
        for base, package in (
            *((ROOT, package) for package in ("gateway", "scheduler", "simulation", "moegate")),
            (ROOT / "protos", "moegate"),
        )
        for path in (base / package).rglob("*.py")
    ]
    assert {"moegate/cli/main.py", "moegate/v1/inference_pb2.py"} <= set(expected)
    assert sorted(names) == sorted(expected)


def test_the_installed_wheel_starts(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    script = (
        "import moegate.cli.main as main, moegate.v1.inference_pb2 as stub\n"
        "print(main.__file__, stub.__file__, sep='\\n')\n"
        "sys.exit(main.main(['check', '--schema']))"
    )
    # The editable installation of this environment comes after PYTHONPATH.
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys\n{script}"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    main, stub, *_ = ended.stdout.splitlines()
    assert main == str(tmp_path / "moegate" / "cli" / "main.py")
    assert stub == str(tmp_path / "moegate" / "v1" / "inference_pb2.py")


def test_the_plugin_is_a_wheel_of_its_own(wheel: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    source = ROOT / "moegate" / "vllm_plugin"
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    [built] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py")]
        [points] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        own = archive.read(points).decode()
    assert sorted(names) == sorted(
        f"moegate/vllm_plugin/{path.name}" for path in source.glob("*.py")
    )
    with zipfile.ZipFile(wheel) as archive:
        # `moegate up` reads the metadata of the plugin; both wheels name the same entry point.
        assert "moegate/vllm_plugin/pyproject.toml" in archive.namelist()
        [points] = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert own.strip() in archive.read(points).decode()


def test_the_client_is_a_wheel_of_its_own_that_needs_grpcio_and_protobuf_only(
    tmp_path: Path,
) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    source = ROOT / "moegate" / "client"
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    [built] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py")]
        [metadata] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        requires = re.findall(r"^Requires-Dist: ([a-z]+)", archive.read(metadata).decode(), re.M)
        archive.extractall(tmp_path / "installed")
    stubs = (ROOT / "protos" / "moegate" / "v1").glob("*.py")
    assert sorted(names) == sorted(
        [
            *(f"moegate/client/{path.name}" for path in source.glob("*.py")),
            *(f"moegate/v1/{path.name}" for path in stubs),
        ]
    )
    assert sorted(requires) == ["grpcio", "protobuf"]
    code = f"""
import importlib.abc, sys
class OnlyItsOwn(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        top = name.partition(".")[0]
        known = (*sys.stdlib_module_names, "grpc", "google", "moegate", "typing_extensions")
        if top not in known or name.startswith("google.rpc"):
            raise ModuleNotFoundError(name)
sys.path.insert(0, {str(tmp_path / "installed")!r})
sys.meta_path.insert(0, OnlyItsOwn())
import moegate.client
print(moegate.client.__file__)
moegate.client.Client("127.0.0.1:1").close()
"""
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip() == str(
        tmp_path / "installed" / "moegate" / "client" / "__init__.py"
    )
