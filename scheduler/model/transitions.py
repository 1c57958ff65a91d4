"""Start and end of attempts on self-hosted placements and remotes, and the decision records.

A start adds the attempt to its placement's counts. An end removes it, settles the tenant's service,
and updates the learnt estimates.
"""

from __future__ import annotations

import numpy as np

from scheduler.contract import (
    AttemptEnded,
    AttemptOutcome,
    Fault,
    OverflowReason,
    PlacementKind,
    RefusalReason,
    SloClass,
    Start,
)
from scheduler.decisions import Decision, Tier
from scheduler.model.comparison import must_compare
from scheduler.model.lost_prefix import lost_prefix_nano_usd
from scheduler.model.model_state import URGENT, ModelState
from scheduler.model.refusals import FOR_LACK_OF_ROOM
from scheduler.model.typical_times import typical_times
from scheduler.overflow.overflow import RemoteQuote
from scheduler.placement import learning
from scheduler.placement.quotes import PlacementQuery, Quote
from scheduler.placement_state import PlacementState
from scheduler.resident import Resident
from scheduler.tracked_request import TrackedRequest

_FAULTS_OF_PLACEMENTS = (Fault.PLACEMENT, Fault.ABSENT, Fault.BUSY, Fault.ACCOUNT)
"""Faults that count for the error share of the placement."""


def start_self_hosted(
    model_state: ModelState,
    tracked: TrackedRequest,
    index: int,
    query: PlacementQuery,
    quote: Quote,
    now: float,
) -> Start:
    """Starts the request on the self-hosted placement with this index."""
    request, state = tracked.request, model_state.fleet.states[index]
    prefill_s = quote.prefill_s.item(index)
    figures = typical_times(model_state.fleet, query, quote, index, now)
    resident = Resident(
        request=request,
        started_s=now,
        promised_ttft_s=tracked.ttft_s,
        kv_reserved_tokens=query.reserve_tokens,
        kv_spread_tokens=query.spread_tokens,
        prefill_s=prefill_s,
        hit_tokens=int(query.hit_tokens.item(index)),
        predicted_ttft_s=quote.ttft_s.item(index),
        typical_ttft=figures.first,
        service_nano_usd=model_state.service_nano_usd(index, prefill_s, query.output_tokens),
        nano_usd_per_s=model_state.fleet.nano_usd_per_s.item(index),
        is_retry=tracked.failed,
    )
    quote.set_times(index, figures.ttft_s, figures.tpot_s)
    model_state.fleet.add(index, resident, now)
    if request.slo.slo_class is SloClass.BATCH:
        model_state.batch[request.request_id] = index
    model_state.queue.counters.charge(request.tenant, request.weight, resident.service_nano_usd)
    model_state.rate.add_work(model_state.work_s(tracked, prefill_s))
    model_state.record_prefix(index, state, request)
    _count_start(model_state, tracked, state, now)
    count_arrival(model_state, tracked, now, in_time=now - request.arrival_s <= tracked.ttft_s)
    reason = start_reason(quote, index)
    record_decision(
        model_state, tracked, now, Tier.LOCAL, reason, quote=quote, chosen=state.facts.name
    )
    return Start(
        request_id=request.request_id,
        attempt=tracked.attempts,
        placement=state.facts.name,
        kind=PlacementKind.SELF_HOSTED,
        reason=reason,
        predicted_ttft_s=quote.ttft_s.item(index),
        predicted_tpot_s=quote.tpot_s.item(index),
        dp_rank=state.facts.dp_rank,
        pool=state.facts.pool,
        replica=state.facts.replica,
        compare=must_compare(model_state, tracked, state, now),
    )


def start_remote(
    model_state: ModelState,
    tracked: TrackedRequest,
    quote: Quote | None,
    now: float,
    *,
    any_ttft: bool,
) -> Start | None:
    """Starts the request on the cheapest remote that is in time; None: no remote can take it.
    `any_ttft`: accept a late remote if none is in time."""
    chosen, choice_reason, quotes = choose_remote(model_state, tracked, now, any_ttft=any_ttft)
    if chosen is None:
        return None
    request = tracked.request
    saturated = model_state.query(tracked, now).possible
    at = model_state.remotes.index[chosen.placement]
    state = model_state.remotes.states[at]
    resident = Resident(
        request=request,
        started_s=now,
        promised_ttft_s=tracked.ttft_s,
        kv_reserved_tokens=0,
        prefill_s=0.0,
        hit_tokens=chosen.hit_tokens,
        service_nano_usd=0.0,
    )
    state.add(resident, now)
    model_state.remotes.record_try(chosen.placement)
    model_state.record_prefix(len(model_state.fleet) + at, state, request)
    _count_start(model_state, tracked, state, now)
    if saturated:
        count_arrival(model_state, tracked, now, in_time=False)
        model_state.turned_away.record_overflow(now)
    reason = (
        f"{'own servers saturated' if saturated else 'no own server can serve it'}; {choice_reason}"
    )
    record_decision(
        model_state, tracked, now, Tier.REMOTE, reason,
        quote=quote, chosen=chosen.placement, remote_quotes=quotes,
    )  # fmt: skip
    return Start(
        request_id=request.request_id,
        attempt=tracked.attempts,
        placement=chosen.placement,
        kind=PlacementKind.REMOTE,
        reason=reason,
        predicted_ttft_s=chosen.ttft_s,
        predicted_tpot_s=None,
        overflow=OverflowReason.SATURATED if saturated else OverflowReason.NOT_SERVED_HERE,
    )


def choose_remote(
    model_state: ModelState, tracked: TrackedRequest, now: float, *, any_ttft: bool
) -> tuple[RemoteQuote | None, str, tuple[RemoteQuote, ...]]:
    """Returns the remote to use, the reason, and the quotes of all remotes. Starts nothing."""
    if not model_state.remotes.states:
        return None, "", ()
    hits = model_state.hit_tokens(tracked.request)[len(model_state.fleet) :]
    output_tokens = tracked.output_tokens
    lost_nano_usd = lost_prefix_nano_usd(model_state, tracked)
    quotes: tuple[RemoteQuote, ...] = ()
    for late_too in (False, True) if any_ttft else (False,):
        quotes = model_state.remotes.quotes(
            tracked, hits, output_tokens, now, late_too, lost_nano_usd
        )
        if (choice := model_state.remotes.choose(quotes)) is not None:
            return *choice, quotes
    return None, "", quotes


def remove_attempt(
    model_state: ModelState, tracked: TrackedRequest, now: float, ended: AttemptEnded | None = None
) -> tuple[PlacementState, Resident]:
    """Removes the request's attempt from its placement and settles its tenant's service. `ended`:
    how it has ended; None: it was cancelled."""
    state, tracked.placement = tracked.placement, None
    assert state is not None
    request = tracked.request
    index = model_state.fleet.index_of(state)
    if index is None:
        resident = state.remove(request.request_id, now)
        if state.facts.kind is PlacementKind.REMOTE:
            return state, resident
        rate = resident.nano_usd_per_s  # a reload has removed the placement
    else:
        resident = model_state.fleet.remove(index, request.request_id, now)
        learning.answer_ended(model_state.fleet, index, request.request_id, ended)
        model_state.batch.pop(request.request_id, None)
        rate = model_state.fleet.nano_usd_per_s.item(index)
    full_token_s = model_state.fleet.full_token_s
    served = rate * (resident.prefill_s + resident.output_tokens * full_token_s)
    model_state.queue.counters.charge(
        request.tenant, request.weight, served - resident.service_nano_usd
    )
    return state, resident


def learn_from_end(
    model_state: ModelState, state: PlacementState, resident: Resident, event: AttemptEnded
) -> int:
    """Updates the estimates of the placement and of output lengths from the end of an attempt.
    Returns the number of the outcome in the error share; 0: it does not count there."""
    outcome = 0
    index = model_state.fleet.index_of(state)
    if event.fault is not Fault.NONE and index is not None:
        model_state.suspect.add(index)
    if event.outcome is AttemptOutcome.OK or event.fault in _FAULTS_OF_PLACEMENTS:
        outcome = state.record_outcome(failed=event.outcome is not AttemptOutcome.OK)
    if event.outcome is AttemptOutcome.OK:
        exact = index is not None and model_state.engine_caches.is_known(index)
        if not (exact and resident.request.token_blocks):
            state.record_cached_tokens(resident, event.cached_tokens)
        request = resident.request
        if event.output_tokens is not None and request.max_output_tokens:
            model_state.fleet.lengths.learn(request.key_id, event.output_tokens / request.choices)
    return outcome


def record_decision(
    model_state: ModelState,
    tracked: TrackedRequest,
    now: float,
    tier: Tier,
    reason: str,
    *,
    quote: Quote | None = None,
    chosen: str | None = None,
    remote_quotes: tuple[RemoteQuote, ...] = (),
) -> None:
    """Stores a record of a decision and its figures."""
    model_state.decisions.add(
        make_decision(model_state, tracked, now, tier, reason, quote, chosen, remote_quotes)
    )


def make_decision(
    model_state: ModelState,
    tracked: TrackedRequest,
    now: float,
    tier: Tier,
    reason: str,
    quote: Quote | None,
    chosen: str | None,
    remote_quotes: tuple[RemoteQuote, ...],
) -> Decision:
    """Builds the record of a decision."""
    request = tracked.request
    return Decision(
        request_id=request.request_id,
        tenant=request.tenant,
        model=request.model,
        at_s=now,
        attempt=tracked.attempts,
        tier=tier,
        chosen=chosen,
        reason=reason,
        prompt_tokens=request.prompt_tokens,
        output_tokens=tracked.output_tokens,
        self_hosted=model_state.fleet.facts,
        quote=None if quote is None else quote.kept(),
        remotes=model_state.remotes.facts,
        remote_quotes=remote_quotes,
        batch_work=request.batch_work,
    )


def start_reason(quote: Quote, index: int) -> str:
    """Text for operators: why a self-hosted placement was chosen."""
    free = len(quote.blocked) - np.count_nonzero(quote.blocked)
    return (
        f"best of {free} that keep every promise: first token in {quote.ttft_s.item(index):.2f} s, "
        f"{quote.tpot_s.item(index) * 1e3:.0f} ms a token"
    )


def count_arrival(
    model_state: ModelState, tracked: TrackedRequest, now: float, *, in_time: bool
) -> None:
    """Counts, at the first start or refusal of a request, whether own servers took it in time."""
    if tracked.attempts <= 1 and tracked.request.slo.slo_class in URGENT:
        model_state.turned_away.record(now, in_time=in_time)


def count_refusal(
    model_state: ModelState, tracked: TrackedRequest, reason: RefusalReason, now: float
) -> None:
    """Counts a refusal for lack of room, of a request that never ran."""
    if reason in FOR_LACK_OF_ROOM and not tracked.attempts:
        count_arrival(model_state, tracked, now, in_time=False)


def _count_start(
    model_state: ModelState, tracked: TrackedRequest, state: PlacementState, now: float
) -> None:
    tracked.attempts += 1
    tracked.placement = state
    model_state.admission.record_start(state.facts.name, tracked.request, now)
