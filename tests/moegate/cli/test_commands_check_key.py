"""`moegate check` and `moegate key`."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
from pathlib import Path

import pytest
import yaml

from gateway.auth.authenticator import Authenticator
from gateway.config.load.file import parse
from moegate.cli.commands import check, key

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "moegate.yaml"


def moegate(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers(required=True)
    check.add_arguments(subparsers.add_parser("check"))
    key.add_arguments(subparsers.add_parser("key"))
    args = parser.parse_args(argv)
    status: int = args.run(args)
    return status


def test_check_says_what_the_example_means(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OVERFLOW_API_KEY", "sk-test")
    assert moegate("check", str(EXAMPLE)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        f"{EXAMPLE}: OK",
        "  listens on 0.0.0.0:50051",
        "  pool qwen3-30b: Qwen3-30B-A3B on 2 replicas, 2 GPUs (H100-80GB), $4.20/h",
        "    its step times before any was seen: Qwen3-30B-A3B on 1 x H100",
        "  remote overflow: Qwen3-30B-A3B, class eu-zero-retention, at most 16 requests at once",
        "  tenant search: 1 key: search-dev (caller)",
    ]


def test_check_without_price_and_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(
        "pools: [{name: p, model: m, gpu: {type: H100, count: 2},"
        " replicas: [{name: a, url: 'http://a:1'}]}]\ntenants: [{name: t}]\n"
    )
    assert moegate("check", str(file)) == 0
    out = capsys.readouterr().out
    assert "1 replica, 2 GPUs (H100), price unknown" in out
    assert "tenant t: 0 keys\n" in out
    assert "nobody can call" in out
    assert "its max_num_seqs is assumed: 256\n" in out
    file.write_text(file.read_text().replace("model: m,", "model: m, grpc_port: 9000,"))
    assert moegate("check", str(file)) == 0
    assert "assumed: 256, until its servers tell theirs" in capsys.readouterr().out


def test_check_prints_all_problems_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("pools: 1\nremote: []\n")
    assert moegate("check", str(file)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "bad.yaml: 2 problems" in err
    assert "pools (line 1): expected a list" in err
    assert "did you mean remotes?" in err
    assert moegate("check", str(tmp_path / "missing.yaml")) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert moegate("check") == 2


def test_check_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert moegate("check", "--schema") == 0
    assert "GatewayConfig" in json.loads(capsys.readouterr().out)["$defs"]


def test_a_new_key_is_random_and_its_lines_fit_the_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = []
    for _ in range(2):
        assert moegate("key", "--id", "laptop") == 0
        lines = capsys.readouterr().out.splitlines()
        secret = next(line for line in lines if line.startswith("mg-"))
        assert len(secret) == 3 + 43  # 256 bits in base64
        made.append(secret)
        (entry,) = yaml.safe_load("\n".join(lines[lines.index(secret) + 1 :]))
        remote = {"name": "r", "remote_class": "c", "model": "m", "url": "http://r"}
        tenants = [{"name": "t", "keys": [entry]}]
        text = yaml.safe_dump({"remotes": [remote], "tenants": tenants})
        authenticator = Authenticator(parse(text, "moegate.yaml", Path()), Path())
        assert authenticator.authenticate([("x-api-key", secret)]).key_id == "laptop"
    assert made[0] != made[1]


def test_a_key_without_id_gets_one_and_a_bad_id_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert moegate("key") == 0
    assert '- id: "key-' in capsys.readouterr().out
    assert moegate("key", "--id", "a b") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "'a b'" in err


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_hash_of_a_key_from_standard_input(
    end: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("mg-demo-key-do-not-use" + end))
    assert moegate("key", "--hash") == 0
    expected = hashlib.sha256(b"mg-demo-key-do-not-use").hexdigest()
    assert capsys.readouterr().out == f"{expected}\n"


@pytest.mark.parametrize("given", ["", "\n", "a b\n", "é\n", "x" * 600])
def test_no_hash_of_what_cannot_be_a_key(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    assert moegate("key", "--hash") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "standard input" in err
