"""Checks of disaggregated replicas whose engines stand behind a proxy."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.gateway import PoolConfig
from gateway.config.problems import Problem, problem


def engine_problems(pools: tuple[PoolConfig, ...]) -> Iterator[Problem]:
    """Every problem of the replicas' `engines`."""
    first: dict[str, str] = {}
    for i, pool in enumerate(pools):
        having = [r for r, replica in enumerate(pool.replicas) if replica.engines is not None]
        if not having:
            continue
        path = f"pools[{i}].replicas[{having[0]}].engines"
        nodes = pool.disaggregated
        if nodes is None:
            message = "the pool does not say which part of its GPUs prefills and which decodes"
            yield problem(path, "set", message, "add disaggregated: {prefill: N, decode: N}")
        elif pool.gpu.count % (nodes.prefill + nodes.decode):
            message = f"{pool.gpu.count} GPUs (gpu.count) cannot be shared by those nodes"
            fix = "count the GPUs of all engines of a replica, prefill and decode together"
            yield problem(
                f"pools[{i}].disaggregated", f"{nodes.prefill}+{nodes.decode}", message, fix
            )
        if len(having) < len(pool.replicas):
            missing = next(r for r in range(len(pool.replicas)) if r not in having)
            message = "other replicas of the pool have engines: all are alike"
            yield problem(f"pools[{i}].replicas[{missing}].engines", "nothing", message, "add them")
        for field in ("kv_events", "grpc_port"):
            if getattr(pool, field, None) is not None:
                message = "it would be asked of the proxy, which has none"
                yield problem(f"pools[{i}].{field}", "set", message, f"remove {field}")
        for r in having:
            engines = pool.replicas[r].engines
            assert engines is not None
            for stage, urls in (("prefill", engines.prefill), ("decode", engines.decode)):
                for u, url in enumerate(urls):
                    at = f"pools[{i}].replicas[{r}].engines.{stage}[{u}]"
                    key = url.rstrip("/")
                    if key in first:
                        message = f"the same engine as {first[key]}"
                        yield problem(at, url, message, "give every engine its own address")
                    else:
                        first[key] = at
