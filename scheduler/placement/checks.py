"""Which placements cannot take a request now, apart from interference with running streams.

Each check takes the blocks that were found so far and returns them with its own; a later check
overrides an earlier one. A fleet selects its checks once, by `checks_for`. The blocks of a query
(`PlacementQuery.excluded`) override them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from scheduler.contract import SloClass
from scheduler.output_length import Floats
from scheduler.placement.kv_plan import KvPlans
from scheduler.placement.objectives import ObjectiveRule
from scheduler.placement.quotes import Block, Blocks, PlacementQuery, Quote
from scheduler.policy import Policy

# numpy takes arrays without dimensions faster than numbers and enum members.
_SLOTS, _KV, _TTFT, _TPOT, _HELD, _PREFILLS = (
    np.array(block, dtype=np.int8)
    for block in (Block.SLOTS, Block.KV, Block.TTFT, Block.TPOT, Block.HELD, Block.PREFILLS)
)


class RoomArrays(Protocol):
    """The arrays of `SelfHostedFleet` that the checks read, each of shape (placements,)."""

    chunk_s: Floats
    kv_plans: KvPlans
    kv_room_tokens: Floats
    kv_variance: Floats
    prefill_end_s: Floats
    serving: npt.NDArray[np.bool_]
    slot_room: Floats
    warm: npt.NDArray[np.bool_]


Check = Callable[[Blocks, RoomArrays, PlacementQuery, Quote, Policy, float], Blocks]
"""(blocked, fleet, query, quote, policy, seconds waited) -> blocked, see `_mark`."""


def checks_for(objective: ObjectiveRule, *, late_binding: bool) -> tuple[Check, ...]:
    """The checks of a pool, in order; none without late binding, where the engine queues."""
    if not late_binding:
        return ()
    hold = (_hold_idle_groups,) if objective.holds_idle else ()
    return (*hold, _check_prefills, _check_tpot, _check_ttft, _check_kv, _check_slots)


def await_prefills(fleet: RoomArrays, query: PlacementQuery, policy: Policy, now: float) -> bool:
    """Whether pending prompts block each placement that the query does not exclude: no quote would
    find one free. False where a KV cache may be full, too, because what its plan says changes with
    time."""
    if query.late or not policy.late_binding:
        return False
    waits = fleet.prefill_end_s - now > policy.most_pending_chunks * fleet.chunk_s
    if query.excluded is not None:
        waits |= query.excluded != Block.FREE
    return np.count_nonzero(waits) == len(waits) and _has_ample_kv(fleet, query)


def _hold_idle_groups(
    blocked: Blocks,
    fleet: RoomArrays,
    query: PlacementQuery,
    quote: Quote,
    policy: Policy,
    waited_s: float,
) -> Blocks:
    """Keeps idle groups shut for the first part of the wait while another group runs; for batch
    work, which may keep a group running but opens none, until its deadline is near."""
    request = query.request
    left_s = request.deadline_s - request.arrival_s - waited_s
    if request.slo.slo_class is SloClass.BATCH and left_s > policy.batch_opens_s:
        return _mark(blocked, ~fleet.warm, _HELD)
    if waited_s >= policy.open_after_share * query.ttft_s:
        return blocked
    running = fleet.warm & fleet.serving
    if not running.any():
        return blocked
    # An idle placement that is cheaper than all running ones holds the request's prefix: it is
    # where the session ran before, and may take it at once.
    cheapest = quote.score[running].min()
    return _mark(blocked, ~running & (quote.score >= cheapest), _HELD)


def _check_prefills(
    blocked: Blocks,
    fleet: RoomArrays,
    query: PlacementQuery,
    quote: Quote,
    policy: Policy,
    waited_s: float,
) -> Blocks:
    """Prompts of several steps are pending: behind them this one would wait, and their stalls of
    the running streams would add up to one that no single prompt makes."""
    most, wait_s = policy.most_pending_chunks, quote.wait_s
    if query.late or largest(wait_s) <= most * least(fleet.chunk_s):
        return blocked
    return _mark(blocked, wait_s > most * fleet.chunk_s, _PREFILLS)


def _check_tpot(
    blocked: Blocks,
    fleet: RoomArrays,
    query: PlacementQuery,
    quote: Quote,
    policy: Policy,
    waited_s: float,
) -> Blocks:
    """Tokens would be slow; an idle group takes the request however slow it is. A request that
    generates nothing has none."""
    if not query.request.max_output_tokens:
        return blocked
    most_s = min(policy.tpot_share * query.request.slo.tpot_s, query.most_step_s)
    if largest(quote.tpot_s) <= most_s:
        return blocked
    return _mark(blocked, (quote.tpot_s > most_s) & fleet.warm, _TPOT)


def _check_ttft(
    blocked: Blocks,
    fleet: RoomArrays,
    query: PlacementQuery,
    quote: Quote,
    policy: Policy,
    waited_s: float,
) -> Blocks:
    """The first token would be late, and is not late already."""
    left_s = query.ttft_s - query.margin_s - waited_s
    if query.late or quote.slowest_ttft_s <= left_s:
        return blocked
    return _mark(blocked, quote.ttft_s > left_s, _TTFT)


def _check_kv(
    blocked: Blocks,
    fleet: RoomArrays,
    query: PlacementQuery,
    quote: Quote,
    policy: Policy,
    waited_s: float,
) -> Blocks:
    """The KV cache would be full: if all that runs reached its expected length together, which is
    quick to say, and at its planned peak, too. Spreads add as variances."""
    if _has_ample_kv(fleet, query):
        return blocked
    needed_tokens = query.reserve_tokens + np.sqrt(fleet.kv_variance + query.spread_tokens**2)
    full = fleet.kv_room_tokens < needed_tokens
    full[fleet.kv_plans.fit(full.nonzero()[0], query, query.request.arrival_s + waited_s)] = False
    return _mark(blocked, full, _KV)


def _has_ample_kv(fleet: RoomArrays, query: PlacementQuery) -> bool:
    """Whether every placement has room for the request, by the least room and the largest spread of
    any of them."""
    variance = max(0.0, largest(fleet.kv_variance)) + query.spread_tokens**2
    return least(fleet.kv_room_tokens) >= query.reserve_tokens + math.sqrt(variance)


def _check_slots(
    blocked: Blocks,
    fleet: RoomArrays,
    query: PlacementQuery,
    quote: Quote,
    policy: Policy,
    waited_s: float,
) -> Blocks:
    """No free sequence slot for each choice."""
    choices = query.request.choices
    if least(fleet.slot_room) >= choices:
        return blocked
    return _mark(blocked, fleet.slot_room < choices, _SLOTS)


def _mark(blocked: Blocks, where: npt.NDArray[np.bool_], block: Blocks) -> Blocks:
    """`blocked` with `block` there; written in place unless it is read-only, as `all_free` is."""
    if not blocked.flags.writeable:
        return where * block
    np.putmask(blocked, where, block)
    return blocked


def largest(figures: Floats) -> float:
    """The largest element, minus infinity for none; item and argmax are the fastest way."""
    return figures.item(figures.argmax()) if len(figures) else -math.inf


def least(figures: Floats) -> float:
    """The least element, infinity for none."""
    return figures.item(figures.argmin()) if len(figures) else math.inf
