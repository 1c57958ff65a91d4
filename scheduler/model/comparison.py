"""Finds the party at fault by comparing what became of a request on several placements.

A placement that fails what another one takes is at fault. A request that fails on several
placements that serve others is at fault itself: it is put into quarantine, and its failures are
taken back.
"""

from __future__ import annotations

from scheduler.blame.likeness import Like, like_of
from scheduler.blame.placement_breakers import is_answer
from scheduler.blame.quarantine import Quarantine, Strike
from scheduler.contract import AttemptEnded, AttemptOutcome, Fault, PlacementKind, Request
from scheduler.model.model_names import serves
from scheduler.model.model_state import ModelState
from scheduler.model.refusals import permitted
from scheduler.placement_state import PlacementState
from scheduler.tracked_request import TrackedRequest

COLLATERAL_S = 2.0
"""Seconds after a quarantine began in which failures of other requests may still be its doing: they
ran on the server that the request broke."""
_ANSWERLESS = (Fault.PLACEMENT, Fault.ABSENT)


def compare_end(
    model_state: ModelState,
    quarantine: Quarantine,
    tracked: TrackedRequest,
    state: PlacementState,
    event: AttemptEnded,
    *,
    outcome: int,
    started_s: float,
    now: float,
) -> str:
    """Records the end of an attempt as evidence about the placement, other placements and the
    request. Returns why the request is in quarantine now; empty: it is not.

    The end must have been recorded by the admission. `outcome`: its number in the error share of
    the placement; 0: it does not count there. `started_s`: start of the attempt.
    """
    if event.outcome is AttemptOutcome.OK:
        _compare_success(model_state, quarantine, tracked, state, event, now)
        return ""
    request, name = tracked.request, state.facts.name
    if event.fault is Fault.REJECTED:
        _confirm(model_state, tracked, name, now)
        return ""
    if event.fault in _ANSWERLESS:
        model_state.unanswered.record(like_of(request), now)
    if event.fault is not Fault.PLACEMENT:
        return ""
    strike = Strike(
        placement=name,
        request_id=request.request_id,
        at_s=now,
        outcome=outcome,
        serves_others=model_state.admission.serves_others(
            name,
            request,
            started_s,
            now,
            lambda like: _is_proven(model_state, quarantine, like, now),
        ),
        detail=event.detail,
    )
    blamed = quarantine.record_strike(request, strike, now)
    for found in blamed:
        model_state.admission.take_back(found.placement, request, found.request_id)
        at = model_state.state_of(found.placement)
        if at is not None and found.outcome:
            at.take_back_failure(found.outcome)
    return quarantined(model_state, quarantine, request, now) if blamed else ""


def quarantined(
    model_state: ModelState, quarantine: Quarantine, request: Request, now: float
) -> str:
    """Why requests like this are refused now; empty: they are not.

    A quarantine ends early once requests unlike it fail and none succeeds: then the fleet is down,
    and the request is not the cause.
    """
    found = quarantine.sentence(request, now) if len(quarantine) else None
    if found is None:
        return ""
    like, sentence = found
    proven = model_state.answered.of_others(like_of(request)) > sentence.since_s
    failed_s = model_state.unanswered.of_others(like_of(request))
    if not proven and failed_s > sentence.since_s + COLLATERAL_S:
        quarantine.release(like)
        return ""
    left_s = sentence.until_s - now
    return (
        f"this request, or one like it, {sentence.reason}: requests like it are refused for "
        f"{left_s:.0f} s; change it instead of sending it again"
    )


def must_compare(
    model_state: ModelState, tracked: TrackedRequest, state: PlacementState, now: float
) -> bool:
    """Whether a rejection of this attempt, or an empty answer, is to be compared with another
    self-hosted placement."""
    request = tracked.request
    if state.facts.kind is not PlacementKind.SELF_HOSTED or tracked.rejected_by:
        return False
    if model_state.admission.believes(state.facts.name, request, now):
        return False
    if tracked.attempts - tracked.evictions >= model_state.attempts:
        return False
    return any(
        other is not state
        and other.serving
        and serves(other, request)
        and permitted(other, request)
        and tracked.may_try(other.facts)
        and not model_state.admission.broken(other.facts.name, now, request)
        for other in model_state.fleet.states
    )


def _compare_success(
    model_state: ModelState,
    quarantine: Quarantine,
    tracked: TrackedRequest,
    state: PlacementState,
    event: AttemptEnded,
    now: float,
) -> None:
    request = tracked.request
    if not is_answer(event):  # an empty answer: what an earlier placement said as well
        _confirm(model_state, tracked, state.facts.name, now)
        return
    model_state.answered.record(like_of(request), now)
    if len(quarantine):
        quarantine.clear(request)
    for failed in tracked.failed_attempts:
        model_state.admission.record_taken_elsewhere(failed.facts.name, request, now)
        if (index := model_state.fleet.index.get(failed.facts.name)) is not None:
            model_state.suspect.add(index)
        at = model_state.state_of(failed.facts.name)
        if at is not None and failed.fault is Fault.REJECTED:
            at.record_outcome(failed=True)


def _is_proven(model_state: ModelState, quarantine: Quarantine, like: Like, now: float) -> bool:
    """Whether alike requests are in quarantine, and others were served since it began."""
    sentence = quarantine.sentence_of(like, now)
    return sentence is not None and model_state.answered.of_others(like) > sentence.since_s


def _confirm(model_state: ModelState, tracked: TrackedRequest, placement: str, now: float) -> None:
    """Two placements rejected the request: both are believed."""
    first = tracked.rejected_by
    if first and first != placement:
        model_state.admission.record_confirmed(first, placement, tracked.request, now)
        model_state.admission.record_confirmed(placement, first, tracked.request, now)
