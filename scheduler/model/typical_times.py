"""The times that a client is told of the placement that was chosen: those of a typical request.

Decisions compare means that cost one pass over all placements (`quoting.py`). Of the chosen one
more is known: a prefix is in the cache or is not, and is no mean of both; the step that runs began
when the last one gave tokens; most answers meet fewer prefills than the mean; and prompts that are
sent later and join its step lengthen it, by what is learnt.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from scheduler.placement.prefill_stalls import typical_stretch
from scheduler.placement.quotes import PlacementQuery, Quote
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.resident import FirstToken, Joins

LEAST_TRUST = 0.7
"""Share of the expected prefixes that a cache must have had lately to be told as it is expected."""
KNOWN_STEPS = 4.0
"""Steps after a token until which the beginning of the running one is known from it."""


class TypicalTimes(NamedTuple):
    """Predicted times from now on. `first`: of the first token, without prompts that come later."""

    ttft_s: float
    tpot_s: float
    first: FirstToken


def typical_times(
    fleet: SelfHostedFleet, query: PlacementQuery, quote: Quote, index: int, now: float
) -> TypicalTimes:
    """The times of the placement with this index, before the request is added to it."""
    group, request = fleet.groups[index], query.request
    mean = fleet.stretch.item(index)
    token_s = quote.tpot_s.item(index) / mean
    answer_s = query.output_tokens / request.choices * token_s
    stall_s = fleet.pooled[group.fit.prior].stalls.stall_s
    first = _first_token(fleet, query, quote, index, token_s * group.model.tokens_per_step, now)
    return TypicalTimes(
        ttft_s=fleet.errors.typical_s(first),
        tpot_s=token_s * typical_stretch(mean, answer_s, stall_s),
        first=first,
    )


def _first_token(
    fleet: SelfHostedFleet,
    query: PlacementQuery,
    quote: Quote,
    index: int,
    step_s: float,
    now: float,
) -> FirstToken:
    """`step_s`: T of a step with the request."""
    begin_s, end_s, computing_s, waiting_s = (row.item(index) for row in fleet.phase_rows)
    model, early = fleet.groups[index].model, begin_s > now
    joins_s = begin_s - now if early else max(end_s - now, _step_left_s(fleet, index, now))
    ahead_s = computing_s if early else waiting_s
    work_s = ahead_s + _prefill_s(fleet, query, quote, index, alone=ahead_s <= 0.0)
    chunks = math.ceil(work_s / fleet.chunk_s.item(index))
    transfer_s = model.transfer.seconds(query.request.prompt_tokens)
    alone_s: float = joins_s + work_s + chunks * step_s + transfer_s
    if early:
        return FirstToken(alone_s, Joins.SHARED, alone_s)
    if fleet.states[index].pending:  # the longer it waits, the more prompts join it
        return FirstToken(alone_s, Joins.NEXT, joins_s)
    return FirstToken(alone_s, Joins.OWN, fleet.step_s.item(index))


def _step_left_s(fleet: SelfHostedFleet, index: int, now: float) -> float:
    """Time until the running step of decodes ends."""
    group, step_s = fleet.groups[index], fleet.step_s.item(index)
    passed_s = now - group.step_ended_s
    if step_s <= 0.0 or passed_s > KNOWN_STEPS * step_s or fleet.states[index].pending:
        return fleet.half_step_s.item(index)
    left_s: float = step_s - passed_s % step_s
    return left_s


def _prefill_s(
    fleet: SelfHostedFleet, query: PlacementQuery, quote: Quote, index: int, *, alone: bool
) -> float:
    """Time of the request's own prefill. `alone`: no other prompt shares its first step."""
    request, trust = query.request, fleet.cache_trust.item(index)
    hits = quote.hit_tokens.item(index)
    if request.token_blocks or not LEAST_TRUST <= trust < 1.0 or not hits:
        quoted_s: float = quote.prefill_s.item(index)
        return quoted_s
    group, prompt = fleet.groups[index], float(request.prompt_tokens)
    uncached = prompt - min(hits / trust, max(0.0, prompt - 1.0))
    context, batch = prompt * (0.5 + 0.5 / request.inputs), group.batch + 1
    prefill_s = group.model.prompt_work_s(uncached, context)
    if alone:
        chunks = math.ceil(uncached / group.model.chunk_tokens)
        prefill_s += chunks * group.model.prompt_experts_s(batch, uncached / chunks)
    if query.activation_s is not None:
        prefill_s += query.activation_s.item(index)
    return prefill_s
