"""LoRA adapters in the configuration: every name means one thing."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load.file import ConfigError, parse

FILE = """
pools:
  - name: a
    model: m
    upstream_model: served
    gpu: {type: H100, count: 1}
    adapters: %s
    replicas: [{name: x, url: 'http://10.0.0.1:8000'}]
  - name: b
    model: other
    gpu: {type: H100, count: 1}
    adapters: {models: [{model: theirs}]}
    replicas: [{name: x, url: 'http://10.0.0.2:8000'}]
tenants:
  - name: team
    keys: [{id: k, sha256: '%s', models: [%s]}]
"""


def problems(adapters: str, allowed: str = "m") -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        parse(FILE % (adapters, "0" * 64, allowed), "moegate.yaml", Path())
    return [(problem.path, problem.message) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("adapters", "path", "message"),
    [
        ("{models: [{model: other}]}", "adapters.models[0].model", "the same as pools[1].model"),
        ("{models: [{model: x}, {model: x, upstream_model: y}]}", "models[1].model", "models[0]"),
        ("{models: [{model: theirs}]}", "pools[1].adapters.models[0].model", "of model m"),
        ("{models: [{model: served}]}", "adapters.models[0].model", "the pool's own model"),
        (
            "{models: [{model: x}, {model: y, upstream_model: x}]}",
            "models[1].upstream_model",
            "the same as pools[0].adapters.models[0]",
        ),
        ("{most: 0}", "adapters.most", "1"),
    ],
)
def test_mistakes_are_told(adapters: str, path: str, message: str) -> None:
    found = problems(adapters)
    assert any(path in where and message in text for where, text in found), found


def test_a_key_may_name_adapters() -> None:
    parse(FILE % ("{models: [{model: x}]}", "0" * 64, "x, theirs"), "moegate.yaml", Path())
    [(path, _)] = problems("{models: [{model: x}]}", "y")
    assert path == "tenants[0].keys[0].models[0]"


def test_a_key_may_name_any_adapter_that_may_be_discovered() -> None:
    parse(FILE % ("{discover: true}", "0" * 64, "anything"), "moegate.yaml", Path())
