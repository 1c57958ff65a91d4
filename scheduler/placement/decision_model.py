"""The step model that decisions use: the fitted model, with its prefill times within bounds."""

from __future__ import annotations

from dataclasses import replace

from scheduler.policy import Policy
from scheduler.step_time.step_model import StepModel

MOST_PREFILL_FACTOR = 1.5
"""Largest ratio between a fitted prefill time and the prior's."""


def trusted(model: StepModel, prior: StepModel) -> StepModel:
    """The fitted model with prefill times within bounds of the prior's.

    Decode windows hold little information on prefills, and a prefill that looks free would violate
    the SLO of every running stream.
    """
    fitted_s = model.prefill_token_s / prior.prefill_token_s if prior.prefill_token_s else 1.0
    factor = min(MOST_PREFILL_FACTOR, max(1.0 / MOST_PREFILL_FACTOR, fitted_s))
    trusted = prior.scaled(prefill=factor)
    return replace(
        model,
        prefill_s=trusted.prefill_s,
        prefill_token_s=trusted.prefill_token_s,
        prefill_context_s=trusted.prefill_context_s,
    )


def full_token_s(model: StepModel) -> float:
    """Seconds per output token of a group at the batch size that touches nearly all experts."""
    batch = model.touch_all_batch()
    return model.tpot_s(batch, 0) / batch


def priced(model: StepModel, policy: Policy) -> StepModel:
    """The model that decisions use; without `moe_term` every step touches all experts."""
    if policy.moe_term:
        return model
    overlap = model.overlap if model.law is None else 1.0
    all_s = model.expert_s * overlap * model.experts
    return replace(model, base_s=model.base_s + all_s, expert_s=0.0)
