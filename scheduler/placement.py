"""Where a request would run: the candidates, and the one with the least predicted work.

The first policy. Predicted work of a placement is the time in which it would work off what it
runs, the newcomer included: prefills that are still pending, and the output that is expected,
at the rate of the batch that it would then step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scheduler.fleet import Placement, PlacementState
from scheduler.types import PlacementKind, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a placement promises a newcomer, seconds. None: nothing is known (a new remote)."""

    work_s: float
    ttft_s: float | None
    tpot_s: float | None


def predict(
    state: PlacementState, request: Request, output_tokens: float, now: float
) -> Prediction:
    """Prediction for `request` with `output_tokens` expected, if it started on `state` now."""
    model = state.facts.step_model
    if model is None:
        busy = len(state.residents) / state.facts.max_running
        return Prediction(work_s=busy, ttft_s=state.ttft_s, tpot_s=None)
    batch = state.sequences + state.external(now) + request.choices
    step_s = model.decode_step_s(batch, state.kv_tokens + request.prompt_tokens)
    prefills_s = state.pending_prefill_s + model.prefill_time_s(
        request.prompt_tokens, request.prompt_tokens
    )
    return Prediction(
        work_s=prefills_s + (state.remaining_tokens + output_tokens) * step_s / batch,
        ttft_s=prefills_s + step_s,
        tpot_s=step_s,
    )


def full_batch_work_s(placement: Placement, request: Request, output_tokens: float) -> float:
    """Engine time that `request` takes of a full placement: its part of what drains a queue."""
    model = placement.step_model
    if model is None:
        return 0.0
    batch = placement.max_running
    decode_s = output_tokens * model.decode_step_s(batch, 0) / batch
    return model.prefill_time_s(request.prompt_tokens, request.prompt_tokens) + decode_s


def optimistic_ttft_s(placement: Placement) -> float:
    """Least time to a first token that a placement could need: empty, and the prompt cached."""
    model = placement.step_model
    return 0.0 if model is None else model.decode_step_s(1, 0)


def permitted(state: PlacementState, request: Request) -> bool:
    """Whether data policy and the fields of the request let it run there."""
    facts = state.facts
    if facts.kind is PlacementKind.REMOTE and facts.remote_class not in request.remote_classes:
        return False
    return facts.name not in request.unsupported_by


def fits_context(state: PlacementState, request: Request) -> bool:
    """Whether the prompt leaves room for a token; an estimated prompt is left to the engine."""
    context = state.context_tokens
    return context is None or not request.prompt_tokens_exact or request.prompt_tokens < context


def choose(
    states: Iterable[PlacementState], request: Request, output_tokens: float, now: float
) -> tuple[PlacementState, Prediction] | None:
    """The placement with room and the least predicted work; the first one on a tie."""
    best: tuple[PlacementState, Prediction] | None = None
    for state in states:
        if not state.has_room(request, now):
            continue
        prediction = predict(state, request, output_tokens, now)
        if best is None or prediction.work_s < best[1].work_s:
            best = (state, prediction)
    return best
