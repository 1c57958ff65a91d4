"""Windows of the fit from single steps of an engine, for `step_fit.py`.

Steps of one batch size are put together, those with prefills apart from the others: each window is
a mean over a few like steps. A step that took several times the median of its like is counted as
that much only: the machine stalled, not the engine. A step that only prefills has a batch of 0.

The ranks of a data-parallel group step together, but each tells its own steps. The batch of a step
is then the sum over the ranks' newest steps, and the fullest rank's KV counts for each.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from scheduler.engine_steps import EngineStep, EngineSteps
from scheduler.step_time.step_windows import Window, WindowSource

STEPS_PER_WINDOW = 20
MOST_WINDOWS = 64
"""Windows of one event; further steps are left out, so that the fit never takes long."""
EXACT_BATCH = 32
"""Batches above are put together in classes that are about 3 % wide."""
STALL_FACTOR = 2.0
"""Multiple of the median at which the time of a step is cut off."""
TOGETHER = 1.5
"""Steps of two ranks are the same one if they ended within so many step times."""


def windows_of(event: EngineSteps, *, kv_capacity_tokens: int, from_s: float) -> list[Window]:
    """The windows of an event's steps.

    `kv_capacity_tokens`: of the group; `from_s`: steps that ended earlier are disturbed.
    """
    ranks = len({step.rank for step in event.steps})
    if ranks > 1 and not event.whole:
        return []  # the batch of the other ranks is unknown
    usable = [s for s in event.steps if s.at_s >= from_s and s.took_s > 0 and not s.preemptions]
    if ranks > 1:
        usable = _of_the_group(usable)
    like: defaultdict[tuple[int, bool], list[EngineStep]] = defaultdict(list)
    for step in usable:
        if step.sequences or step.prefill_tokens:  # a step without work has no step time
            like[_size_class(step.sequences), step.prefills > 0].append(step)
    windows: list[Window] = []
    for some in like.values():
        for begin in range(0, len(some), STEPS_PER_WINDOW):
            part = some[begin : begin + STEPS_PER_WINDOW]
            windows.append(_window(part, kv_capacity_tokens))
            if len(windows) == MOST_WINDOWS:
                return windows
    return windows


def _size_class(sequences: int) -> int:
    if sequences <= EXACT_BATCH:
        return sequences
    return round(EXACT_BATCH * (1.0 + math.log(sequences / EXACT_BATCH)))


def _window(steps: Sequence[EngineStep], kv_capacity_tokens: int) -> Window:
    count = len(steps)
    most_s = STALL_FACTOR * sorted(step.took_s for step in steps)[count // 2]
    step_s = sum(min(step.took_s, most_s) for step in steps) / count
    sequences = sum(step.sequences for step in steps)
    outputs = [step.output_tokens for step in steps if step.output_tokens is not None]
    tokens_per_step = None
    if sequences and len(outputs) == count:
        tokens_per_step = max(1.0, sum(outputs) / sequences)
    drafts = sum(step.decode_tokens for step in steps) / sequences - 1.0 if sequences else None
    return Window(
        start_s=min(step.at_s for step in steps),
        end_s=max(step.at_s for step in steps),
        source=WindowSource.STEPS,
        step_s=step_s,
        gaps=sequences,
        batch=sequences / count,
        kv_tokens=sum(step.kv_usage for step in steps) / count * kv_capacity_tokens,
        prompts=sum(step.prefills for step in steps),
        # A prompt in several steps: its parts count as if nothing came before them.
        prompt_tokens=sum(step.prompt_tokens or step.prefill_tokens for step in steps),
        uncached_tokens=sum(step.prefill_tokens for step in steps),
        tokens_per_step=tokens_per_step,
        draft_tokens=None if drafts is None else max(0.0, drafts),
        single_steps=count,
    )


def _of_the_group(steps: Sequence[EngineStep]) -> list[EngineStep]:
    """The steps of the busiest rank, with the batch of all ranks. Steps beside which a rank
    computes a prompt are left out: the slowest rank's is not known."""
    by_rank: defaultdict[int, int] = defaultdict(int)
    for step in steps:
        by_rank[step.rank] += 1
    if not by_rank:
        return []
    busiest = max(by_rank, key=lambda rank: (by_rank[rank], -rank))
    newest: dict[int, EngineStep] = {}
    found: list[EngineStep] = []
    for step in sorted(steps, key=lambda step: (step.at_s, step.rank == busiest)):
        newest[step.rank] = step
        if step.rank != busiest:
            continue
        together = [s for s in newest.values() if step.at_s - s.at_s < TOGETHER * step.took_s]
        if any(s.prefills for s in together):
            continue
        outputs = [s.output_tokens for s in together if s.output_tokens is not None]
        found.append(
            EngineStep(
                rank=busiest,
                at_s=step.at_s,
                took_s=step.took_s,
                sequences=sum(s.sequences for s in together),
                decode_tokens=sum(s.decode_tokens for s in together),
                output_tokens=sum(outputs) if len(outputs) == len(together) else None,
                prefills=0,
                prefill_tokens=0,
                prompt_tokens=None,
                kv_usage=max(s.kv_usage for s in together),
            )
        )
    return found
