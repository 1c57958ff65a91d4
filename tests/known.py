"""Figures of an engine that a test needs to be known."""

from __future__ import annotations

from typing import TypeVar

Figure = TypeVar("Figure", int, float)

IDLE_METRICS = b"""vllm:num_requests_running{engine="0"} 0.0
vllm:num_requests_waiting{engine="0"} 0.0
"""
"""The least that an idle vLLM says at /metrics."""


def known(figure: Figure | None) -> Figure:
    """The figure, which is not unknown."""
    assert figure is not None
    return figure
