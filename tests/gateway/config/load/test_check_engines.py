"""Engines behind a proxy in the configuration: mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load.file import ConfigError, parse

POOL = """
pools:
  - name: a
    model: m
    gpu: {type: H100, count: %d}
    %s
    replicas:
      - {name: x, url: 'http://proxy:8000', engines: {prefill: ['http://p:1'], decode: %s}}
      %s
"""
NODES = "disaggregated: {prefill: 1, decode: 3}"
MORE = "- {name: y, url: 'http://proxy:8001', engines: {prefill: ['http://p:9'], decode: %s}}"


def test_a_pair_is_understood() -> None:
    parse(POOL % (8, NODES, "['http://d:2', 'http://d:3']", ""), "moegate.yaml", Path())


@pytest.mark.parametrize(
    ("gpus", "pool", "decode", "more", "path", "message"),
    [
        (8, "", "['http://d:2']", "", "replicas[0].engines", "which part of its GPUs"),
        (6, NODES, "['http://d:2']", "", "pools[0].disaggregated", "6 GPUs (gpu.count)"),
        (8, NODES, "[]", "", "engines.decode", "the list is empty"),
        (8, NODES, "['http://p:1/']", "", "decode[0]", "the same engine as"),
        (8, NODES, "['http://d:2']", MORE % "['http://d:2']", "replicas[1].engines", "same engine"),
        (
            *(8, NODES, "['http://d:2']", "- {name: y, url: 'http://proxy:8001'}"),
            *("replicas[1].engines", "other replicas of the pool have engines"),
        ),
        (
            *(8, NODES + "\n    kv_events: {port: 5557}", "['http://d:2']", ""),
            *("pools[0].kv_events", "asked of the proxy"),
        ),
    ],
)
def test_mistakes_are_told(
    gpus: int, pool: str, decode: str, more: str, path: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(POOL % (gpus, pool, decode, more), "moegate.yaml", Path())
    found = [(problem.path, problem.message) for problem in caught.value.problems]
    assert any(path in where and message in text for where, text in found), found
