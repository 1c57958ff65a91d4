"""Memory of one GPU of a vLLM server: what is left for the KV cache, and how sure that is.

vLLM takes a share of the GPU's memory, loads the weights, runs the largest step that it allows and
gives the rest to the KV cache. The largest step needs the larger of two things: the buffers of its
forward pass, which grow with --max-num-batched-tokens, and those of the sampler, which sees
--max-num-seqs rows of the whole vocabulary. With vLLM's defaults the sampler's are the larger ones.
`real_memory.py` has the logs of real servers that the constants were set on, and others.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulation.catalog.facts import BF16_BYTES, ModelFacts
from simulation.catalog.gpus import GIB, GpuFacts
from simulation.catalog.hf_weights import MXFP4_BYTES
from simulation.catalog.prior import Parallelism

MEMORY_SHARE = 0.92
"""vLLM's --gpu-memory-utilization from 0.21 on, where CUDA graphs are counted; 0.9 before."""
SAMPLER_BYTES = 16.5
"""Bytes that sampling takes per sequence and word: logits in 16 and 32 bits, probabilities, noise,
a copy. Set on gpt-oss-120b (3.33 GiB of KV cache on an H100)."""
SORTING_SAMPLER_BYTES = 37.0
"""The same where vLLM sorts the vocabulary (up to 0.14 without FlashInfer's sampler): sorted values
and their places on top. Set on gpt-oss-120b (-2.14 GiB on an H100)."""
RUNTIME_BYTES = 0.35 * GIB
"""CUDA context and libraries of a GPU that works alone, outside PyTorch's allocator."""
SHARED_RUNTIME_BYTES = 2.5 * GIB
"""The same with the buffers of NCCL and of the all-reduce kernels, where GPUs share a model."""
GRAPH_BYTES = 0.8 * GIB
"""CUDA graphs, as vLLM estimates them before it sizes the KV cache (from 0.21 on)."""
ACTIVATION_VECTORS = 4
"""Vectors of a token that a forward pass holds beside the experts' buffers."""
SPARSE_WORKSPACE_CONTEXTS = 5
"""Longest sequences whose latent keys sparse attention gathers in 16 bits (vLLM's
sparse_mla_prefill_workspace_factor)."""
MXFP4_HIDDEN_MULTIPLE = 256
"""MXFP4 kernels pad an expert's hidden size to a multiple of it."""
TRITON_TILE, MARLIN_TILE = 64, 128
"""They pad its intermediate size to a multiple: Triton's kernels, and Marlin's."""
MARGIN_BYTES = 1.25 * GIB
"""By how much the workspace of servers with the same flags differs from build to build."""
WEIGHTS_MARGIN = 0.01
"""Norms, biases and paddings that the catalog does not count, as a share of the weights."""
_LARGE_BYTES, _HUGE_BYTES = 70 * GIB, 160 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMemory:
    """Settings of a vLLM server that its memory depends on; the defaults are those of vLLM 0.32.

    Attributes:
        memory_share: --gpu-memory-utilization.
        batched_tokens: --max-num-batched-tokens; None: what vLLM takes on that GPU.
        sequences: --max-num-seqs; None: what vLLM takes on that GPU.
        sampler_bytes: per sequence and word of the vocabulary.
        graph_bytes: of CUDA graphs; 0 before vLLM 0.21, which did not count them.
        mxfp4_tile: TRITON_TILE or MARLIN_TILE.
    """

    memory_share: float = MEMORY_SHARE
    batched_tokens: int | None = None
    sequences: int | None = None
    sampler_bytes: float = SAMPLER_BYTES
    graph_bytes: float = GRAPH_BYTES
    mxfp4_tile: int = TRITON_TILE


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    """Bytes of one GPU.

    Attributes:
        usable_bytes: the share of the memory that vLLM may take.
        weights_bytes: paddings and replicated parts included.
        workspace_bytes: of the largest step, the runtime and CUDA graphs.
        margin_bytes: by how much weights and workspace together may be off either way.
    """

    usable_bytes: float
    weights_bytes: float
    workspace_bytes: float
    margin_bytes: float

    @property
    def kv_bytes(self) -> float:
        """Left for the KV cache; below 0 where the server does not start."""
        return self.usable_bytes - self.weights_bytes - self.workspace_bytes


def gpu_memory(
    model: ModelFacts, gpu: GpuFacts, parallelism: Parallelism, server: ServerMemory
) -> GpuMemory:
    """How one GPU of a server divides its memory."""
    weights = gpu_weights_bytes(model, parallelism, server.mxfp4_tile)
    return GpuMemory(
        usable_bytes=gpu.memory_bytes * server.memory_share,
        weights_bytes=weights,
        workspace_bytes=_workspace_bytes(model, gpu, parallelism, server),
        margin_bytes=MARGIN_BYTES + WEIGHTS_MARGIN * weights,
    )


def gpu_weights_bytes(
    model: ModelFacts, parallelism: Parallelism, mxfp4_tile: int = TRITON_TILE
) -> float:
    """Weights on one GPU: experts spread over the group, the rest over each rank.

    Routers and the low-rank parts of latent attention stand on every GPU.
    """
    routed = model.routed_parameters * model.expert_bytes / parallelism.gpus
    routed *= _padding(model, parallelism, mxfp4_tile)
    router = model.moe_layers * model.experts * model.hidden
    whole = router + sum(kind.layers * kind.replicated_parameters for kind in model.attention)
    divided = (model.resident_parameters - whole) * model.weight_bytes
    divided += model.embedding_parameters * BF16_BYTES
    return routed + whole * model.weight_bytes + divided / parallelism.tensor


def default_batch(gpu: GpuFacts) -> tuple[int, int]:
    """vLLM's --max-num-batched-tokens and --max-num-seqs of an API server on a GPU."""
    if gpu.memory_bytes >= _HUGE_BYTES:
        return 16_384, 1024
    if gpu.memory_bytes >= _LARGE_BYTES and not gpu.name.startswith("A100"):
        return 8192, 1024
    return 2048, 256


def _workspace_bytes(
    model: ModelFacts, gpu: GpuFacts, parallelism: Parallelism, server: ServerMemory
) -> float:
    usual_tokens, usual_sequences = default_batch(gpu)
    tokens = server.batched_tokens or usual_tokens
    rows = min(server.sequences or usual_sequences, tokens)
    sampler = rows * model.vocabulary * server.sampler_bytes
    runtime = SHARED_RUNTIME_BYTES if parallelism.gpus > 1 else RUNTIME_BYTES
    step = max(tokens * _token_bytes(model, parallelism), sampler)
    return step + _sparse_workspace_bytes(model) + runtime + server.graph_bytes


def _sparse_workspace_bytes(model: ModelFacts) -> float:
    """Buffer into which sparse latent attention gathers keys; the layers share it."""
    widths = (kind.kv_values for kind in model.attention if kind.index_bytes)
    tokens = SPARSE_WORKSPACE_CONTEXTS * (model.context_tokens or 0)
    return tokens * max(widths, default=0.0) * BF16_BYTES


def _token_bytes(model: ModelFacts, parallelism: Parallelism) -> float:
    """Buffers of one token in a forward pass, 16 bits: each expert's input or output, and between.

    The gate and up projections share their buffer with the output (vLLM's fused MoE kernels).
    """
    vectors = float(ACTIVATION_VECTORS * model.hidden)
    if not model.moe_layers:
        return vectors * BF16_BYTES
    inner = _intermediate(model) / (1 if parallelism.expert_parallel else parallelism.tensor)
    vectors += model.experts_per_token * (max(2.0 * inner, model.hidden) + inner)
    return vectors * BF16_BYTES


def _intermediate(model: ModelFacts) -> float:
    return model.expert_parameters / (3.0 * model.hidden)


def _padding(model: ModelFacts, parallelism: Parallelism, tile: int) -> float:
    """By what factor the experts grow when their sizes are padded to the kernel's tiles."""
    if model.expert_bytes != MXFP4_BYTES or not model.moe_layers:
        return 1.0
    parts = 1 if parallelism.expert_parallel else parallelism.tensor
    inner = _intermediate(model) / parts
    return (
        _padded(model.hidden, MXFP4_HIDDEN_MULTIPLE) / model.hidden * _padded(inner, tile) / inner
    )


def _padded(size: float, multiple: int) -> float:
    return -(-size // multiple) * multiple
