"""The ways of a request: to an own placement, to a remote, back to the queue; each leaves a record.

Counts the request in at its placement and out again, settles its tenant's service, and learns from
how it ended.
"""

from __future__ import annotations

import numpy as np

from scheduler.contract import (
    AttemptEnded,
    AttemptOutcome,
    Dispatch,
    Fault,
    PlacementKind,
    SloClass,
)
from scheduler.decisions import Decision, Tier
from scheduler.model_state import Lane
from scheduler.overflow.overflow import RemoteQuote
from scheduler.placement.quotes import Ask, Quote
from scheduler.placement_state import PlacementState, Resident
from scheduler.request_state import Ticket

_TELLS = (AttemptOutcome.OK, AttemptOutcome.FAILED, AttemptOutcome.RETRYABLE)
"""Outcomes that say something of the placement."""


def to_own(lane: Lane, ticket: Ticket, index: int, ask: Ask, made: Quote, now: float) -> Dispatch:
    """Starts the request at an own placement."""
    request, state = ticket.request, lane.fleet.states[index]
    prefill_s = made.prefill_s.item(index)
    resident = Resident(
        request=request,
        started_s=now,
        promised_ttft_s=ticket.ttft_s,
        kv_reserved_tokens=ask.reserve_tokens,
        kv_spread_tokens=ask.spread_tokens,
        prefill_s=prefill_s,
        hit_tokens=int(ask.hit_tokens.item(index)),
        service_nano_usd=lane.service_nano_usd(index, prefill_s, ask.output_tokens),
    )
    lane.fleet.add(index, resident, now)
    if request.slo.slo_class is SloClass.BATCH:
        lane.batch[request.request_id] = index
    lane.queue.counters.charge(request.tenant, request.weight, resident.service_nano_usd)
    lane.rate.started(lane.work_s(ticket, prefill_s))
    lane.remember_prefix(index, state, request)
    _count_start(lane, ticket, state, now)
    reason = why(made, index)
    record(lane, ticket, now, Tier.LOCAL, reason, made=made, chosen=state.facts.name)
    return Dispatch(
        request_id=request.request_id,
        attempt=ticket.attempts,
        placement=state.facts.name,
        kind=PlacementKind.LOCAL,
        reason=reason,
        predicted_ttft_s=made.ttft_s.item(index),
        predicted_tpot_s=made.tpot_s.item(index),
        dp_rank=state.facts.dp_rank,
    )


def to_remote(
    lane: Lane, ticket: Ticket, made: Quote | None, now: float, *, any_ttft: bool
) -> Dispatch | None:
    """Starts the request at the cheapest remote that is in time, with `any_ttft` else at any."""
    chosen, why, quotes = overflow(lane, ticket, now, any_ttft=any_ttft)
    if chosen is None:
        return None
    request = ticket.request
    at = lane.remotes.index[chosen.placement]
    state = lane.remotes.states[at]
    resident = Resident(
        request=request,
        started_s=now,
        promised_ttft_s=ticket.ttft_s,
        kv_reserved_tokens=0,
        prefill_s=0.0,
        hit_tokens=chosen.hit_tokens,
        service_nano_usd=0.0,
    )
    state.add(resident, now)
    lane.remotes.took(chosen.placement)
    lane.remember_prefix(len(lane.fleet) + at, state, request)
    _count_start(lane, ticket, state, now)
    saturated = lane.fleet.serving.any()
    reason = f"{'own servers saturated' if saturated else 'no own server can serve it'}; {why}"
    record(
        lane, ticket, now, Tier.REMOTE, reason,
        made=made, chosen=chosen.placement, remote_quotes=quotes,
    )  # fmt: skip
    return Dispatch(
        request_id=request.request_id,
        attempt=ticket.attempts,
        placement=chosen.placement,
        kind=PlacementKind.REMOTE,
        reason=reason,
        predicted_ttft_s=chosen.ttft_s,
        predicted_tpot_s=None,
    )


def overflow(
    lane: Lane, ticket: Ticket, now: float, *, any_ttft: bool
) -> tuple[RemoteQuote | None, str, tuple[RemoteQuote, ...]]:
    """The remote to take, why, and what all promised; nothing is started."""
    if not lane.remotes.states:
        return None, "", ()
    hits = lane.hit_tokens(ticket.request)[len(lane.fleet) :]
    output_tokens = ticket.output_tokens
    quotes: tuple[RemoteQuote, ...] = ()
    for late_too in (False, True) if any_ttft else (False,):
        quotes = lane.remotes.quotes(ticket, hits, output_tokens, now, late_too)
        if (choice := lane.remotes.choose(quotes)) is not None:
            return *choice, quotes
    return None, "", quotes


def take_back(lane: Lane, ticket: Ticket, now: float) -> tuple[PlacementState, Resident]:
    """Counts the request's attempt out, and settles its tenant's service."""
    state, ticket.placement = ticket.placement, None
    assert state is not None
    request = ticket.request
    index = lane.fleet.index.get(state.facts.name)
    if index is None:
        return state, state.remove(request.request_id, now)
    resident = lane.fleet.remove(index, request.request_id, now)
    lane.batch.pop(request.request_id, None)
    served = lane.service_nano_usd(index, resident.prefill_s, resident.output_tokens)
    lane.queue.counters.charge(request.tenant, request.weight, served - resident.service_nano_usd)
    return state, resident


def learn(lane: Lane, state: PlacementState, resident: Resident, event: AttemptEnded) -> None:
    """Takes what the end of an attempt says of its placement and of such requests."""
    index = lane.fleet.index.get(state.facts.name)
    if event.fault is not Fault.NONE and index is not None:
        lane.troubled.add(index)
    if event.outcome in _TELLS:
        state.note_outcome(failed=event.outcome is not AttemptOutcome.OK)
    if event.outcome is AttemptOutcome.OK:
        told = index is not None and lane.engine_caches.is_known(index)
        if not (told and resident.request.token_blocks):  # else what was expected was no guess
            state.note_cached(resident, event.cached_tokens)
        if event.output_tokens is not None:
            request = resident.request
            lane.fleet.lengths.learn(request.key_id, event.output_tokens / request.choices)


def record(
    lane: Lane,
    ticket: Ticket,
    now: float,
    tier: Tier,
    reason: str,
    *,
    made: Quote | None = None,
    chosen: str | None = None,
    remote_quotes: tuple[RemoteQuote, ...] = (),
) -> None:
    """Keeps what was decided, and on which figures."""
    lane.decisions.add(decision(lane, ticket, now, tier, reason, made, chosen, remote_quotes))


def decision(
    lane: Lane,
    ticket: Ticket,
    now: float,
    tier: Tier,
    reason: str,
    made: Quote | None,
    chosen: str | None,
    remote_quotes: tuple[RemoteQuote, ...],
) -> Decision:
    """The record of a decision."""
    request = ticket.request
    return Decision(
        request_id=request.request_id,
        tenant=request.tenant,
        model=request.model,
        at_s=now,
        attempt=ticket.attempts,
        tier=tier,
        chosen=chosen,
        reason=reason,
        prompt_tokens=request.prompt_tokens,
        output_tokens=ticket.output_tokens,
        own=lane.fleet.facts,
        quote=None if made is None else made.kept(),
        remotes=lane.remotes.facts,
        remote_quotes=remote_quotes,
    )


def why(made: Quote, index: int) -> str:
    """Why an own placement was taken, for a reader."""
    free = len(made.blocked) - np.count_nonzero(made.blocked)
    return (
        f"best of {free} that keep every promise: first token in {made.ttft_s.item(index):.2f} s, "
        f"{made.tpot_s.item(index) * 1e3:.0f} ms a token"
    )


def _count_start(lane: Lane, ticket: Ticket, state: PlacementState, now: float) -> None:
    ticket.attempts += 1
    ticket.placement = state
    lane.gates.started(state.facts.name, ticket.request, now)
