"""Takes over attempts that an earlier scheduler has started, so that they count where they run.

Nothing is decided and nothing is learnt from the takeover itself: the attempt holds its placement,
its KV cache and its tenant's share as if it had started here.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.contract import PlacementKind, Request, SloClass
from scheduler.model.model_state import ModelState
from scheduler.placement_state import PlacementState
from scheduler.resident import Resident
from scheduler.tracked_request import TrackedRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningAttempt:
    """An attempt that runs. `started_s`: on the scheduler's clock. `output_tokens`: so far, of all
    choices together."""

    request: Request
    placement: str
    attempt: int
    started_s: float
    output_tokens: int


def resume_attempt(
    model_state: ModelState,
    tracked: TrackedRequest,
    state: PlacementState,
    running: RunningAttempt,
    now: float,
) -> None:
    """Adds the attempt to its placement. `state`: of that placement."""
    tracked.attempts, tracked.placement = running.attempt, state
    if state.facts.kind is PlacementKind.REMOTE:
        state.add(_resident(tracked, running), now)
        if running.output_tokens:
            state.resume_output(running.request.request_id, running.output_tokens)
    else:
        _resume_self_hosted(model_state, tracked, state, running, now)
    model_state.admission.record_resumed(state.facts.name, running.request, now)


def _resume_self_hosted(
    model_state: ModelState,
    tracked: TrackedRequest,
    state: PlacementState,
    running: RunningAttempt,
    now: float,
) -> None:
    fleet, request = model_state.fleet, running.request
    index = fleet.index_of(state)
    assert index is not None
    prefill_s = 0.0 if running.output_tokens else fleet.solo_prefill_s(request.prompt_tokens)
    service = model_state.service_nano_usd(index, prefill_s, tracked.output_tokens)
    resident = _resident(
        tracked,
        running,
        prefill_s=prefill_s,
        service_nano_usd=service,
        nano_usd_per_s=fleet.nano_usd_per_s.item(index),
    )
    fleet.add(index, resident, now)
    if running.output_tokens:
        state.resume_output(request.request_id, running.output_tokens)
        streams = fleet.groups[index].streams
        # The time of the first token is not known. The start is earlier, so that the stream is
        # taken to be later than it is, and not to have slack that it may lack.
        streams.first_token(request.request_id, running.started_s, in_time=True)
        streams.progress(request.request_id, running.output_tokens / request.choices, now)
        resident.seen_s = now
        fleet.sync(index, now)
    if request.slo.slo_class is SloClass.BATCH:
        model_state.batch[request.request_id] = index
    model_state.queue.counters.charge(request.tenant, request.weight, service)
    model_state.record_prefix(index, state, request)


def _resident(
    tracked: TrackedRequest,
    running: RunningAttempt,
    *,
    prefill_s: float = 0.0,
    service_nano_usd: float = 0.0,
    nano_usd_per_s: float = 0.0,
) -> Resident:
    remote = tracked.placement is not None and tracked.placement.facts.kind is PlacementKind.REMOTE
    return Resident(
        request=running.request,
        started_s=running.started_s,
        promised_ttft_s=tracked.ttft_s,
        kv_reserved_tokens=0 if remote else tracked.reserve_tokens,
        kv_spread_tokens=0.0 if remote else tracked.spread_tokens,
        prefill_s=prefill_s,
        hit_tokens=0,
        service_nano_usd=service_nano_usd,
        nano_usd_per_s=nano_usd_per_s,
    )
