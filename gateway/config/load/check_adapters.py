"""Checks of the LoRA adapters of pools: each name means one adapter of one model."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.gateway import PoolConfig
from gateway.config.problems import Problem, problem


def adapter_problems(pools: tuple[PoolConfig, ...]) -> Iterator[Problem]:
    """Every problem of the pools' `adapters`."""
    models = {pool.model: f"pools[{i}].model" for i, pool in enumerate(pools)}
    bases: dict[str, tuple[str, str]] = {}
    for i, pool in enumerate(pools):
        names: dict[str, str] = {}
        upstream_names = {pool.upstream_model or pool.model: "the pool's own model there"}
        for a, adapter in enumerate(pool.adapters.models if pool.adapters else ()):
            path = f"pools[{i}].adapters.models[{a}]"
            name, upstream_name = adapter.model, adapter.upstream_model or adapter.model
            another = "choose another name, and give vLLM's as upstream_model"
            if name in models:
                yield problem(f"{path}.model", name, f"the same as {models[name]}", another)
            elif name in names:
                yield problem(f"{path}.model", name, f"the same as {names[name]}", another)
            first, base = bases.setdefault(name, (path, pool.model))
            if base != pool.model:
                message = f"{first} has this name for an adapter of model {base}"
                yield problem(f"{path}.model", name, message, another)
            if upstream_name in upstream_names:
                field = "upstream_model" if adapter.upstream_model else "model"
                message = f"the same as {upstream_names[upstream_name]}"
                yield problem(
                    f"{path}.{field}", upstream_name, message, "name each adapter of vLLM once"
                )
            names[name] = f"{path}.model"
            upstream_names[upstream_name] = path
