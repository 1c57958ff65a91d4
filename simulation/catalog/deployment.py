"""Which GPUs a model fits on, and how many KV tokens are left."""

from __future__ import annotations

from dataclasses import replace

from simulation.catalog.facts import BF16_BYTES, ModelFacts
from simulation.catalog.gpus import GpuFacts
from simulation.catalog.hf_weights import MXFP4_BYTES, NVFP4_BYTES
from simulation.catalog.prior import TYPICAL_CONTEXT_TOKENS, Parallelism

MEMORY_SHARE = 0.9
"""vLLM's --gpu-memory-utilization, as long as it is not set."""
WORKSPACE_BYTES = 2e9
"""Activations and CUDA graphs of one GPU."""
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


def gpu_weights_bytes(model: ModelFacts, parallelism: Parallelism) -> float:
    """Weights on one GPU: experts spread over the group, the rest over each rank."""
    routed = model.routed_parameters * model.expert_bytes / parallelism.gpus
    others = model.resident_parameters * model.weight_bytes
    others += model.embedding_parameters * BF16_BYTES
    return routed + others / parallelism.tensor


def kv_capacity_tokens(
    model: ModelFacts,
    gpu: GpuFacts,
    parallelism: Parallelism,
    *,
    kv_value_bytes: float = BF16_BYTES,
    context_tokens: float = TYPICAL_CONTEXT_TOKENS,
) -> int:
    """KV tokens of the whole group in sequences of `context_tokens`; 0 where it does not fit."""
    free = gpu.memory_bytes * MEMORY_SHARE - WORKSPACE_BYTES
    free -= gpu_weights_bytes(model, parallelism)
    if free <= 0:
        return 0
    sequence = model.sequence_bytes(context_tokens, kv_value_bytes, parallelism.tensor)
    return int(free / sequence * context_tokens) * parallelism.data


def smallest_deployment(
    model: ModelFacts, gpu: GpuFacts, *, kv_value_bytes: float = BF16_BYTES
) -> tuple[Parallelism, int] | None:
    """The fewest GPUs that hold the model and LEAST_KV_TOKENS, and the tokens they hold."""
    for count in GPU_COUNTS:
        spread = usual_parallelism(gpu, count)
        tokens = kv_capacity_tokens(model, gpu, spread, kv_value_bytes=kv_value_bytes)
        if tokens >= LEAST_KV_TOKENS:
            return spread, tokens
    return None
