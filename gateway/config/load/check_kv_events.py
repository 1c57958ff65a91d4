"""Checks of pools whose engines publish KV events."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from gateway.config.gateway import PoolConfig
from gateway.config.problems import Problem, problem


def kv_events_problems(pools: tuple[PoolConfig, ...]) -> Iterator[Problem]:
    """Every problem of the pools' `kv_events` with their replicas."""
    for i, pool in enumerate(pools):
        path = f"pools[{i}].kv_events"
        if pool.kv_events is None:
            for j, replica in enumerate(pool.replicas):
                if replica.kv_events_port is not None:
                    yield problem(
                        f"pools[{i}].replicas[{j}].kv_events_port",
                        replica.kv_events_port,
                        "the pool does not listen to KV events",
                        "give the pool kv_events, or remove the port",
                    )
            continue
        events, ranks = pool.kv_events, pool.data_parallel_ranks
        for name, first in (("port", events.port), ("replay_port", events.replay_port)):
            if first is not None and first + ranks - 1 > 65_535:
                message = f"the last of {ranks} ranks would have port {first + ranks - 1}"
                yield problem(f"{path}.{name}", first, message, "lower it")
        if events.replay_port is not None and abs(events.replay_port - events.port) < ranks:
            message = f"overlaps with the {ranks} ports from {events.port} on"
            fix = f"give {events.port + ranks} or another free one"
            yield problem(f"{path}.replay_port", events.replay_port, message, fix)
        yield from _shared(f"pools[{i}]", pool)


def _shared(path: str, pool: PoolConfig) -> Iterator[Problem]:
    assert pool.kv_events is not None
    first: dict[tuple[str | None, int], str] = {}
    for j, replica in enumerate(pool.replicas):
        port = replica.kv_events_port or pool.kv_events.port
        name = f"{path}.replicas[{j}]"
        other = first.setdefault((urlsplit(replica.url).hostname, port), name)
        if other != name:
            message = f"publishes its KV events where {other} does: two servers cannot share a port"
            fix = "give each its own kv_events_port"
            yield problem(f"{name}.kv_events_port", port, message, fix)
