"""Step time of a MoE engine: the formula that the scheduler predicts with.

One decode step of a batch of B sequences reads the attention weights, the experts that the
batch touches, and the KV cache; a prefill costs time per prompt token. The simulated engine uses
the same form with figures of its own. (MoE inference: distinct experts under independent uniform
routing, D(B) = E(1 - (1 - k/E)^B).)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """Coefficients of one group of GPUs that steps together.

    Attributes:
        experts: routed experts per MoE layer, E.
        experts_per_token: experts that each token takes, k.
        base_s: time of a step that touches no expert, t0.
        expert_s: time per distinct expert touched, all layers together, a.
        sequence_s: time per sequence in the batch, c.
        kv_token_s: time per resident KV token, kappa.
        prefill_s: time per prefill, p0.
        prefill_token_s: time per uncached prompt token, p1.
        prefill_context_s: time per (uncached prompt token x context token), p2.
    """

    experts: int
    experts_per_token: int
    base_s: float
    expert_s: float
    sequence_s: float
    kv_token_s: float
    prefill_s: float
    prefill_token_s: float
    prefill_context_s: float

    def distinct_experts(self, batch: int) -> float:
        """Expected distinct experts per layer that a step of `batch` tokens touches, D(B)."""
        return self.experts * (1.0 - (1.0 - self.experts_per_token / self.experts) ** batch)

    def decode_step_s(self, batch: int, kv_tokens: int) -> float:
        """Seconds of one decode step, T(B); an empty batch takes none."""
        if batch <= 0:
            return 0.0
        experts_s = self.expert_s * self.distinct_experts(batch)
        return self.base_s + experts_s + self.sequence_s * batch + self.kv_token_s * kv_tokens

    def prefill_time_s(self, uncached_tokens: int, context_tokens: int) -> float:
        """Seconds to prefill `uncached_tokens` that end at `context_tokens`."""
        if uncached_tokens <= 0:
            return 0.0
        attention_s = self.prefill_context_s * uncached_tokens * context_tokens
        return self.prefill_s + self.prefill_token_s * uncached_tokens + attention_s


QWEN3_30B_H100 = StepModel(
    # Qwen3-30B-A3B in BF16 on one H100 (3.35 TB/s), from the data sheets: an expert is
    # 3 x 2048 x 768 parameters in 48 layers, 453 MB, read at 80 % of the bandwidth; the other
    # weights are 1.5 GB; a KV token is 98,304 bytes; prefill runs at about 35,000 tokens/s.
    experts=128,
    experts_per_token=8,
    base_s=2.5e-3,
    expert_s=1.7e-4,
    sequence_s=2.0e-5,
    kv_token_s=3.7e-8,
    prefill_s=4.0e-3,
    prefill_token_s=2.8e-5,
    prefill_context_s=1.0e-10,
)
"""Prior where a pool tells nothing better."""
