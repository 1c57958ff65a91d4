"""Which GPUs a model fits on, and how many KV tokens are left."""

from __future__ import annotations

from dataclasses import dataclass, replace

from simulation.catalog.facts import BF16_BYTES, ModelFacts
from simulation.catalog.gpus import GpuFacts
from simulation.catalog.hf_weights import MXFP4_BYTES, NVFP4_BYTES
from simulation.catalog.memory import ServerMemory, gpu_memory
from simulation.catalog.prior import TYPICAL_CONTEXT_TOKENS, Parallelism

DEFAULT_SERVER = ServerMemory()
LEAST_KV_TOKENS = 65_536
"""Smallest useful KV cache: a deployment with less would run only a handful of chats."""
MOST_TENSOR_PARALLEL = 8
GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64)
INT4_BYTES = (4 + 16 / 128) / 8

FORMATS = {
    "bf16": (BF16_BYTES, BF16_BYTES, False),
    "fp8": (1.0, 1.0, False),
    "nvfp4": (NVFP4_BYTES, BF16_BYTES, False),
    "mxfp4": (MXFP4_BYTES, BF16_BYTES, False),
    "int4": (INT4_BYTES, BF16_BYTES, True),
}
"""Formats of weights: bytes per parameter of the experts and of the rest, and whether widened."""


def in_format(model: ModelFacts, name: str) -> ModelFacts:
    """The same model with its weights in one of `FORMATS`. Raises KeyError."""
    expert_bytes, weight_bytes, widened = FORMATS[name]
    return replace(
        model, expert_bytes=expert_bytes, weight_bytes=weight_bytes, widened_experts=widened
    )


def usual_parallelism(gpu: GpuFacts, gpus: int) -> Parallelism:
    """Tensor parallelism within a node, data parallelism with expert parallelism beyond it."""
    tensor = min(gpus, gpu.node_gpus, MOST_TENSOR_PARALLEL)
    return Parallelism(tensor=tensor, data=gpus // tensor, expert_parallel=gpus > tensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCapacity:
    """KV tokens of a group: the likely number, and the range that memory is known to scatter in.

    All are 0 where the model does not fit.
    """

    tokens: int
    least: int
    most: int


def kv_capacity(
    model: ModelFacts,
    gpu: GpuFacts,
    parallelism: Parallelism,
    *,
    server: ServerMemory = DEFAULT_SERVER,
    kv_value_bytes: float = BF16_BYTES,
    context_tokens: float = TYPICAL_CONTEXT_TOKENS,
) -> KvCapacity:
    """KV tokens of the whole group in sequences of `context_tokens`."""
    memory = gpu_memory(model, gpu, parallelism, server)
    sequence = model.sequence_bytes(context_tokens, kv_value_bytes, parallelism.tensor)

    def tokens(free_bytes: float) -> int:
        return max(0, int(free_bytes / sequence * context_tokens)) * parallelism.data

    return KvCapacity(
        tokens=tokens(memory.kv_bytes),
        least=tokens(memory.kv_bytes - memory.margin_bytes),
        most=tokens(memory.kv_bytes + memory.margin_bytes),
    )


def smallest_deployment(
    model: ModelFacts,
    gpu: GpuFacts,
    *,
    server: ServerMemory = DEFAULT_SERVER,
    kv_value_bytes: float = BF16_BYTES,
) -> tuple[Parallelism, KvCapacity] | None:
    """The fewest GPUs that hold the model and LEAST_KV_TOKENS, and the tokens they hold."""
    for count in GPU_COUNTS:
        spread = usual_parallelism(gpu, count)
        found = kv_capacity(model, gpu, spread, server=server, kv_value_bytes=kv_value_bytes)
        if found.tokens >= LEAST_KV_TOKENS:
            return spread, found
    return None
