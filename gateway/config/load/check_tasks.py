"""Checks of the tasks of pools and remotes."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.gateway import GatewayConfig, PoolConfig, RemoteConfig
from gateway.config.problems import Problem, problem
from gateway.config.remote import RemoteApi
from gateway.config.tasks import Task


def task_problems(config: GatewayConfig) -> Iterator[Problem]:
    """Every problem of a `task`."""
    first: dict[str, tuple[str, Task]] = {}
    upstreams: list[tuple[str, PoolConfig | RemoteConfig]] = [
        *((f"pools[{i}]", pool) for i, pool in enumerate(config.pools)),
        *((f"remotes[{i}]", remote) for i, remote in enumerate(config.remotes)),
    ]
    for path, upstream in upstreams:
        task = upstream.task
        other, known = first.setdefault(upstream.model, (f"{path}.task", task))
        if (known is Task.GENERATE) is not (task is Task.GENERATE):
            message = f"{other} is {known} for the same model, which generates or does not"
            fix = "give both the same, or give one of them another model"
            yield problem(f"{path}.task", task.value, message, fix)
        if task is Task.GENERATE:
            continue
        if isinstance(upstream, PoolConfig) and upstream.pin_ranks:
            message = "vLLM does not let the caller choose the rank of such requests"
            yield problem(f"{path}.pin_ranks", True, message, f"remove it from a pool with {task}")
        if isinstance(upstream, RemoteConfig) and upstream.api is RemoteApi.ANTHROPIC:
            message = "the Messages API only generates"
            yield problem(f"{path}.task", task.value, message, "use another api, or remove it")
