"""Parts of the configuration that a deployment needs: discovery in DNS, keys by reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.auth.authenticator import Authenticator
from gateway.config.load.file import ConfigError, Problem, parse
from moegate.cli.main import main

DISCOVERING = """
pools:
  - {name: a, model: m, gpu: {type: H100, count: 1}, discover: {dns: vllm.x, port: 8000}}
  - {name: b, model: n, gpu: {type: H100, count: 1}, discover: %s}
"""


@pytest.mark.parametrize(
    ("discover", "path", "message"),
    [
        ("{dns: VLLM.x., port: 8000}", "pools[1].discover.dns", "the same servers as pools[0]"),
        (
            "{dns: y, port: 8000, min_refresh_s: 20}",
            "pools[1].discover.min_refresh_s",
            "longer than max_refresh_s, 15 s",
        ),
        (
            "{dns: y, port: 8000, nameserver: '10.0.0.256:53'}",
            "pools[1].discover.nameserver",
            "no address of a DNS server",
        ),
        ("{dns: 'http://y', port: 8000}", "pools[1].discover.dns", "labels of letters"),
        ("{port: 8000}", "pools[1].discover", "either dns or endpoint_slices"),
        (
            "{dns: y, endpoint_slices: {service: y}, port: 8000}",
            "pools[1].discover",
            "either dns or endpoint_slices",
        ),
        (
            "{endpoint_slices: {service: y}, port: 8000, nameserver: '10.0.0.1:53'}",
            "pools[1].discover.nameserver",
            "no name in DNS",
        ),
        (
            "{endpoint_slices: {service: Y}, port: 8000}",
            "pools[1].discover.endpoint_slices.service",
            "ower-case letters",
        ),
    ],
)
def test_mistakes_in_discovery_are_told(discover: str, path: str, message: str) -> None:
    (problem,) = problems(DISCOVERING % discover)
    assert problem.path == path
    assert message in problem.message


def problems(text: str, base_dir: Path = Path()) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "moegate.yaml", base_dir)
    return caught.value.problems


def test_keys_by_reference_are_read_and_must_differ(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("mg-demo-key-do-not-use\n")
    (tmp_path / "two").write_text("mg-another\n")
    text = """
pools: [{name: p, model: m, gpu: {type: x, count: 1}, discover: {dns: v, port: 1}}]
tenants:
  - name: t
    keys: [{id: a, api_key: {file: one}}, {id: b, api_key: {file: %s}}]
"""
    config = parse(text % "two", "moegate.yaml", tmp_path)
    authenticator = Authenticator(config, tmp_path)
    assert authenticator.authenticate([("x-api-key", "mg-another")]).key_id == "b"
    assert authenticator.authenticate([("x-api-key", "mg-demo-key-do-not-use")]).key_id == "a"
    (problem,) = problems(text % "one", tmp_path)
    assert problem.path == "tenants[0].keys[1].api_key"
    assert "the same as tenants[0].keys[0].api_key" in problem.message
    (problem,) = problems(text % "three", tmp_path)
    assert problem.path == "tenants[0].keys[1].api_key.file"


def test_the_check_says_where_replicas_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "moegate.yaml"
    file.write_text(DISCOVERING % "{dns: other.x, port: 8000, max_replicas: 4}")
    assert main(["check", str(file)]) == 0
    out = capsys.readouterr().out
    assert "pool b: n on the replicas that DNS has for other.x, at most 4; each 1 GPU (H100)" in out
    slices = "{endpoint_slices: {service: s, namespace: n}, port: 8000}"
    file.write_text(DISCOVERING % slices)
    assert main(["check", str(file)]) == 0
    out = capsys.readouterr().out
    assert "pool b: n on the replicas that Kubernetes has for Service n/s, at most 16;" in out


def test_one_service_is_one_pool() -> None:
    slices = "{endpoint_slices: {service: s}, port: 8000}"
    text = DISCOVERING.replace("{dns: vllm.x, port: 8000}", slices)
    (problem,) = problems(text % slices)
    assert problem.path == "pools[1].discover.endpoint_slices"
    assert "the same servers as pools[0].discover" in problem.message
