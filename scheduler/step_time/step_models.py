"""Step times of many groups of GPUs at once: the formulas of `step_model.py` over arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from scheduler.step_time.step_model import CHUNK_TOKENS, FloatArray, StepModel

Counts: TypeAlias = npt.NDArray[np.float64] | npt.NDArray[np.int64]

_ONE = np.array(1.0)  # numpy takes arrays without dimensions faster than Python numbers
_NEVER = -1e3
"""Logarithm of the chance to miss an expert that every token takes."""


class StepModels:
    """Coefficients of many groups as arrays of shape (groups,): one call quotes them all.

    Arguments are arrays of shape (groups,), or broadcast to it; so are results.
    """

    __slots__ = (
        *("base_s", "chunk_tokens", "draft_tokens", "experts", "experts_per_token", "kv_token_s"),
        *("laws", "miss_logs", "prefill_context_s", "prefill_s", "prefill_terms_s"),
        *("prefill_token_s", "sequence_s", "sort_logs", "sort_shares", "speculate"),
        *("tokens_per_step", "touched_s"),
    )

    def __init__(self, models: Sequence[StepModel]) -> None:
        rows = np.array([_row(model) for model in models], dtype=np.float64).reshape(-1, 11)
        columns = np.ascontiguousarray(rows.T)
        (
            self.experts,
            self.experts_per_token,
            self.base_s,
            self.touched_s,
            self.sequence_s,
            self.kv_token_s,
            self.prefill_s,
            self.prefill_token_s,
            self.prefill_context_s,
            self.draft_tokens,
            self.tokens_per_step,
        ) = columns
        self.prefill_terms_s: FloatArray = columns[6:9]
        """The memory of `prefill_s`, `prefill_token_s` and `prefill_context_s`."""
        self.speculate = bool((self.tokens_per_step != 1.0).any())
        self.miss_logs: FloatArray = np.array([_miss_log(model) for model in models])
        self.chunk_tokens = models[0].chunk_tokens if models else CHUNK_TOKENS
        self.laws = [model.law for model in models]
        self.sort_shares: FloatArray = np.zeros((0, len(models)))
        self.sort_logs: FloatArray = np.zeros((0, len(models)))
        self._set_sorts(range(len(models)))

    def set(self, index: int, model: StepModel) -> None:
        """Replaces the coefficients of one group, after a new fit."""
        for name, value in zip(_COLUMNS, _row(model), strict=True):
            getattr(self, name)[index] = value
        self.speculate = bool((self.tokens_per_step != 1.0).any())
        self.miss_logs[index] = _miss_log(model)
        if self.laws[index] != model.law:
            self.laws[index] = model.law
            self._set_sorts((index,))

    def _set_sorts(self, groups: Sequence[int]) -> None:
        """Writes the sorts of some groups' laws. The arrays are of shape (sorts, groups), and empty
        as long as nothing is observed; a group without a law has one sort, the uniform one."""
        laws = (self.laws[group] for group in groups)
        most = max((len(law.sorts) for law in laws if law is not None), default=0)
        if most > len(self.sort_shares):
            self.sort_shares = np.zeros((most, len(self.laws)))
            self.sort_logs = np.zeros((most, len(self.laws)))
            groups = range(len(self.laws))
        for group in groups if len(self.sort_shares) else ():
            law = self.laws[group]
            uniform = ((1.0, self.experts_per_token[group] / self.experts[group]),)
            self.sort_shares[:, group] = 0.0
            for row, (share, chance) in enumerate(uniform if law is None else law.sorts):
                self.sort_shares[row, group] = share
                self.sort_logs[row, group] = math.log1p(-chance) if chance < 1.0 else _NEVER

    def decode_step_s(self, batch: Counts, kv_tokens: Counts) -> FloatArray:
        """T(B) of every group, seconds; 0 where `batch` is 0."""
        tokens = np.maximum(batch, 0) * (self.draft_tokens + 1.0)
        touched_s = self.touched_s * self._distinct(tokens)
        step_s = self.base_s + touched_s + self.sequence_s * batch + self.kv_token_s * kv_tokens
        return np.where(np.asarray(batch) > 0, step_s, 0.0)

    def _distinct(self, tokens: FloatArray) -> FloatArray:
        if not len(self.sort_shares):
            missed = (1.0 - self.experts_per_token / self.experts) ** tokens
        else:
            missed = (self.sort_shares * np.exp(self.sort_logs * tokens)).sum(axis=0)
        distinct: FloatArray = self.experts * (1.0 - missed)
        return distinct

    def tpot_s(self, batch: Counts, kv_tokens: Counts) -> FloatArray:
        """T(B) / tau of every group, seconds per output token of a sequence."""
        gap_s: FloatArray = self.decode_step_s(batch, kv_tokens) / self.tokens_per_step
        return gap_s

    def prefill_time_s(
        self,
        uncached_tokens: Counts,
        context_tokens: Counts | float,
        untouched_s: FloatArray,
        whole_s: FloatArray | None = None,
    ) -> FloatArray:
        """Seconds by which a prompt prolongs the steps of every group that decodes.

        It computes `uncached_tokens` that end at `context_tokens`. `untouched_s`: seconds to read
        the experts that a full chunk would touch beside the group's batch, `prompt_experts_s`.
        `whole_s`: array of shape (groups,) that receives the result; None for a new array.
        """
        uncached = np.asarray(uncached_tokens, dtype=np.float64)
        chunks = np.ceil(uncached / self.chunk_tokens)
        # A prompt token finds one of the experts that are left as often as any other.
        experts_s = np.expm1(self.miss_logs * (uncached / np.fmax(chunks, _ONE)))
        experts_s *= chunks
        experts_s *= untouched_s
        pairs = np.asarray(2.0 * context_tokens - uncached_tokens)
        whole_s = np.multiply(self.prefill_context_s, pairs, whole_s)
        whole_s += self.prefill_token_s
        whole_s *= uncached
        whole_s += self.prefill_s
        whole_s -= experts_s
        if uncached.size and uncached.item(uncached.argmin()) > 0.0:
            return whole_s
        whole_s[np.broadcast_to(uncached, whole_s.shape) <= 0.0] = 0.0
        return whole_s

    def uncached_prefill_time_s(
        self,
        prompt_tokens: float,
        context_tokens: float,
        untouched_s: FloatArray,
        whole_s: FloatArray,
    ) -> FloatArray:
        """`prefill_time_s` where no group has a part of the prompt in its cache."""
        chunks = math.ceil(prompt_tokens / self.chunk_tokens)
        if not chunks:
            whole_s[:] = 0.0
            return whole_s
        pairs = prompt_tokens * (2.0 * context_tokens - prompt_tokens)
        np.dot(np.array((1.0, prompt_tokens, pairs)), self.prefill_terms_s, whole_s)
        experts_s = np.expm1(self.miss_logs * np.array(prompt_tokens / chunks))
        experts_s *= untouched_s
        if chunks > 1:
            experts_s *= np.array(float(chunks))
        whole_s -= experts_s
        return whole_s


_COLUMNS = (
    *("experts", "experts_per_token", "base_s", "touched_s", "sequence_s", "kv_token_s"),
    *("prefill_s", "prefill_token_s", "prefill_context_s", "draft_tokens", "tokens_per_step"),
)


def _row(model: StepModel) -> tuple[float, ...]:
    return (
        model.experts,
        model.experts_per_token,
        model.base_s,
        model.expert_s * (model.overlap if model.law is None else 1.0),
        model.sequence_s,
        model.kv_token_s / model.ranks,
        model.prefill_s,
        model.prefill_token_s,
        model.prefill_context_s,
        model.draft_tokens,
        model.tokens_per_step,
    )


def _miss_log(model: StepModel) -> float:
    """Logarithm of the chance that a token misses an expert."""
    chance = model.experts_per_token / model.experts
    return math.log1p(-chance) if chance < 1.0 else _NEVER
