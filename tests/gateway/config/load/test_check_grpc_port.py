"""Mistakes in the ports at which replicas tell what they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load.file import ConfigError, parse

POOL = """
pools:
  - name: a
    model: m
    gpu: {type: H100, count: 1}
    grpc_port: %d
    replicas: [%s]
"""
HOST = "http://host:8000"


@pytest.mark.parametrize(
    ("port", "replicas", "message"),
    [
        (8000, f"{{name: x, url: '{HOST}'}}", "the port of the url"),
        (443, "{name: x, url: 'https://host'}", "the port of the url"),
        (
            9000,
            f"{{name: w, url: '{HOST}', grpc_port: 9001}}, {{name: x, url: 'http://host:8001',"
            " grpc_port: 9001}",
            "pools[0].replicas[0] has it",
        ),
    ],
)
def test_mistakes_are_told(port: int, replicas: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(POOL % (port, replicas), "moegate.yaml", Path())
    (problem,) = caught.value.problems
    assert problem.path.endswith("grpc_port")
    assert message in problem.message


def test_one_port_serves_for_replicas_on_several_hosts() -> None:
    replicas = f"{{name: x, url: '{HOST}'}}, {{name: y, url: 'http://other:8000'}}"
    (pool,) = parse(POOL % (9000, replicas), "moegate.yaml", Path()).pools
    assert pool.grpc_port == 9000
