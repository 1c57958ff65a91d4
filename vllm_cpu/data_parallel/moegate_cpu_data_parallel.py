"""Lets vLLM's CPU build run data-parallel ranks of a MoE model, for tests only.

Between the ranks' MoE layers vLLM gathers the tokens of all ranks and scatters the results. Its CPU
communicator lacks both (0.32, 0.33), so the first request of such a server kills it. vLLM calls
`register` in each of its processes (entry point group `vllm.general_plugins`).
"""

from __future__ import annotations

import torch
from torch import distributed
from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator


def register() -> None:
    """Adds the two operations."""
    CpuCommunicator.all_gatherv = all_gatherv
    CpuCommunicator.reduce_scatterv = reduce_scatterv


def all_gatherv(
    self: CpuCommunicator,
    input_: torch.Tensor | list[torch.Tensor],
    dim: int = 0,
    sizes: list[int] | None = None,
) -> torch.Tensor | list[torch.Tensor]:
    """The rows of all ranks, in the order of the ranks. `sizes`: rows of each rank; None: all have
    as many."""
    if dim != 0:
        raise NotImplementedError("only rows are gathered")
    if isinstance(input_, list):
        return [all_gatherv(self, one, dim, sizes) for one in input_]
    rows = sizes or [input_.shape[0]] * self.world_size
    # Gloo gathers tensors of one shape: each is padded to the largest.
    padded = input_.new_zeros((max(rows), *input_.shape[1:]))
    padded[: input_.shape[0]] = input_
    gathered = [torch.empty_like(padded) for _ in rows]
    distributed.all_gather(gathered, padded, group=self.cpu_group)
    return torch.cat([one[:count] for one, count in zip(gathered, rows, strict=True)])


def reduce_scatterv(
    self: CpuCommunicator,
    input_: torch.Tensor,
    dim: int = -1,
    sizes: list[int] | None = None,
) -> torch.Tensor:
    """This rank's rows of the sum over all ranks. `sizes`: rows of each rank; None: all have as
    many."""
    if dim != 0:
        raise NotImplementedError("only rows are scattered")
    rows = sizes or [input_.shape[0] // self.world_size] * self.world_size
    total = input_.contiguous().clone()
    distributed.all_reduce(total, group=self.cpu_group)
    first = sum(rows[: self.rank_in_group])
    return total[first : first + rows[self.rank_in_group]].contiguous()
