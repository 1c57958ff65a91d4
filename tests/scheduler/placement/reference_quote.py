"""The plain form of a quote: one placement at a time, in plain numbers, straight from the formulas.

The oracle of `test_quoting.py`. It knows the residents of each placement and the step models, not
the arrays of the fleet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from scheduler.contract import Objective
from scheduler.placement.groups import chunk_s
from scheduler.placement.interference import STALLS_S
from scheduler.placement.quotes import Block, PlacementQuery
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.policy import Policy
from tests.scheduler.placement.reference_kv_plan import planned_peak_tokens

STALL_GRID = np.log1p(STALLS_S / 0.02)
"""Interference curves are straight lines over log(1 + stall / 20 ms)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainQuote:
    """The figures of one placement."""

    ttft_s: float
    tpot_s: float
    marginal_nano_usd: float
    score: float
    violations_expected: float
    blocked: Block


def plain_quotes(
    fleet: SelfHostedFleet, query: PlacementQuery, policy: Policy, now: float
) -> list[PlainQuote]:
    """The figures of every placement. `fleet` must be in sync, its curves are made anew here."""
    request, packed = query.request, fleet.states[0].facts.objective is Objective.COST
    groups = {id(group): group for group in fleet.groups}.values()
    busy = {id(group): any(fleet.states[m].residents for m in group.members) for group in groups}
    serving = [busy[id(fleet.groups[i])] for i, state in enumerate(fleet.states) if state.serving]
    spare = packed and not all(serving)
    rates = [state.facts.nano_usd_per_s for state in fleet.states]
    figures: list[tuple[float, float, float, float, float, Block]] = []
    for i, state in enumerate(fleet.states):
        group, hit = fleet.groups[i], float(query.hit_tokens[i])
        ranks, model = [fleet.states[m] for m in group.members], group.model
        # Prefills: the rank's own queue, then the stall of all ranks, which step together.
        wait_s = max(0.0, state.prefill_end_s - now) if state.pending else 0.0
        batch = sum(rank.sequences for rank in ranks)
        uncached = request.prompt_tokens - hit
        prefill_s = model.prefill_time_s(uncached, request.prompt_tokens, batch + 1)
        chunk, pending_s = chunk_s(state.facts, model), list(state.pending.values())
        phase_step_s = model.decode_step_s(batch + 1, 0)
        begin_s = state.prefill_began_s + phase_step_s / 2 * state.prefill_joined
        computing_s = sum(pending_s[: state.computing])
        ahead_s = sum(pending_s[state.computing :])
        if pending_s and (now < begin_s or ahead_s):  # it shares a step with another
            chunks = math.ceil(uncached / model.chunk_tokens)
            own = model.prompt_experts_s(batch + 1, uncached / chunks) if chunks else 0.0
            prefill_s -= chunks * own
        if query.activation_s is not None:
            prefill_s += float(query.activation_s[i])
        ends_s = [max(0.0, rank.prefill_end_s - now) for rank in ranks if rank.pending]
        stall_s = max(ends_s, default=0.0)
        stall_with_s = max(stall_s, wait_s + prefill_s)
        # Decode steps: the fullest rank sets the pace.
        kv_tokens = max(rank.kv_tokens for rank in ranks) * len(ranks)
        kv_with = state.kv_tokens + request.prompt_tokens * request.choices
        step_s = model.decode_step_s(batch, kv_tokens) if batch else 0.0
        next_s = model.decode_step_s(batch + request.choices, max(kv_tokens, kv_with * len(ranks)))
        tpot_s = next_s / model.tokens_per_step
        prefill_share = state.facts.prefill_price_share
        # The prompt joins the next step, or waits for the end of those that compute others.
        if pending_s and now < begin_s:
            joins_s, ahead_s = begin_s - now, computing_s
        else:
            done_s = begin_s + computing_s + math.ceil(computing_s / chunk) * phase_step_s
            joins_s = max(step_s / 2, done_s - now if pending_s else 0.0)
        ttft_s = joins_s + ahead_s + prefill_s
        ttft_s += math.ceil((ahead_s + prefill_s) / chunk) * next_s
        ttft_s += model.transfer.seconds(request.prompt_tokens)
        # Money: the time that the group works longer.
        steps = query.output_tokens / request.choices / model.tokens_per_step
        rate = state.facts.nano_usd_per_s if all(rates) else 1e9
        prefill_part, decode_part = 1.0, 1.0
        if prefill_share is not None:
            prefill_part, decode_part = prefill_share, 1.0 - prefill_share
        added_s = (stall_with_s - stall_s) * prefill_part + steps * (next_s - step_s) * decode_part
        marginal = added_s * (rate or 0.0)
        score = marginal if packed else batch * (next_s - step_s) + next_s + ttft_s
        # Interference: the rise of the curve from the stall without to that with the request.
        starts_s: dict[str, float] = {}
        for rank in ranks:
            end_s = max(0.0, rank.prefill_end_s - now)
            for request_id, own_s in reversed(rank.pending.items()):
                starts_s[request_id] = max(0.0, end_s)
                end_s -= own_s
        more_s = (model.decode_step_s(batch + 1, kv_tokens)) / model.tokens_per_step
        curve = group.streams.curve(starts_s, more_s, fleet.lengths, now)
        without, with_it = np.interp(np.log1p(np.array((stall_s, stall_with_s)) / 0.02), STALL_GRID,
                                     curve)  # fmt: skip
        violations = float(with_it - without) if prefill_share is None else 0.0
        # What forbids it, the strongest reason first.
        left_s = query.ttft_s - query.margin_s - (now - request.arrival_s)
        near = not query.late and left_s - ttft_s < policy.last_call_share * query.ttft_s
        tolerated = policy.spare_violations if spare else policy.max_violations
        needed = query.reserve_tokens + math.sqrt(state.kv_variance + query.spread_tokens**2)
        room = math.inf
        if state.sequences and (capacity := state.kv_capacity_tokens) is not None:
            share = 1.0 - max(policy.kv_reserve, state.reserve_share(now))
            room = capacity * share - state.kv_reserved_tokens
            peak_tokens = planned_peak_tokens(fleet, state, query, policy.kv_sigmas)
            if fleet.lengths.learnt and peak_tokens <= capacity * share:
                needed = 0.0
        block = Block.FREE
        if query.excluded is not None and query.excluded[i]:
            block = Block(int(query.excluded[i]))
        elif state.sequences and state.facts.max_running - state.sequences < request.choices:
            block = Block.SLOTS
        elif room < needed:
            block = Block.KV
        elif not query.late and ttft_s > left_s:
            block = Block.TTFT
        elif busy[id(group)] and tpot_s > policy.tpot_share * request.slo.tpot_s:
            block = Block.TPOT
        elif not query.late and wait_s > policy.most_pending_chunks * chunk:
            block = Block.PREFILLS
        elif violations > (policy.last_call_violations if near else tolerated):
            block = Block.INTERFERENCE
        figures.append((ttft_s, tpot_s * group.stretch, marginal, score, violations, block))
    # An idle group is held while another runs, unless it is cheaper than all that run.
    running = [busy[id(fleet.groups[i])] and s.serving for i, s in enumerate(fleet.states)]
    cheapest = min((f[3] for f, runs in zip(figures, running, strict=True) if runs), default=None)
    held = packed and now - request.arrival_s < policy.open_after_share * query.ttft_s
    quotes = []
    for (ttft_s, tpot_s, marginal, score, violations, block), runs in zip(
        figures, running, strict=True
    ):
        may_hold = held and not runs and block in (Block.FREE, Block.INTERFERENCE)
        if may_hold and cheapest is not None and score >= cheapest:
            block = Block.HELD
        quotes.append(
            PlainQuote(
                ttft_s=ttft_s,
                tpot_s=tpot_s,
                marginal_nano_usd=marginal,
                score=score,
                violations_expected=violations,
                blocked=block,
            )
        )
    return quotes
