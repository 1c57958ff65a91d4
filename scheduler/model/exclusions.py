"""Which self-hosted placements a request may not go to, whatever room they have."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from scheduler.adapters.adapter_slots import ACTIVATION_S
from scheduler.output_length import Floats
from scheduler.overflow.remotes import Remotes
from scheduler.placement.quotes import Block, Blocks
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.placement_admission import PlacementAdmission
from scheduler.tracked_request import TrackedRequest

# numpy compares plain integers faster than enum members.
_NOT_SERVING, _CONTEXT = np.int8(Block.NOT_SERVING), np.int8(Block.CONTEXT)
_OPEN = np.array((Block.FREE, Block.PAUSED, Block.ADAPTER_SLOTS), dtype=np.int8)
"""Blocks of placements that may take the request, now or later."""


def exclusions(
    fleet: SelfHostedFleet,
    remotes: Remotes,
    admission: PlacementAdmission,
    suspect: Collection[int],
    tracked: TrackedRequest,
    now: float,
) -> Blocks | None:
    """Returns the `Block` of each self-hosted placement for this request, FREE if not excluded;
    None: no placement is excluded. `suspect`: indices of placements whose circuit breakers may not
    all be closed."""
    request = tracked.request
    all_serve = fleet.serving_count == len(fleet)
    if all_serve and not suspect and not may_differ(fleet, tracked):
        return None
    exact, is_adapter = request.prompt_tokens_exact, request.model != fleet.model
    blocks = np.zeros(len(fleet), dtype=np.int8)
    if not all_serve:
        blocks[~fleet.serving] = _NOT_SERVING
    if exact:
        blocks[fleet.context_tokens <= request.prompt_tokens] = _CONTEXT
    for name in request.unsupported_by:
        if (index := fleet.index.get(name)) is not None:
            blocks[index] = Block.NOT_PERMITTED
    for index in suspect:
        name = fleet.states[index].facts.name
        if admission.broken(name, now, request):
            blocks[index] = Block.NOT_SERVING
        elif not admission.admits(name, request, now):
            blocks[index] = Block.PAUSED
    if is_adapter:
        _block_adapter(fleet, request.model, blocks, now)
    if tracked.failed:
        free = [fleet.states[i] for i in np.flatnonzero(np.isin(blocks, _OPEN))]
        untried = [state for state in free if tracked.may_try(state.facts)]
        better = tracked.preferred([*untried, *remotes.open(tracked, now)])
        if tracked.rejected_by:  # the word of one that answers such requests weighs more
            answers = admission.has_answered
            proven = [s for s in better if answers(s.facts.name, request, now)]
            better = proven or better
        # Requests from one broken server are kept apart: the one that broke it shows itself.
        apart = [state for state in better if not state.has_unproven_retry]
        kept = {state.facts.name for state in apart or better}
        for state in free:
            if state.facts.name not in kept:
                blocks[fleet.index[state.facts.name]] = Block.TRIED
    return blocks if np.count_nonzero(blocks) else None


def may_differ(fleet: SelfHostedFleet, tracked: TrackedRequest) -> bool:
    """Whether a placement may be excluded by what the request is, or where it has failed."""
    request = tracked.request
    return bool(
        request.prompt_tokens_exact
        or request.unsupported_by
        or tracked.failed
        or request.model != fleet.model
    )


def activation_s(fleet: SelfHostedFleet, model: str, now: float) -> Floats | None:
    """Time in which each placement makes the adapter `model` active, shape (placements,); None:
    `model` is no adapter, or active everywhere."""
    if model == fleet.model:
        return None
    active = [
        state.adapters.is_active(model, external=state.external(now) > 0) for state in fleet.states
    ]
    return None if all(active) else np.where(active, 0.0, ACTIVATION_S)


def _block_adapter(fleet: SelfHostedFleet, adapter: str, blocks: Blocks, now: float) -> None:
    """Excludes placements that have not loaded the adapter, or have no slot for it now."""
    for index in np.flatnonzero(np.isin(blocks, _OPEN)).tolist():
        state = fleet.states[index]
        if adapter not in state.adapters.loaded:
            blocks[index] = Block.NOT_LOADED
        elif not state.adapters.has_slot(adapter, external=state.external(now) > 0):
            blocks[index] = Block.ADAPTER_SLOTS
