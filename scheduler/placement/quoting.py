"""Predicts what every self-hosted placement would give a request, in one vectorised pass.

    TTFT       = time until the prompt is joined to a step + own prefill + T chunks, T the step with
                 the request; a prefill is what a prompt adds to the steps. Where engines of their
                 own decode, the transfer of its KV cache comes on top
    TPOT       = T / tau, and the share of time that prefills have taken lately
    marginal   = added stall of the group + expected steps x added step time, in the group's $/s
    violations = rise of the group's interference curve from the pending stall to that with the
                 request's prefill

T is T(B + choices) with the KV of the group. All arrays are those of `SelfHostedFleet`, the results
are written to its `QuoteBuffers`; `tests/scheduler/placement/reference_quote.py` has the same
formulas for one placement at a time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scheduler.output_length import Floats
from scheduler.placement.checks import largest
from scheduler.placement.interference import STALL_POINTS, stall_position
from scheduler.placement.quotes import Block, Blocks, PlacementQuery, Quote, QuoteBuffers
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.policy import Policy

# numpy takes arrays without dimensions faster than Python numbers, and fmax faster than maximum.
_ZERO = np.array(0.0)
_FREE = np.array(Block.FREE, dtype=np.int8)
_INTERFERENCE = np.array(Block.INTERFERENCE, dtype=np.int8)

Masks = npt.NDArray[np.bool_]
"""`early`: where the step that computes the pending prompts has not begun, so that the request's is
computed in it, too; None: nowhere."""
Limits = tuple[Blocks, Floats | float]
"""Blocks apart from interference, and the violations that each placement may be expected to cause:
what interference is checked by, also after a curve was refreshed."""


def quote_fleet(fleet: SelfHostedFleet, query: PlacementQuery, policy: Policy, now: float) -> Quote:
    """The figures of `query` on every placement, by the interference curves as they are."""
    return quote_with_limits(fleet, query, policy, now)[0]


def quote_with_limits(
    fleet: SelfHostedFleet, query: PlacementQuery, policy: Policy, now: float
) -> tuple[Quote, Limits]:
    """The same with what `recheck_interference` needs."""
    buffers, request = fleet.buffers, query.request
    quote, now_s = buffers.quote, np.array(now)
    quote.hit_tokens, quote.nano_usd_per_s = query.hit_tokens, fleet.nano_usd_per_s
    early = fleet.phase_rows[0] > now_s
    joins = np.count_nonzero(early) > 0
    _predict_prefills(fleet, buffers, query, now_s, early if joins else None)
    _predict_stalls(fleet, buffers, now_s)
    _predict_steps(fleet, buffers, query)
    _predict_first_tokens(fleet, buffers, now_s, early if joins else None)
    if fleet.stall_weights is not None:  # some have engines of their own that decode
        constant_s, token_s = fleet.transfer_s
        buffers.ttft_s += constant_s + token_s * float(request.prompt_tokens)
        quote.slowest_ttft_s = largest(buffers.ttft_s)
    fleet.objective.write_score(fleet, buffers)
    if fleet.models.speculate:
        buffers.tpot_s /= fleet.models.tokens_per_step
    waited_s = now - request.arrival_s
    tolerated = _violations_tolerated(fleet, query, quote, policy, waited_s)
    blocked = fleet.all_free
    for check in fleet.checks:
        blocked = check(blocked, fleet, query, quote, policy, waited_s)
    if query.excluded is not None:
        blocked = np.where(query.excluded, query.excluded, blocked)
    limits = blocked, tolerated
    check_interference(fleet, limits)
    buffers.tpot_s *= fleet.stretch  # checks compare single steps
    return quote, limits


def _predict_prefills(
    fleet: SelfHostedFleet,
    buffers: QuoteBuffers,
    query: PlacementQuery,
    now: Floats,
    early: Masks | None,
) -> None:
    """Writes `wait_s`, `prefill_s` and `own_end_s`. A step reads the experts for its prompts once:
    of two that share one, the second pays none."""
    prompt, hits = float(query.request.prompt_tokens), query.hit_tokens
    inputs = query.request.inputs
    # Of several inputs each attends to itself alone: u (2 c - u) is then u u / inputs.
    context = prompt if inputs == 1 else prompt * (0.5 + 0.5 / inputs)
    models, untouched_s, prefill_s = fleet.models, fleet.untouched_s, buffers.prefill_s
    if early is not None:
        untouched_s = np.where(early, _ZERO, untouched_s)
    if hits is fleet.no_hits:
        models.uncached_prefill_time_s(prompt, context, untouched_s, prefill_s)
    else:
        models.prefill_time_s(np.array(prompt) - hits, context, untouched_s, prefill_s)
    if query.activation_s is not None:
        buffers.prefill_s += query.activation_s
    np.subtract(fleet.prefill_end_s, now, buffers.wait_s)
    np.fmax(buffers.wait_s, _ZERO, buffers.wait_s)
    np.add(buffers.wait_s, buffers.prefill_s, buffers.own_end_s)


def _predict_stalls(fleet: SelfHostedFleet, buffers: QuoteBuffers, now: Floats) -> None:
    """Writes `stall_positions` and `stall_added_s`, from the stall of each group without and with
    the request. Ranks of a group stall until the slowest one is done."""
    stalls_s = buffers.own_stalls_s
    if fleet.grouped:
        stall_s = np.fmax(fleet.stall_end_s - now, _ZERO)
        stalls_s = np.array((stall_s, np.fmax(stall_s, buffers.own_end_s)))
    stall_position(stalls_s, buffers.stall_positions)
    np.subtract(stalls_s[1], stalls_s[0], buffers.stall_added_s)
    if (weights := fleet.stall_weights) is not None:  # prefill nodes are paid, and nobody stalls
        apart = ~np.isnan(weights)
        buffers.stall_positions[:, apart] = 0.0
        buffers.stall_added_s[apart] *= weights[apart]


def _predict_steps(fleet: SelfHostedFleet, buffers: QuoteBuffers, query: PlacementQuery) -> None:
    """Writes `next_step_s` and `step_added_s`, and sets the steps of the quote."""
    request, models, next_step_s = query.request, fleet.models, buffers.next_step_s
    np.add(fleet.kv_tokens, np.array(float(request.prompt_tokens * request.choices)), next_step_s)
    if fleet.grouped:
        # The fullest rank sets the pace of all.
        next_step_s *= fleet.ranks
        np.fmax(next_step_s, fleet.kv_paced_tokens, next_step_s)
    if request.choices == 1:
        next_step_s *= models.kv_token_s
        next_step_s += fleet.next_step_s
    else:
        next_step_s[:] = models.decode_step_s(fleet.batch + request.choices, next_step_s)
    np.subtract(next_step_s, fleet.step_s, buffers.step_added_s)
    buffers.quote.steps = query.output_tokens / request.choices
    if models.speculate:
        buffers.quote.steps = buffers.quote.steps / models.tokens_per_step


def _predict_first_tokens(
    fleet: SelfHostedFleet, buffers: QuoteBuffers, now: Floats, early: Masks | None
) -> None:
    """Writes `ttft_s`, and sets the slowest one. The prompt shares the next step with the pending
    ones that are not computed yet, else it joins one when the step that runs ends, which is half
    over on average. Each chunk shares its step with decodes."""
    ttft_s = buffers.ttft_s
    begin_s, end_s, computing_s, waiting_s = fleet.phase_rows
    np.subtract(end_s, now, ttft_s)
    np.fmax(ttft_s, fleet.half_step_s, ttft_s)
    work_s = waiting_s + buffers.prefill_s
    if early is not None:
        np.putmask(ttft_s, early, begin_s - now)
        np.putmask(work_s, early, computing_s + buffers.prefill_s)
    ttft_s += work_s
    work_s /= fleet.chunk_s
    np.ceil(work_s, work_s)
    work_s *= buffers.next_step_s
    ttft_s += work_s
    buffers.quote.slowest_ttft_s = largest(ttft_s)


def _violations_tolerated(
    fleet: SelfHostedFleet, query: PlacementQuery, quote: Quote, policy: Policy, waited_s: float
) -> Floats | float:
    """Violations that a start may be expected to cause: more where it is the last call."""
    tolerated = fleet.objective.violations_tolerated(fleet, policy)
    left_s, last_call_s = (
        query.ttft_s - query.margin_s - waited_s,
        policy.last_call_share * query.ttft_s,
    )
    if query.late or left_s - quote.slowest_ttft_s >= last_call_s:
        return tolerated
    is_last_call = left_s - quote.ttft_s < last_call_s
    return np.where(is_last_call, policy.last_call_violations, tolerated)


def check_interference(fleet: SelfHostedFleet, limits: Limits) -> None:
    """Writes the expected violations by the curves as they are now, and blocks by them."""
    buffers, (otherwise, tolerated) = fleet.buffers, limits
    quote, at, positions = buffers.quote, buffers.line_at, buffers.line_positions
    np.add(buffers.stall_positions, fleet.line_offsets, positions)
    np.copyto(at, positions, casting="unsafe")
    values = fleet.line_table.take(at)
    values *= buffers.stall_positions
    values += fleet.line_table[STALL_POINTS:].take(at)
    np.subtract(values[1], values[0], buffers.violations_expected)
    quote.blocked = otherwise
    interferes = buffers.violations_expected > tolerated
    if np.count_nonzero(interferes):
        if otherwise is fleet.all_free:
            quote.blocked = interferes * _INTERFERENCE
        else:
            interferes &= otherwise == _FREE
            quote.blocked = otherwise.copy()
            np.putmask(quote.blocked, interferes, _INTERFERENCE)


def recheck_interference(fleet: SelfHostedFleet, limits: Limits, index: int) -> bool:
    """Checks again after the curve of one placement's group was refreshed, and returns whether the
    placement is free. Of a group with one rank only that placement can have changed."""
    buffers, (otherwise, tolerated) = fleet.buffers, limits
    quote = buffers.quote
    if fleet.grouped:
        check_interference(fleet, limits)
    else:
        positions, (rises, starts) = buffers.stall_positions, fleet.interference_lines[index]
        before, after = positions.item(0, index), positions.item(1, index)
        below, upto = int(before), int(after)
        expected = starts.item(upto) + rises.item(upto) * after
        expected -= starts.item(below) + rises.item(below) * before
        buffers.violations_expected[index] = expected
        if otherwise.item(index) == Block.FREE:
            most = tolerated.item(index) if isinstance(tolerated, np.ndarray) else tolerated
            block = Block.INTERFERENCE if expected > most else Block.FREE
            if block != quote.blocked.item(index):
                if quote.blocked is otherwise:
                    quote.blocked = otherwise.copy()
                quote.blocked[index] = block
    return quote.blocked.item(index) == Block.FREE
