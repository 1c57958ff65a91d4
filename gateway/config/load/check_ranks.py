"""Checks of pools whose data-parallel ranks are pinned."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.gateway import PoolConfig
from gateway.config.problems import Problem, problem


def rank_problems(pools: tuple[PoolConfig, ...]) -> Iterator[Problem]:
    """Every problem of the pools' `pin_ranks`."""
    for i, pool in enumerate(pools):
        if not pool.pin_ranks:
            continue
        ranks, gpus = pool.data_parallel_ranks, pool.gpu.count
        if ranks == 1:
            message = "there is one rank: nothing to choose from"
            fix = "set data_parallel_ranks to vLLM's --data-parallel-size, or remove pin_ranks"
            yield problem(f"pools[{i}].pin_ranks", True, message, fix)
        elif gpus % ranks:
            message = f"{gpus} GPUs (gpu.count) cannot be shared evenly by {ranks} ranks"
            fix = "give all GPUs of one replica, and its --data-parallel-size"
            yield problem(f"pools[{i}].data_parallel_ranks", ranks, message, fix)
        if pool.disaggregated is not None:
            message = "a disaggregated replica runs a request on a rank of each of its nodes"
            fix = "remove pin_ranks: its own router chooses"
            yield problem(f"pools[{i}].pin_ranks", True, message, fix)
