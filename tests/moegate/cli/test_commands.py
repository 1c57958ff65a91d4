"""The console script: every command is there, and the README's first steps fit together."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gateway.config.gateway import KeyRole
from gateway.config.load.file import load
from gateway.config.resolve.api_keys import key_sha256
from gateway.runtime.startup import startable
from moegate.cli.commands import simulate_vllm
from moegate.cli.main import COMMANDS, main
from moegate.simulated_vllm.config import DEFAULT_MODEL

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("command", [*COMMANDS, None])
def test_every_command_tells_what_it_does(
    command: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"] if command is None else [command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ([command] if command else COMMANDS))


def test_an_unknown_command_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["simulate"])
    assert caught.value.code == 2
    assert "simulate-vllm" in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_error() -> None:
    script = f"{sys.executable} -m moegate check --schema | head -1"
    ended = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert ended.stderr == ""
    assert ended.stdout.startswith("{")


def test_the_first_steps_of_the_readme_fit_together() -> None:
    config = load(ROOT / "examples" / "local.yaml")
    parser = argparse.ArgumentParser()
    simulate_vllm.add_arguments(parser)
    defaults = parser.parse_args([])
    [pool] = config.pools
    assert pool.replicas[0].url == f"http://{defaults.host}:{defaults.port}"
    assert (pool.upstream_model or pool.model) == DEFAULT_MODEL == defaults.served_model_name
    _, warnings = startable(config, ROOT / "examples", "local.yaml", time.time())
    assert warnings == [], "its budget has the prices that it needs"
    assert config.budgets
    [key] = config.tenants[0].keys
    readme = (ROOT / "README.md").read_text()
    assert "export MOEGATE_API_KEY=mg-demo-key-do-not-use" in readme
    assert key.role is KeyRole.OPERATOR, "the README's commands need one"
    assert key.sha256 == key_sha256("mg-demo-key-do-not-use")


def test_a_port_that_is_taken_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["simulate-vllm", "--port", str(taken.getsockname()[1])]) == 1
    error = capsys.readouterr().err
    assert "in use" in error
    assert "Traceback" not in error


def test_each_kind_of_file_is_known_to_the_command_for_the_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    examples = ROOT / "examples"
    assert main(["prices", "check", str(examples / "moegate.yaml")]) == 1
    error = capsys.readouterr().err
    assert "1 problem" in error
    assert "this is the configuration of a gateway, not a price catalog" in error
    assert "moegate check FILE" in error
    assert main(["check", str(examples / "prices.yaml")]) == 1
    error = capsys.readouterr().err
    assert "this is a price catalog, not the configuration of a gateway" in error
    assert "moegate prices check FILE" in error
