"""The longest gap between two tokens: a step that computes a full chunk of a prompt.

Every stream waits for that step, whoever routes, and its mean time per token does not show it. The
engine's `--max-num-batched-tokens` bounds the chunk: a smaller one makes gaps shorter and long
prompts slower, because each chunk pays a step. Where no chunk is small enough, engines that only
prefill keep the gaps out of the streams.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scheduler.step_time.step_model import StepModel
from simulation.planner.operating import Lengths

LONGEST_GAP_S = 0.5
"""A pause that readers of a stream notice."""
CHUNKS = (8192, 4096, 2048, 1024, 512)
"""Tokens of a step that are offered, the largest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkAdvice:
    """Attributes:
    gap_s: longest gap with the model's own chunk.
    chunk_tokens: largest chunk with a gap of at most LONGEST_GAP_S; None: none is small enough.
    chunk_gap_s: longest gap with it.
    slower: by how much longer the prompt then takes beside the same streams, relative.
    """

    gap_s: float
    chunk_tokens: int | None
    chunk_gap_s: float | None
    slower: float | None


def longest_gap_s(model: StepModel, lengths: Lengths, batch: float, chunk_tokens: float) -> float:
    """Seconds of the step that computes the last full chunk of a mean prompt beside `batch`
    sequences."""
    uncached = lengths.prompt_tokens - lengths.cached_tokens
    tokens = min(uncached, chunk_tokens)
    return (
        model.decode_step_s(batch, batch * lengths.resident_tokens)
        + model.prompt_experts_s(batch, tokens)
        + model.prompt_work_s(tokens, lengths.prompt_tokens)
    )


def advise(model: StepModel, lengths: Lengths, batch: float) -> ChunkAdvice | None:
    """What to do about gaps above LONGEST_GAP_S; None: there are none."""
    gap_s = longest_gap_s(model, lengths, batch, model.chunk_tokens)
    if gap_s <= LONGEST_GAP_S:
        return None
    for chunk in CHUNKS:
        if chunk >= model.chunk_tokens:
            continue
        chunk_gap_s = longest_gap_s(model, lengths, batch, chunk)
        if chunk_gap_s <= LONGEST_GAP_S:
            whole_s, chunked_s = (
                _prompt_s(model, lengths, batch, tokens) for tokens in (model.chunk_tokens, chunk)
            )
            return ChunkAdvice(
                gap_s=gap_s,
                chunk_tokens=chunk,
                chunk_gap_s=chunk_gap_s,
                slower=chunked_s / whole_s - 1.0,
            )
    return ChunkAdvice(gap_s=gap_s, chunk_tokens=None, chunk_gap_s=None, slower=None)


def _prompt_s(model: StepModel, lengths: Lengths, batch: float, chunk_tokens: int) -> float:
    """Seconds from the first to the last step of a mean prompt beside `batch` sequences."""
    uncached = lengths.prompt_tokens - lengths.cached_tokens
    chunks = max(1, math.ceil(uncached / chunk_tokens))
    step_s = model.decode_step_s(batch, batch * lengths.resident_tokens)
    step_s += model.prompt_experts_s(batch, uncached / chunks)
    return chunks * step_s + model.prompt_work_s(uncached, lengths.prompt_tokens)
