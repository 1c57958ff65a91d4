"""The plain form of a planned peak: one answer and one horizon at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from scheduler.output_length import OutputLengths
from scheduler.placement.kv_plan import HORIZONS, Attempt
from scheduler.placement.quotes import PlacementQuery
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.placement_state import PlacementState


def runs_on(attempt: Attempt, steps: float, lengths: OutputLengths) -> float:
    """The probability that a choice that runs now still runs `steps` later."""
    _, tokens, most, _, row = attempt
    if steps == 0.0:
        return 1.0
    if tokens + steps >= most:
        return 0.0
    later, now = lengths.survival(np.array([float(row)]), np.array([tokens + steps, tokens]))
    return min(1.0, float(later) / max(float(now), 1e-300))


def plain_plan(attempts: Sequence[Attempt], lengths: OutputLengths) -> list[tuple[float, float]]:
    """Mean and variance of the tokens that are held at each horizon, from the number of choices
    that are left: a binomial distribution."""
    ends = [*HORIZONS[1:].tolist(), math.inf]
    found = []
    for start, end in zip(HORIZONS.tolist(), ends, strict=True):
        mean = variance = 0.0
        for attempt in attempts:
            prompt, tokens, most, choices, _ = attempt
            runs = runs_on(attempt, start, lengths)
            output = min(tokens + end, max(float(most), tokens))
            chances = [
                math.comb(choices, left) * runs**left * (1.0 - runs) ** (choices - left)
                for left in range(choices + 1)
            ]
            held = [prompt + left * output if left else 0.0 for left in range(choices + 1)]
            first = sum(c * h for c, h in zip(chances, held, strict=True))
            second = sum(c * h * h for c, h in zip(chances, held, strict=True))
            mean += first
            variance += max(0.0, second - first * first)
        found.append((mean, variance))
    return found


def planned_peak_tokens(
    fleet: SelfHostedFleet, state: PlacementState, query: PlacementQuery, sigmas: float
) -> float:
    """The peak of what runs on a placement without external load, with the request of `query`."""
    running = [(r.request, r.output_tokens, r.kv_reserved_tokens) for r in state.residents.values()]
    attempts = [
        (
            request.prompt_tokens if request.max_output_tokens else reserved_tokens,
            output_tokens / request.choices,
            request.max_output_tokens,
            request.choices,
            fleet.lengths.row(request.key_id),
        )
        for request, output_tokens, reserved_tokens in (
            *running,
            (query.request, 0, query.reserve_tokens),
        )
    ]
    plan = plain_plan(attempts, fleet.lengths)
    return max(mean + sigmas * math.sqrt(variance) for mean, variance in plan)
