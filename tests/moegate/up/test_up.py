"""`moegate up`: what its arguments make of vLLM's command line, and what it refuses."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from importlib import metadata
from pathlib import Path

import pytest

from moegate.cli.commands import up
from moegate.up import arguments, machine, tiny
from moegate.up.engine_plugin import COUNT_EXPERTS, ROUTE, make_plugin_folder, with_plugin
from moegate.up.machine import CannotLaunch
from moegate.up.plan import UpPlan, gateway_config
from moegate.vllm_plugin import experts


@pytest.fixture
def vllm(tmp_path: Path) -> Path:
    """An executable file: nothing here runs it."""
    file = tmp_path / "vllm"
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    up.add_arguments(parser.add_subparsers(required=True).add_parser("up"))
    return parser.parse_args(["up", *argv])


def planned(vllm: Path, *argv: str) -> UpPlan:
    return arguments.up_plan(parse("--vllm", str(vllm), *argv))


def flags(vllm: Path, *argv: str) -> list[str]:
    """The command line without the parts that every one has, which are checked here."""
    launch = planned(vllm, *argv).launch
    command, ranks = launch.command(vllm, 8001, kv_events_port=8002), launch.data_parallel_size
    assert command[:2] == [str(vllm), "serve"]
    for flag in (
        *("--host=127.0.0.1", "--port=8001"),
        *("--enable-prompt-tokens-details", "--shutdown-timeout=20"),
        *("--enable-logging-iteration-details", f"--middleware={ROUTE}"),
        "--enable-per-request-metrics",
    ):
        command.remove(flag)
    [kv_events] = [flag for flag in command if flag.startswith("--kv-events-config=")]
    command.remove(kv_events)
    assert json.loads(kv_events.partition("=")[2]) == {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": "tcp://[::ffff:127.0.0.1]:8002",
        "replay_endpoint": f"tcp://[::ffff:127.0.0.1]:{8002 + ranks}",
        "topic": "kv-events",
    }
    return command[2:]


def test_vllm_tells_its_times_unless_it_keeps_no_statistics(vllm: Path) -> None:
    """It refuses to start with both flags."""
    for extra, is_told in (((), True), (("--", "--disable-log-stats"), False)):
        launch = planned(vllm, "MODEL", *extra).launch
        command = launch.command(vllm, 8001, kv_events_port=8002)
        assert ("--enable-per-request-metrics" in command) is is_told


def test_the_plugin_can_be_left_out(vllm: Path) -> None:
    plan = planned(vllm, "org/model", "--no-engine-feed")
    assert not any("middleware" in flag for flag in plan.launch.command(vllm, 8001, 8002))
    assert not gateway_config(plan, 8001, "key").pools[0].engine_feed
    assert gateway_config(planned(vllm, "org/model"), 8001, "key").pools[0].engine_feed


def test_experts_are_counted_on_demand(vllm: Path, tmp_path: Path) -> None:
    assert not planned(vllm, "org/model").launch.count_experts
    assert planned(vllm, "org/model", "--count-experts").launch.count_experts
    with pytest.raises(CannotLaunch, match="--count-experts needs"):
        planned(vllm, "org/model", "--count-experts", "--no-engine-feed")
    assert with_plugin({}, tmp_path, count_experts=True)[COUNT_EXPERTS] == experts.ON
    assert COUNT_EXPERTS == experts.SWITCH
    assert COUNT_EXPERTS not in with_plugin({}, tmp_path)


def test_the_front_end_in_rust_gets_no_plugin(vllm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value, plugin in (("1", False), ("0", True)):
        monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", value)
        for model in ("org/model", "--tiny"):
            plan = planned(vllm, model)
            found = any("middleware" in flag for flag in plan.launch.command(vllm, 8001, 8002))
            assert found is gateway_config(plan, 8001, "key").pools[0].engine_feed is plugin


def test_vllm_finds_the_plugin_and_its_entry_point(tmp_path: Path) -> None:
    make_plugin_folder(tmp_path / "plugin")  # of a container that was started again
    environment = with_plugin({"PYTHONPATH": "/other", "A": "b"}, tmp_path / "plugin")
    folder, other = environment["PYTHONPATH"].split(os.pathsep)
    assert (other, environment["A"]) == ("/other", "b")
    [found] = metadata.distributions(path=[folder])
    assert found.name == "moegate-vllm"
    [point] = found.entry_points.select(group="vllm.stat_logger_plugins")
    module, name = point.value.split(":")
    file = Path(folder, *module.split(".")).with_suffix(".py")
    assert f"class {name}(" in file.read_text()
    module, _, name = ROUTE.rpartition(".")
    assert f"class {name}:" in Path(folder, *module.split(".")).with_suffix(".py").read_text()


def test_a_model_alone(vllm: Path) -> None:
    assert flags(vllm, "org/model") == [
        "org/model",
        "--served-model-name=org/model",
        "--max-num-seqs=256",
    ]
    made = planned(vllm, "org/model")
    assert (made.gpu.type, made.gpu.count, made.gpu.usd_per_gpu_hour) == ("unknown", 1, None)
    assert (made.listen, made.start_limit_s, made.builds_model) == (
        "127.0.0.1:50051",
        1800.0,
        False,
    )


def test_ranks_experts_and_further_flags(vllm: Path) -> None:
    argv = (
        *("--data-parallel-size", "4", "org/model", "--tensor-parallel-size", "2"),
        *("--enable-expert-parallel", "--max-model-len", "32768", "--max-num-seqs", "128"),
        *("--served-model-name", "moe", "--gpu-type", "H100-80GB", "--usd-per-gpu-hour", "2.10"),
        *("--", "--quantization", "fp8", "--enable-eplb"),
    )
    assert flags(vllm, *argv) == [
        *("org/model", "--served-model-name=moe", "--max-num-seqs=128", "--max-model-len=32768"),
        *("--data-parallel-size=4", "--tensor-parallel-size=2", "--enable-expert-parallel"),
        *("--quantization", "fp8", "--enable-eplb"),
    ]
    gpu = planned(vllm, *argv).gpu
    assert (gpu.type, gpu.count, gpu.usd_per_gpu_hour) == ("H100-80GB", 8, "2.10")
    assert planned(vllm, "--gpus", "16", *argv).gpu.count == 16


def test_a_folder_is_served_under_its_name(vllm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Some-MoE"
    folder.mkdir()
    assert flags(vllm, str(folder))[:2] == [str(folder), "--served-model-name=Some-MoE"]


def test_the_tiny_model(vllm: Path) -> None:
    assert flags(vllm, "--tiny", "--", "--seed=1") == [
        str(tiny.MODEL_DIR),
        *("--served-model-name=tiny-moe", "--max-num-seqs=32", "--max-model-len=8192"),
        *(*tiny.FLAGS, "--seed=1"),
    ]
    made = planned(vllm, "--tiny")
    assert made.builds_model
    assert made.launch.environment["OMP_NUM_THREADS"] == "1"
    assert made.moe == tiny.MOE


def test_the_tiny_model_needs_the_checkout(
    vllm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "SCRIPT", tmp_path / "tiny_moe.py")
    with pytest.raises(CannotLaunch, match="--tiny needs moegate's repository"):
        planned(vllm, "--tiny")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name a MODEL, or give --tiny"),
        (["org/model", "--tiny"], "not both"),
        (["--tiny", "--data-parallel-size", "2"], "one CPU rank"),
        (["--", "--seed=1"], "name a MODEL"),
        (["org/model", "--", "--port", "1"], "--port behind the --: moegate sets it itself"),
        (["org/model", "--", "--max_num_seqs=1"], "give it before the --"),
        (["org/model", "--", "-dp", "2"], "-dp behind the --: give it before"),
        (["org/model", "--", "--api-key=secret"], "moegate sets it itself"),
    ],
)
def test_refused(vllm: Path, argv: list[str], message: str) -> None:
    with pytest.raises(CannotLaunch) as caught:
        planned(vllm, *argv)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--usd-per-gpu-hour", "2,10"], "US dollars as a decimal number"),
        (["--usd-per-gpu-hour", "-1"], "--usd-per-gpu-hour"),
        (["--usd-per-gpu-hour", "nan"], "US dollars as a decimal number"),
        (["--gpus", "0"], "a count of at least 1"),
        (["--max-num-seqs", "many"], "a count of at least 1"),
        (["--listen", "50051"], "host:port is needed"),
        (["--served-model-name", "a\nb"], "printable"),
        (["--start-limit-s", "nan"], "seconds above 0"),
        (["--quantization", "fp8"], "unrecognized arguments"),
    ],
)
def test_bad_values(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("org/model", *argv)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    args = parse()
    assert args.run(args) == 2
    assert capsys.readouterr().err == "moegate up: name a MODEL, or give --tiny\n"


def test_no_vllm_names_every_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "REPOSITORY", tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    args = parse("org/model")
    assert args.run(args) == 2
    err = capsys.readouterr().err
    assert f"no vllm: not at {tmp_path}/bin/vllm, {tmp_path}/.venv-vllm/bin/vllm," in err
    assert "vllm_cpu/install.sh" in err
    assert "--vllm" in err


def test_where_vllm_is_found(vllm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CannotLaunch, match="no executable file"):
        machine.find_vllm(tmp_path / "nothing")
    monkeypatch.setattr(machine, "REPOSITORY", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(vllm.parent))
    for place in (vllm, tmp_path / ".venv-vllm/bin/vllm", tmp_path / "bin/vllm"):
        if place != vllm:
            place.parent.mkdir(parents=True)
            place.symlink_to(vllm)
        assert machine.find_vllm(None) == place


def test_vllm_gets_an_environment_of_its_own(vllm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("HF_HOME", "/models")
    made = machine.environment_for(vllm, {"OMP_NUM_THREADS": "1"})
    assert "PYTHONPATH" not in made
    assert (made["HF_HOME"], made["OMP_NUM_THREADS"]) == ("/models", "1")
    beside = Path(sys.executable).parent / "vllm"
    assert machine.environment_for(beside, {})["PYTHONPATH"] == os.environ["PYTHONPATH"]


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("0.0.0.0:50051", "127.0.0.1:50051"),
        ("[::]:50051", "'[::1]:50051'"),
    ],
)
def test_the_line_to_paste(address: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/moegate"])
    assert up.chat_command(address, "mg-key", "my model").startswith(
        f"MOEGATE_API_KEY=mg-key .venv/bin/moegate chat --target {target} --model 'my model' "
    )


def test_free_ports_are_below_those_of_outgoing_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = machine.free_ports(3)
    assert 20_000 <= first < 32_768 - 2
    monkeypatch.setattr(machine, "PORTS", range(first, first + 4))
    assert machine.free_ports(3) == first
    with socket.socket() as taken:
        taken.bind((machine.HOST, first + 2))
        with pytest.raises(CannotLaunch, match="no 3 free ports in a row"):
            machine.free_ports(3)
