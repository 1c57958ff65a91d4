"""Step time of a MoE engine: the formulas that the scheduler predicts with.

    T(B) = t0 + a eta D(B (n + 1)) + c B + kappa K        one decode step of B sequences
    D(x) = E (1 - (1 - k/E)^x)                            distinct experts that x tokens touch
    P(u) = p0 + p1 u + p2 u (2 m - u)                     work on u prompt tokens that end at m
    T(B) + a eta (D(B (n + 1) + u) - D(B (n + 1))) + P(u) a step that computes u such tokens, too

An engine computes prompts in chunks beside the sequences that decode: such a step pays t0 and the
experts once, and only the experts that the decoding tokens leave untouched come on top. An idle
engine pays both for the prompt alone.

D is the law for independent, uniform routing; real tokens overlap more, which eta carries. Where an
engine tells distinct experts, the law that fits them (`expert_law.py`) replaces eta D. With
speculative decoding a step verifies the n drafts of each sequence too, and yields tau tokens of it.
The attention term of P is n^2 - (n - u)^2, which accounts for the work that a cached prefix saves
(Mooncake, FAST'25, section 2); the chunks of a prompt add up to the whole. Ranks of a data-parallel
group step together: K is the KV of all ranks as long as they are balanced, else the slowest one's
times the number of ranks.

`StepModel` is one group and takes plain numbers; `step_models.py` is many groups and takes arrays.
`step_fit.py` fits t0, a eta, c and kappa online; `simulation/catalog` makes priors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from scheduler.step_time.kv_transfer import NO_TRANSFER, KvTransferTime

FloatArray: TypeAlias = npt.NDArray[np.float64]

CHUNK_TOKENS = 8192
"""Prompt tokens of one step: vLLM's --max-num-batched-tokens on data-centre GPUs."""
TOUCH_ALL_SHARE = 0.95
"""Share of the experts from which on more sequences touch hardly any new one."""


@dataclass(frozen=True, slots=True)
class ExpertLaw:
    """Distinct experts by number of tokens, as observed.

    `sorts`: share of the experts, and the chance that a token takes one of these.
    """

    sorts: tuple[tuple[float, float], ...]

    def touched(self, tokens: float) -> float:
        """Share of the experts of a layer that `tokens` touch, 0 to 1."""
        return math.fsum(share * (1.0 - (1.0 - chance) ** tokens) for share, chance in self.sorts)

    def tokens_at(self, share: float) -> float:
        """Tokens beyond which one more touches at most 1 - `share` of the new experts that the
        first one touched, as uniform routing does when it has touched `share` of all."""
        wanted = (1.0 - share) * self._news(0.0)
        low, high = 0.0, 1.0
        while self._news(high) > wanted:
            low, high = high, 2.0 * high
        for _ in range(20):
            middle = (low + high) / 2.0
            low, high = (middle, high) if self._news(middle) > wanted else (low, middle)
        return high

    def _news(self, tokens: float) -> float:
        """Share of the experts that only the next token touches."""
        return math.fsum(share * chance * (1.0 - chance) ** tokens for share, chance in self.sorts)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepModel:
    """Coefficients of one group of GPUs that steps together.

    Attributes:
        experts: routed experts per MoE layer, E.
        experts_per_token: experts that each token takes, k.
        base_s: time of a step that touches no expert, t0.
        expert_s: time per distinct expert touched, all layers together, a.
        sequence_s: time per sequence in the batch, c.
        kv_token_s: time per KV token resident on the slowest rank, kappa.
        prefill_s: time per prefill beside that of its tokens, p0.
        prefill_token_s: time per uncached prompt token, p1.
        prefill_context_s: time per pair of an uncached prompt token and a token before it, counted
            from both sides, p2.
        overlap: share of D(B) that is really touched, eta: tokens of real text agree more.
        draft_tokens: tokens that each sequence verifies in a step beside its own, n.
        tokens_per_step: tokens that a sequence gains in a step, tau; 1 without speculation.
        ranks: data-parallel ranks that step together.
        chunk_tokens: most prompt tokens of a step.
        law: distinct experts as observed, in place of eta D; None: not observed.
        transfer: of a prompt's KV cache, between its prefill and its first decode step.
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
    overlap: float = 1.0
    draft_tokens: float = 0.0
    tokens_per_step: float = 1.0
    ranks: int = 1
    chunk_tokens: int = CHUNK_TOKENS
    law: ExpertLaw | None = None
    transfer: KvTransferTime = NO_TRANSFER

    def distinct_experts(self, tokens: float) -> float:
        """Expected distinct experts per layer that `tokens` of one step touch, D."""
        if self.law is not None:
            return self.experts * self.law.touched(float(tokens))
        untouched: float = (1.0 - self.experts_per_token / self.experts) ** float(tokens)
        return self.experts * (1.0 - untouched)

    def touched_experts(self, tokens: float) -> float:
        """The same with the overlap of real text, eta D; an observed law has it in itself."""
        distinct = self.distinct_experts(tokens)
        return distinct if self.law is not None else self.overlap * distinct

    def decode_step_s(self, batch: float, kv_tokens: float) -> float:
        """Seconds of one decode step, T(B); an empty batch takes none.

        `kv_tokens`: KV of the group, spread evenly over its ranks; else the fullest rank's on each.
        """
        if batch <= 0:
            return 0.0
        return (
            self.base_s
            + self.expert_s * self.touched_experts(batch * (self.draft_tokens + 1.0))
            + self.sequence_s * batch
            + self.kv_token_s * kv_tokens / self.ranks
        )

    def tpot_s(self, batch: float, kv_tokens: float) -> float:
        """Seconds per output token of a sequence in such a batch, T(B) / tau."""
        return self.decode_step_s(batch, kv_tokens) / self.tokens_per_step

    def marginal_step_s(self, batch: float, kv_tokens: float, newcomer_kv_tokens: float) -> float:
        """Seconds that one more sequence adds to a step; on an idle group the whole step, T(1)."""
        after_s = self.decode_step_s(batch + 1, kv_tokens + newcomer_kv_tokens)
        return after_s - self.decode_step_s(batch, kv_tokens)

    def prefill_time_s(
        self, uncached_tokens: float, context_tokens: float, batch: float = 0.0
    ) -> float:
        """Seconds by which a prompt prolongs the steps of `batch` sequences that decode; on an idle
        engine those of its own steps.

        It computes `uncached_tokens` that end at `context_tokens`.
        """
        if uncached_tokens <= 0:
            return 0.0
        chunks = math.ceil(uncached_tokens / self.chunk_tokens)
        step_s = self.prompt_experts_s(batch, uncached_tokens / chunks)
        if batch <= 0:
            step_s += self.base_s
        return chunks * step_s + self.prompt_work_s(uncached_tokens, context_tokens)

    def prompt_work_s(self, uncached_tokens: float, context_tokens: float) -> float:
        """The part of `prefill_time_s` that the tokens themselves take, P(u)."""
        uncached, context = float(uncached_tokens), float(context_tokens)
        context_s = self.prefill_context_s * uncached * (2.0 * context - uncached)
        return self.prefill_s + self.prefill_token_s * uncached + context_s

    def prompt_experts_s(self, batch: float, tokens: float) -> float:
        """Seconds to read the experts that `tokens` of a prompt touch in one step and the decoding
        sequences beside them do not."""
        decoded = max(0.0, batch) * (self.draft_tokens + 1.0)
        added = self.touched_experts(decoded + tokens) - self.touched_experts(decoded)
        return self.expert_s * added

    def scaled(
        self,
        *,
        base: float = 1.0,
        experts: float = 1.0,
        sequences: float = 1.0,
        kv: float = 1.0,
        prefill: float = 1.0,
    ) -> StepModel:
        """A copy of the model with the time of each part multiplied by its factor."""
        return replace(
            self,
            base_s=self.base_s * base,
            expert_s=self.expert_s * experts,
            sequence_s=self.sequence_s * sequences,
            kv_token_s=self.kv_token_s * kv,
            prefill_s=self.prefill_s * prefill,
            prefill_token_s=self.prefill_token_s * prefill,
            prefill_context_s=self.prefill_context_s * prefill,
        )

    def touch_all_batch(self, share: float = TOUCH_ALL_SHARE) -> float:
        """Sequences at which a step touches `share` of the experts: about 3 E/k for 95 %.

        Beyond it one more sequence costs c and kappa only: the batch that shaping aims at.
        """
        if self.experts_per_token >= self.experts:
            return 1.0
        if self.law is not None:
            return max(1.0, self.law.tokens_at(share) / (self.draft_tokens + 1.0))
        tokens = math.log1p(-share) / math.log1p(-self.experts_per_token / self.experts)
        return max(1.0, tokens / (self.draft_tokens + 1.0))


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
    prefill_s=2.0e-5,
    prefill_token_s=2.8e-5,
    prefill_context_s=1.0e-10,
)
"""Prior if a pool gives no better one, and the figures of the simulated vLLM."""
