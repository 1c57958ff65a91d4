"""The true step time of a simulated engine, which its scheduler never sees.

It has the form of `scheduler.step_model` with figures of its own, and what that form leaves out:

- experts differ in popularity: expert e is taken by a token with chance p_e, a Zipf law with
  sum p_e = k, so a step of B tokens touches D = sum(1 - (1 - p_e)^B), at most the uniform D;
- under expert parallelism the slowest rank sets the pace: of the distinct experts as well as of
  the tokens the fullest rank counts. Without EPLB experts lie in random order, so that popular
  ones meet; with it they are dealt by popularity, and only the chance of the draw is left.

A step computes prompt chunks beside the sequences that decode, as vLLM's does: the fixed part and
the experts are paid once, by all of its tokens together.

`perturbed` makes a truth from a prior: every coefficient off by a factor of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from scheduler.step_time.step_model import StepModel

_MOST_SHARE = 0.98
"""Upper bound of an expert's chance, because no expert takes every token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertLoad:
    """Distribution of tokens over the experts.

    Attributes:
        zipf_exponent: of the popularity; 0 is uniform. 0.6 is the value seen in production.
        expert_ranks: ranks that the experts lie on; 1: every GPU has a slice of each.
        eplb: whether the load balancer deals the experts by popularity.
        seed: of the random order without it.
    """

    zipf_exponent: float = 0.0
    expert_ranks: int = 1
    eplb: bool = True
    seed: int = 0


class Physics:
    """Times of one group. `decode_fixed_s` is tabulated: the same batches come again and again."""

    def __init__(self, model: StepModel, load: ExpertLoad | None = None) -> None:
        if model.tokens_per_step != 1.0 or model.draft_tokens:
            raise ValueError("the simulated engine does not speculate")
        self.model = model
        self.kv_token_s = model.kv_token_s
        self.prefill_s = model.prefill_s
        self.prompt_work_s: Callable[[float, float], float] = model.prompt_work_s
        self._load = load or ExpertLoad()
        self._uniform = self._load.zipf_exponent == 0.0 and self._load.expert_ranks == 1
        self._popularity = popularity(model, self._load.zipf_exponent)
        self._ranks = deal(self._popularity, self._load)
        self._fixed: dict[int, float] = {}

    def decode_fixed_s(self, batch: int) -> float:
        """Seconds of a decode step of `batch` sequences without the part of the KV cache."""
        found = self._fixed.get(batch)
        if found is None:
            found = self._fixed[batch] = self._decode_fixed_s(batch)
        return found

    def prompt_step_s(self, batch: int, tokens: int) -> float:
        """Seconds that `tokens` of prompts add to a step of `batch` sequences beside their own
        work: experts that only they touch, and the fixed part of a step that decodes nothing."""
        if tokens <= 0:
            return 0.0
        added = self.distinct_experts(batch + tokens) - self.distinct_experts(batch)
        fixed_s = 0.0 if batch else self.model.base_s
        return fixed_s + self.model.expert_s * added

    def distinct_experts(self, batch: int) -> float:
        """Experts per layer that the slowest rank's pace counts: E/ranks of it, times the ranks."""
        if batch <= 0:
            return 0.0
        untouched = np.exp(batch * np.log1p(-self._popularity))
        per_rank = (1.0 - untouched)[self._ranks].sum(axis=1)
        return float(per_rank.max() * len(per_rank)) * self.model.overlap

    def touched_experts(self, tokens: int) -> float:
        """Experts per layer that so many tokens touch, on whatever rank they lie."""
        untouched = np.exp(tokens * np.log1p(-self._popularity))
        touched = float((1.0 - untouched).sum()) * self.model.overlap
        return max(touched, float(self.model.experts_per_token)) if tokens > 0 else 0.0

    def rank_choices(self, tokens: int) -> tuple[float, ...]:
        """Choices of so many tokens that fall on each expert rank; empty without such ranks."""
        if self._load.expert_ranks == 1:
            return ()
        return tuple(map(float, tokens * self._popularity[self._ranks].sum(axis=1)))

    def imbalance(self, batch: int) -> float:
        """phi: tokens on the fullest expert rank over the mean, skew and chance together.

        The chance part is the expected largest of R normal draws (Blom's approximation).
        """
        ranks = self._load.expert_ranks
        if ranks == 1 or batch <= 0:
            return 1.0
        routed = batch * self.model.experts_per_token
        share = self._popularity[self._ranks].sum(axis=1).max() / self.model.experts_per_token
        chance = _largest_of(ranks) * math.sqrt((ranks - 1) / routed)
        return float(share * ranks) + chance

    def _decode_fixed_s(self, batch: int) -> float:
        model = self.model
        if batch <= 0 or self._uniform:
            return model.decode_step_s(batch, 0)
        experts_s = model.expert_s * self.distinct_experts(batch)
        return model.base_s + experts_s + model.sequence_s * batch * self.imbalance(batch)


def popularity(model: StepModel, zipf_exponent: float) -> NDArray[np.float64]:
    """p_e of every expert, falling, with sum k: shape (E,)."""
    weights = np.arange(1, model.experts + 1, dtype=np.float64) ** -zipf_exponent
    chances = np.zeros(model.experts)
    open_ = np.ones(model.experts, dtype=bool)
    # Popular experts are capped below 1 and the rest is dealt to the others.
    while True:
        left = model.experts_per_token - _MOST_SHARE * (~open_).sum()
        chances[open_] = left * weights[open_] / weights[open_].sum()
        over = open_ & (chances > _MOST_SHARE)
        if not over.any() or over.sum() == open_.sum():
            return np.minimum(chances, _MOST_SHARE)
        chances[over] = _MOST_SHARE
        open_ &= ~over


def deal(chances: NDArray[np.float64], load: ExpertLoad) -> NDArray[np.int64]:
    """Experts of each rank, shape (ranks, E / ranks). Raises ValueError: they do not divide."""
    ranks = load.expert_ranks
    if len(chances) % ranks:
        raise ValueError(f"{len(chances)} experts cannot lie on {ranks} ranks")
    if not load.eplb:
        order = np.random.default_rng(load.seed).permutation(len(chances))
        return order.reshape(ranks, -1)
    # The most popular first, each to the lightest rank that has room (greedy, as EPLB packs).
    room = len(chances) // ranks
    packed: list[list[int]] = [[] for _ in range(ranks)]
    weight = [0.0] * ranks
    for expert in np.argsort(-chances, kind="stable"):
        open_ranks = [r for r in range(ranks) if len(packed[r]) < room]
        lightest = min(open_ranks, key=weight.__getitem__)
        packed[lightest].append(int(expert))
        weight[lightest] += float(chances[expert])
    return np.array(packed, dtype=np.int64)


def perturbed(prior: StepModel, seed: int, most: float = 1.5) -> StepModel:
    """A truth: every coefficient times a factor of its own, log-uniform in [1/most, most]."""
    rng = np.random.default_rng(seed)
    factors = np.exp(rng.uniform(-math.log(most), math.log(most), 7))
    base, expert, sequence, kv, first, token, context = (float(f) for f in factors)
    return replace(
        prior,
        base_s=prior.base_s * base,
        expert_s=prior.expert_s * expert,
        sequence_s=prior.sequence_s * sequence,
        kv_token_s=prior.kv_token_s * kv,
        prefill_s=prior.prefill_s * first,
        prefill_token_s=prior.prefill_token_s * token,
        prefill_context_s=prior.prefill_context_s * context,
    )


def _largest_of(draws: int) -> float:
    """Expected largest of `draws` standard normal ones, by bisection on Blom's quantile."""
    quantile = (draws - 0.375) / (draws + 0.25)
    low, high = 0.0, 8.0
    for _ in range(60):
        middle = (low + high) / 2
        if 0.5 * (1.0 + math.erf(middle / math.sqrt(2.0))) < quantile:
            low = middle
        else:
            high = middle
    return low
