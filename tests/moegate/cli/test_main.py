"""The start of the console script: a foreign package in the place of moegate's own is refused."""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from moegate.cli import commands
from moegate.cli.main import COMMANDS, FOLDERS, main

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = Path(sys.executable).with_name("moegate")
STARTS = {"script": [str(SCRIPT)], "module": [sys.executable, "-m", "moegate"]}


def started(
    command: list[str], before: Path | None, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Runs it with a folder that precedes everything else on `sys.path`."""
    paths = [str(path) for path in (before, ROOT, ROOT / "protos") if path is not None]
    return subprocess.run(
        [*command, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", ["gateway", "scheduler", "simulation"])
@pytest.mark.parametrize("file", ["{}/__init__.py", "{}.py"])
def test_a_foreign_package_is_refused_and_not_imported(
    tmp_path: Path, start: str, name: str, file: str
) -> None:
    foreign = tmp_path / file.format(name)
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("print('the foreign package was imported')\n")
    ended = started(STARTS[start], tmp_path, "key", "--help")
    assert ended.returncode == 1
    assert ended.stdout == ""
    [line] = ended.stderr.splitlines()
    assert str(foreign) in line
    assert f"`{name}`" in line
    assert "container, pipx, uv tool" in line


@pytest.mark.parametrize("start", STARTS)
def test_a_folder_without_code_hides_nothing(tmp_path: Path, start: str) -> None:
    """Python prefers a package further down the path to a folder without `__init__.py`."""
    (tmp_path / "scheduler").mkdir()
    ended = started(STARTS[start], tmp_path, "key", "--help")
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("start", STARTS)
def test_it_starts_where_no_foreign_package_is(start: str) -> None:
    ended = started(STARTS[start], None, "--version")
    assert ended.returncode == 0
    assert ended.stdout.startswith("moegate ")


def test_every_command_is_a_module_and_every_module_a_command() -> None:
    modules = {each.name for each in pkgutil.iter_modules(commands.__path__) if not each.ispkg}
    assert modules == {name.replace("-", "_") for name in COMMANDS.keys() - FOLDERS.keys()}
    for path in FOLDERS.values():
        assert importlib.util.find_spec(f"{commands.__name__}.{path}") is not None


@pytest.mark.parametrize(
    ("arguments", "imported"),
    [(["--help"], []), (["key", "--help"], ["moegate.cli.commands.key"])],
)
def test_only_the_module_of_the_given_command_is_imported(
    arguments: list[str], imported: list[str]
) -> None:
    script = (
        "import sys; from moegate.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(*(m for m in sys.modules if m.startswith('moegate.cli.commands.')), file=sys.stderr)"
    )
    ended = started([sys.executable, "-c", script], None, *arguments)
    assert (ended.returncode, ended.stderr.split()) == (0, imported)


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (["top", "--nope"], "usage: moegate top "),
        (["prices", "show", "--nope"], "usage: moegate prices show "),
        (["up", "--tiny", "--nope"], "usage: moegate up "),
        (["admin", "reload", "nope"], "usage: moegate admin reload "),
    ],
)
def test_unknown_arguments_show_the_usage_of_their_command(
    arguments: list[str], usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(usage)
    assert "unrecognized arguments: " in error
    assert "nope" in error


def test_moegate_alone_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: moegate ")
    assert "usage" in out
    assert "serve" in out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("inspect qwen3-30b-a3b", ("KV tokens", "ms/step", "prefill")),
        (
            "plan qwen3-30b-a3b --gpu H100 --gpus 1 --prompt-tokens 1000 --output-tokens 200"
            " --requests-per-s 1 --usd-per-gpu-hour 2.1",
            ("$/M output", "all in,", "idle", "saturated floor"),
        ),
    ],
)
def test_tables_fit_80_columns_and_show_the_money(
    command: str,
    words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(command.split()) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for word in words:
        assert word in out
