"""The step model that follows from the facts of a model and of its GPUs, before any measurement.

Each coefficient is bytes over bandwidth or operations over speed, with the few constants of
`Constants` that no data sheet states. They were set once on three published tables together
(docs/step-model.md), not per model; the online fit (`scheduler/step_time/step_fit.py`) replaces
the result.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.step_time.step_model import StepModel
from simulation.catalog.facts import BF16_BYTES, ModelFacts
from simulation.catalog.gpus import Architecture, GpuFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """How a group of GPUs shares a model: `tensor` GPUs per rank, `data` ranks, all experts spread.

    `expert_parallel`: tokens travel to the experts' GPUs (all-to-all) instead of each expert being
    split over all.
    """

    tensor: int = 1
    data: int = 1
    expert_parallel: bool = False

    def __post_init__(self) -> None:
        if self.tensor < 1 or self.data < 1:
            raise ValueError(f"{self}: at least one rank of at least one GPU")

    @property
    def gpus(self) -> int:
        """GPUs of the group."""
        return self.tensor * self.data


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Constants that are not facts of a model or a GPU.

    Attributes:
        bandwidth_share: share of the HBM bandwidth that kernels reach.
        prefill_share: share of the peak operations that prefill reaches, experts included.
        layer_s: launches, norms and the router of one layer.
        collective_s: one all-reduce or all-to-all of a small message; a layer has two.
        sequence_s: sampling and bookkeeping per sequence.
        host_s: wait of the GPUs for the host between two steps, without async scheduling.
        overlap: share of the distinct experts of independent tokens that real ones touch.
        link_share: share of the link bandwidth that all-to-all reaches.
    """

    bandwidth_share: float = 0.9
    prefill_share: float = 0.23
    layer_s: float = 75e-6
    collective_s: float = 20e-6
    sequence_s: float = 20e-6
    host_s: float = 5.1e-3
    overlap: float = 0.87
    link_share: float = 0.5


CONSTANTS = {
    Architecture.HOPPER: Constants(),
    Architecture.BLACKWELL: Constants(bandwidth_share=0.85, prefill_share=0.3, layer_s=60e-6),
    Architecture.CDNA: Constants(bandwidth_share=0.6, prefill_share=0.135, layer_s=110e-6),
}
"""Set on the published tables of each architecture (`simulation/planner/published.py`)."""
COLLECTIVES_PER_LAYER = 2
TYPICAL_CONTEXT_TOKENS = 8192.0
"""Length for the KV cache's bytes per token, which fall with the length if layers have windows."""


def prior(
    model: ModelFacts,
    gpu: GpuFacts,
    parallelism: Parallelism | None = None,
    *,
    kv_value_bytes: float = BF16_BYTES,
    context_tokens: float = TYPICAL_CONTEXT_TOKENS,
    constants: Constants | None = None,
    async_scheduling: bool = True,
) -> StepModel:
    """Step model of one group.

    Args:
        parallelism: absent: one GPU.
        kv_value_bytes: bytes of one number in the KV cache: 2, or 1 for FP8.
        context_tokens: typical length of a sequence, for models with windows or a sparse index.
        constants: absent: those of the GPU's architecture.
        async_scheduling: whether vLLM prepares the next step during the current one, its default
            since 0.14.
    """
    constants = constants or CONSTANTS[gpu.architecture]
    spread = parallelism or Parallelism()
    bandwidth = gpu.memory_bytes_per_s * constants.bandwidth_share
    expert_bytes = model.moe_layers * model.expert_parameters * model.expert_bytes
    # The output head is read in each step, the embedding table is not.
    head_bytes = model.vocabulary * model.hidden * BF16_BYTES
    other_bytes = model.resident_parameters * model.weight_bytes + head_bytes
    waits = COLLECTIVES_PER_LAYER * constants.collective_s if spread.gpus > 1 else 0.0
    fixed_s = model.layers * (constants.layer_s + waits)
    if not async_scheduling:
        fixed_s += constants.host_s
    base_s = fixed_s + other_bytes / (spread.tensor * bandwidth)
    expert_s = expert_bytes / (spread.gpus * bandwidth)
    read_bytes = model.step_read_bytes(context_tokens, kv_value_bytes, spread.tensor)
    compute = spread.gpus * constants.prefill_share
    width = BF16_BYTES if model.widened_experts else model.expert_bytes
    token_s = 2.0 * model.active_parameters / (compute * gpu.flops(width))
    token_s += _exchange_s(model, gpu, spread, constants)
    per_token, per_pair = _attention_flops(model, context_tokens)
    token_s += per_token / (compute * gpu.bf16_flops)
    return StepModel(
        experts=model.experts,
        experts_per_token=model.experts_per_token,
        base_s=base_s,
        expert_s=expert_s,
        sequence_s=constants.sequence_s + token_s,
        kv_token_s=read_bytes / context_tokens / bandwidth,
        # Sampling of the first token; the fixed parts and the experts are those of the steps.
        prefill_s=constants.sequence_s,
        prefill_token_s=token_s,
        prefill_context_s=per_pair / (compute * gpu.bf16_flops),
        overlap=constants.overlap if model.moe_layers else 1.0,
        ranks=spread.data,
    )


def _attention_flops(model: ModelFacts, context_tokens: float) -> tuple[float, float]:
    """Operations per prompt token, and per pair as `prefill_context_s` counts pairs (twice).

    Layers that attend to a window or to a chosen few cost the same for each token, once the
    context is longer than that; choosing them costs for each pair.
    """
    per_token = per_pair = 0.0
    for kind in model.attention:
        attended = kind.attended_tokens
        if attended is None:
            per_pair += kind.layers * kind.pair_flops / 2.0
        else:
            per_token += kind.layers * kind.pair_flops * min(attended, context_tokens / 2.0)
            per_pair += kind.layers * kind.index_flops / 2.0
    return per_token, per_pair


def _exchange_s(
    model: ModelFacts, gpu: GpuFacts, spread: Parallelism, constants: Constants
) -> float:
    """Time of one token in the group's exchanges, all layers, when the group is full."""
    if spread.gpus == 1:
        return 0.0
    link = gpu.link_bytes_per_s * constants.link_share
    if spread.expert_parallel:
        # Dispatch in 8 bits and combine in 16, to each of the token's experts; all GPUs at once.
        moved = model.moe_layers * model.experts_per_token * model.hidden * 3.0
        return moved / (link * spread.gpus)
    # Ring all-reduce of one 16-bit vector: 2 (n - 1)/n of it passes each link, twice a layer.
    moved = COLLECTIVES_PER_LAYER * 2.0 * model.layers * model.hidden * BF16_BYTES
    return moved * (spread.tensor - 1) / spread.tensor / link / spread.data
