"""Mistakes where a pool's replicas publish KV events."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.load.file import ConfigError, parse
from gateway.fleet.kv_events import publisher

POOL = """
pools:
  - name: a
    model: m
    gpu: {type: H100, count: 1}
    data_parallel_ranks: 4
    replicas: [%s]
"""
ONE = "{name: x, url: 'http://[::1]:8000'%s}"


@pytest.mark.parametrize(
    ("replicas", "events", "path", "message"),
    [
        (ONE % ", kv_events_port: 1", "", "pools[0].replicas[0].kv_events_port", "does not listen"),
        (ONE % "", "{port: 65533}", "pools[0].kv_events.port", "would have port 65536"),
        (ONE % "", "{replay_port: 5560}", "pools[0].kv_events.replay_port", "give 5561"),
        (
            f"{ONE % ''}, {{name: y, url: 'http://[::1]:8001'}}",
            "{}",
            "pools[0].replicas[1].kv_events_port",
            "where pools[0].replicas[0] does",
        ),
    ],
)
def test_mistakes_are_told(replicas: str, events: str, path: str, message: str) -> None:
    text = POOL % replicas + (f"    kv_events: {events}\n" if events else "")
    with pytest.raises(ConfigError) as caught:
        parse(text, "moegate.yaml", Path())
    (problem,) = caught.value.problems
    assert problem.path == path
    assert message in f"{problem.message}: {problem.fix}"


def test_ports_of_replicas_and_their_replays() -> None:
    text = POOL % ONE % ", kv_events_port: 7000"
    config = parse(f"{text}    kv_events: {{replay_port: 5600}}\n", "moegate.yaml", Path())
    (pool,) = config.pools
    (replica,) = pool.replicas
    found = publisher(pool, "a/x", replica.url, replica.kv_events_port)
    assert found is not None
    assert (found.host, found.port, found.replay_port, found.ranks) == ("::1", 7000, 7043, 4)
    found = publisher(pool, "a/y", "http://10.0.0.3:8000")
    assert found is not None
    assert (found.host, found.port, found.replay_port) == ("10.0.0.3", 5557, 5600)
