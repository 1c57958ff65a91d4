"""Samples for `prefill_fit.py`: times with prompts, without the decode steps that they held."""

from __future__ import annotations

import math

import msgspec

from scheduler.step_time.prefill_periods import PrefillPeriod
from scheduler.step_time.step_model import StepModel
from scheduler.step_time.step_terms import PromptTerms
from scheduler.step_time.step_windows import Window

STEP_NOISE = 0.1
"""Relative deviation of the time of one step."""


class PrefillSample(msgspec.Struct, frozen=True, kw_only=True):
    """A time in which prompts were computed, and the rest of what it held.

    Attributes:
        at_s: its end, on the scheduler's clock.
        took_s: the time, without the decode steps and the experts that were read in it.
        noise_s: deviation of what was taken off.
        prompts: number of prompts.
        tokens_s, context_s: their terms under the prior, p1 u and p2 u (2 m - u).
        weight: 1, or less for a sample that is worth less.
        sure: it is known what was computed; else a sample that is far off counts little.
    """

    at_s: float
    took_s: float
    noise_s: float
    prompts: float
    tokens_s: float
    context_s: float
    weight: float = 1.0
    sure: bool = False


def sample_of_period(period: PrefillPeriod, prior: StepModel, model: StepModel) -> PrefillSample:
    """A period from dispatch to first tokens. `model`: of its decode steps."""
    batch, steps = period.sequences, period.steps
    step_s = model.decode_step_s(batch, period.kv_tokens) if batch else model.base_s
    known_s = steps * (step_s + model.prompt_experts_s(batch, period.tokens / steps))
    noise_s = STEP_NOISE * step_s * math.sqrt(steps)
    if period.joined:
        known_s += step_s / 2.0
        noise_s = math.hypot(noise_s, step_s / math.sqrt(12.0))
    return PrefillSample(
        at_s=period.ended_s,
        took_s=period.took_s - known_s,
        noise_s=noise_s,
        prompts=period.prompts,
        tokens_s=prior.prefill_token_s * period.tokens,
        context_s=prior.prefill_context_s * period.pairs,
        weight=period.weight,
    )


def sample_of_steps(window: Window, prompts: PromptTerms, decode_s: float) -> PrefillSample:
    """Single steps that computed prompts. `decode_s`: the rest of one of them."""
    return PrefillSample(
        at_s=window.end_s,
        took_s=(window.step_s - decode_s) * window.steps,
        noise_s=STEP_NOISE * window.step_s * math.sqrt(window.steps),
        prompts=prompts.prompts,
        tokens_s=prompts.tokens_s,
        context_s=prompts.context_s,
        sure=True,
    )
