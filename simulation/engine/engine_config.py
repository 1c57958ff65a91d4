"""The size of a simulated engine."""

from __future__ import annotations

from dataclasses import dataclass

from simulation.engine.rank import RankSize


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Size of an engine; the defaults are vLLM's, with the KV cache of Qwen3-30B-A3B on an H100.

    Attributes:
        max_num_seqs: sequences that run at once, of each rank.
        max_num_batched_tokens: tokens of one step of a rank, prefill and decode together.
        num_gpu_blocks, block_size: the KV cache of a rank, block_size in tokens.
        max_model_len: most tokens of prompt and output together.
        noise_sigma: sigma of the lognormal factor on each step's time; its mean is 1.
        ranks: data-parallel ranks.
        extent_blocks: blocks that the prefix cache finds as a whole; 1 is vLLM.
        max_loras: different LoRA adapters that a rank computes in one batch.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    num_gpu_blocks: int = 6144
    block_size: int = 16
    max_model_len: int = 32_768
    noise_sigma: float = 0.05
    ranks: int = 1
    extent_blocks: int = 1
    max_loras: int = 1

    def __post_init__(self) -> None:
        least = min(self.max_num_seqs, self.max_num_batched_tokens, self.block_size, self.max_loras)
        if min(least, self.ranks, self.extent_blocks) < 1 or self.max_model_len < 2:
            raise ValueError(f"{self}: sizes are positive")
        if self.noise_sigma < 0:
            raise ValueError(f"{self}: sizes are positive")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError("max_num_batched_tokens must not be below max_num_seqs")
        # Else a sequence could preempt all others and still not fit.
        if self.num_gpu_blocks * self.block_size < self.max_model_len:
            raise ValueError("the KV cache must hold one sequence of max_model_len tokens")

    def rank_size(self) -> RankSize:
        """Size of each rank."""
        return RankSize(
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            num_gpu_blocks=self.num_gpu_blocks,
            block_size=self.block_size,
            extent_blocks=self.extent_blocks,
            max_loras=self.max_loras,
        )
