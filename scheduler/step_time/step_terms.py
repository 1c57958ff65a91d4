"""The terms of the step model in a window, under a prior, for `step_fit.py`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from scheduler.step_time.step_model import FloatArray, StepModel
from scheduler.step_time.step_windows import Window


def decode_terms(prior: StepModel, window: Window, draft_tokens: float) -> FloatArray:
    """Seconds of a step under the prior, prompt tokens apart: t0, a eta D, c B and kappa K. D is
    the mean over the steps, with prompts and without."""
    batch, steps = window.batch, window.steps
    decoded = batch * (draft_tokens + 1.0)
    touched = prior.touched_experts(decoded)
    if window.prompts > 0 and window.uncached_tokens > 0:
        chunks = steps  # single steps with prefills are apart from the others
        if not window.single_steps:
            uncached = window.uncached_tokens / window.prompts
            chunks = min(steps, window.prompts * math.ceil(uncached / prior.chunk_tokens))
        both = prior.touched_experts(decoded + window.uncached_tokens / chunks)
        touched += _others(window) * chunks / steps * (both - touched)
    return np.array(
        (
            prior.base_s,
            prior.expert_s * touched,
            prior.sequence_s * batch,
            prior.kv_token_s * window.kv_tokens / prior.ranks if batch > 0 else 0.0,
        )
    )


class PromptTerms(NamedTuple):
    """Prompts that stalled the sequences of a window, and their terms under the prior in seconds:
    p1 u and p2 u (2 m - u)."""

    prompts: float
    tokens_s: float
    context_s: float

    def prior_s(self, prior: StepModel) -> float:
        """Their whole time under the prior."""
        return self.prompts * prior.prefill_s + self.tokens_s + self.context_s


NO_PROMPTS = PromptTerms(0.0, 0.0, 0.0)


def prompt_terms(prior: StepModel, window: Window) -> PromptTerms:
    """The terms of the window's prompts."""
    if window.prompts <= 0 or window.uncached_tokens <= 0:
        return NO_PROMPTS
    tokens, others = window.uncached_tokens, _others(window)
    mean_pairs = (2.0 * window.prompt_tokens - tokens) / window.prompts
    return PromptTerms(
        window.prompts * others,
        prior.prefill_token_s * tokens * others,
        prior.prefill_context_s * tokens * mean_pairs * others,
    )


def _others(window: Window) -> float:
    """Share of the window's sequences that a prompt stalls: it does not stall its own. In single
    steps the batch has no sequence that is in its prefill."""
    return 1.0 if window.single_steps else (window.batch - 1.0) / window.batch
