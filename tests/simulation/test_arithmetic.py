"""Figures that follow from a model and a GPU alone."""

from __future__ import annotations

import pytest

from simulation.catalog.arithmetic import compute_knee_batch, expected_tokens_per_step


def test_the_compute_knee() -> None:
    # DeepSeek-V3 in FP8 on H200: 206 tokens per expert, 6,600 in the group.
    knee = compute_knee_batch(
        experts=256,
        experts_per_token=8,
        flops_per_s=1979e12,
        bytes_per_s=4.8e12,
        bytes_per_parameter=1.0,
    )
    assert knee == pytest.approx(6600, rel=0.01)


@pytest.mark.parametrize(
    ("acceptance", "tokens"), [(0.6, (1.6, 1.96, 2.18)), (0.85, (1.85, 2.57, 3.19))]
)
def test_tokens_per_step(acceptance: float, tokens: tuple[float, ...]) -> None:
    for drafts, expected in enumerate(tokens, 1):
        assert expected_tokens_per_step(acceptance, drafts) == pytest.approx(expected, abs=0.005)
    assert expected_tokens_per_step(1.0, 3) == 4.0
    assert expected_tokens_per_step(0.0, 3) == 1.0
