"""Figures of steps that follow from a model and a GPU alone, without a step model."""

from __future__ import annotations


def expected_tokens_per_step(acceptance: float, draft_tokens: int) -> float:
    """tau of speculative decoding when each draft token is accepted with `acceptance` (0..1)."""
    if not 0.0 <= acceptance < 1.0:
        return float(draft_tokens + 1)
    return float((1.0 - acceptance ** (draft_tokens + 1)) / (1.0 - acceptance))


def compute_knee_batch(
    *,
    experts: int,
    experts_per_token: int,
    flops_per_s: float,
    bytes_per_s: float,
    bytes_per_parameter: float,
) -> float:
    """Tokens in a step above which the experts' arithmetic takes longer than reading their weights.

    A token does 2 operations on each parameter of its experts, so an expert that serves x tokens
    takes 2 x operations on q bytes: x = (F/BW) q / 2, and B = x E/k. The figures are of one GPU.
    """
    tokens_per_expert = flops_per_s / bytes_per_s * bytes_per_parameter / 2.0
    return tokens_per_expert * experts / experts_per_token
