"""Reason of an immediate refusal when no placement of the model is open to the request."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.contract import AttemptEnded, Fault, PlacementKind, RefusalReason, Request
from scheduler.model.model_names import serves
from scheduler.overflow.remotes import fits_context
from scheduler.placement_admission import PlacementAdmission
from scheduler.placement_state import PlacementState
from scheduler.queue.model_queue import ModelQueue
from scheduler.tracked_request import TrackedRequest

FOR_LACK_OF_ROOM = (
    *(RefusalReason.QUEUE_FULL, RefusalReason.SHED, RefusalReason.QUEUE_TIMEOUT),
    *(RefusalReason.DEADLINE, RefusalReason.UNAVAILABLE),
)
"""Reasons that own servers did not take a request in time."""
SHORTEST_RETRY_S = 0.2
LONGEST_RETRY_S = 60.0
"""Bounds of a retry delay in seconds, so a wrong prediction has limited effect."""
UNAVAILABLE_RETRY_S = 2.0
"""Retry delay in seconds when every placement is down: two probe intervals."""


def why_none_is_open(
    states: Sequence[PlacementState], admission: PlacementAdmission, request: Request, now: float
) -> tuple[RefusalReason, str, float | None]:
    """Returns reason, message and retry delay in seconds; None: a retry cannot succeed."""
    having = [state for state in states if serves(state, request)]
    if not having:
        message = f"no server in service has the adapter {request.model!r} loaded"
        return RefusalReason.UNAVAILABLE, message, UNAVAILABLE_RETRY_S
    usable = [state for state in having if permitted(state, request)]
    if not usable:
        message = "no server of this model may see or can honour this request"
        return RefusalReason.NO_PLACEMENT_ALLOWED, message, None
    fitting = [state for state in usable if fits_context(state, request)]
    if not fitting:
        longest = max(state.context_tokens or 0 for state in usable)
        message = f"{request.prompt_tokens} prompt tokens, the context has {longest}"
        return RefusalReason.TOO_LONG, message, None
    serving = [state for state in fitting if state.serving]
    if not serving:
        message = f"no server of model {request.model!r} is in service: {fitting[0].reason}"
        return RefusalReason.UNAVAILABLE, message, UNAVAILABLE_RETRY_S
    broken = admission.all_broken([state.facts.name for state in serving], now, request)
    message = f"every server of model {request.model!r} that could run this fails"
    if broken is None:
        return RefusalReason.UNAVAILABLE, message, UNAVAILABLE_RETRY_S
    retry_s = max(UNAVAILABLE_RETRY_S, broken.retry_after_s)
    return RefusalReason.UNAVAILABLE, f"{message}: {broken.reason}", retry_s


def retry_after_failures_s(
    tracked: TrackedRequest, last: AttemptEnded, longest_s: float
) -> float | None:
    """Retry delay in seconds after the last attempt of a request; None: a retry cannot succeed,
    because every placement refuses the gateway's account."""
    if all(attempt.fault is Fault.ACCOUNT for attempt in tracked.failed_attempts):
        return None
    retry_s = last.retry_after_s
    return UNAVAILABLE_RETRY_S if retry_s is None else min(longest_s, retry_s)


def queue_full(queue: ModelQueue, request: Request) -> str:
    """Message of a refusal because the queue, or the tenant's share of it, is full."""
    if queue.room.fits_share(request):
        return f"the queue of model {request.model!r} is full ({len(queue)} requests)"
    waiting = queue.room.requests_of(request.tenant)
    return (
        f"tenant {request.tenant} has its share of the queue of model {request.model!r}"
        f" ({waiting} requests)"
    )


def retry_delay_s(drain_s: float) -> float:
    """Returns the retry delay for a queue that is predicted to be empty in `drain_s`."""
    return min(LONGEST_RETRY_S, max(SHORTEST_RETRY_S, drain_s))


def expired(request: Request, now: float, *, awaits_server: bool) -> tuple[RefusalReason, str]:
    """Returns reason and message of a refusal because a request has waited as long as it may.
    `awaits_server`: for a server to start."""
    waited_s = now - request.arrival_s
    if now + SHORTEST_RETRY_S >= request.deadline_s:
        message = f"no room before the deadline: {waited_s:.1f} s in the queue"
        return RefusalReason.DEADLINE, message
    if awaits_server:
        return RefusalReason.QUEUE_TIMEOUT, f"no server has started within {waited_s:.1f} s"
    message = f"no room within {request.slo.max_queue_s:g} s (class {request.slo.slo_class})"
    return RefusalReason.QUEUE_TIMEOUT, message


def unknown_model(model: str) -> str:
    """Message of a refusal because of an unknown model."""
    return f"model {model!r} is not served here"


def permitted(state: PlacementState, request: Request) -> bool:
    """Whether the data policy and the fields of the request allow the placement."""
    facts = state.facts
    if facts.kind is PlacementKind.REMOTE and facts.remote_class not in request.remote_classes:
        return False
    return facts.name not in request.unsupported_by
