"""The step model that decisions use."""

from __future__ import annotations

from dataclasses import replace

from scheduler.policy import Policy
from scheduler.step_time.step_model import StepModel


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
