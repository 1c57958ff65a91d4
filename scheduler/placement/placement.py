"""What every own placement would promise a request now, and the one to take.

One vectorised pass over the arrays of `SelfHostedFleet`: when the first token would come, how fast
the rest would follow, what it would cost at the margin, whom it would harm, and what forbids it. A
placement is taken only if it keeps the newcomer's promise and, but for `max_victims`, those of the
streams that run; among these the pool's objective decides.

    TTFT     = pending prefills + own prefill + T (1.5 + chunks), T the step with the newcomer
    TPOT     = T(B + 1) / tau
    marginal = added stall of the group + expected output x (T(B + 1) - T(B)), in the group's $/s
    latency  = B (T(B + 1) - T(B)) + T(B + 1) + TTFT

D is concave, so least marginal cost packs requests; T(0) = 0, so opening an idle group costs T(1).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from scheduler.output_length import Floats
from scheduler.placement.interference import STALL_POINTS, stall_position
from scheduler.placement.quotes import Block, Desk, PlacementQuery, Quote
from scheduler.placement.self_hosted import CURVE_AGE_S, SelfHostedFleet
from scheduler.policy import Policy

MOST_REFRESHES = 2
"""Harm curves made anew in one look: bounds its time, whatever the number of placements."""
_TIE = 1.0 + 1e-9
_LIKE = 1.25
"""Fits of like groups differ by chance: no reason to power another one."""
# numpy takes arrays without dimensions faster than Python numbers, fmax faster than maximum, and a
# look at the largest element by argmax faster than a comparison with all of them.
_ZERO, _HALF, _STALL_POINTS = np.array(0.0), np.array(0.5), np.array(STALL_POINTS)
# numpy compares plain integers faster than enum members.
_FREE, _NOT_SERVING, _SLOTS, _KV, _TTFT, _TPOT, _HARM, _HELD, _PAUSED = (
    np.int8(block)
    for block in (
        *(Block.FREE, Block.NOT_SERVING, Block.SLOTS, Block.KV, Block.TTFT, Block.TPOT),
        *(Block.HARM, Block.HELD, Block.PAUSED),
    )
)


def quote(fleet: SelfHostedFleet, ask: PlacementQuery, policy: Policy, now: float) -> Quote:
    """Figures for `ask` on every placement, with the harm curves as they are; see `Quote`."""
    request, models, desk = ask.request, fleet.models, fleet.desk
    choices, prompt, hits = request.choices, np.array(float(request.prompt_tokens)), ask.hit_tokens
    wait_s, own_end_s, prefill_s, ttft_s, tpot_s, stalled_s, added_s, _, score = desk.rows
    uncached = prompt if hits is fleet.no_hits else prompt - hits
    models.prefill_time_s(uncached, prompt, prefill_s)
    np.subtract(fleet.prefill_end_s, now, wait_s)
    np.fmax(wait_s, _ZERO, wait_s)
    np.add(wait_s, prefill_s, own_end_s)
    stalls_s, after_s = desk.stalls_s, tpot_s
    np.add(fleet.kv_tokens, prompt * choices, after_s)
    if fleet.grouped:
        stall_s = np.fmax(fleet.stall_end_s - now, _ZERO)
        stalls_s = np.array((stall_s, np.fmax(stall_s, own_end_s)))
        after_s *= fleet.ranks
        np.fmax(after_s, fleet.kv_paced_tokens, after_s)
    if choices == 1:
        after_s *= models.kv_token_s
        after_s += fleet.next_step_s
    else:
        after_s[:] = models.decode_step_s(fleet.batch + choices, after_s)
    stall_position(stalls_s, desk.stalls)
    np.subtract(stalls_s[1], stalls_s[0], stalled_s)
    np.divide(stalls_s[1], fleet.chunk_s, ttft_s)
    np.ceil(ttft_s, ttft_s)
    ttft_s += _HALF
    ttft_s *= after_s
    ttft_s += own_end_s
    np.subtract(after_s, fleet.step_s, added_s)
    made = desk.made
    made.hit_tokens, made.nano_usd_per_s = hits, fleet.nano_usd_per_s
    made.steps = ask.output_tokens / choices
    if models.speculate:
        made.steps = made.steps / models.tokens_per_step
    if fleet.packs:
        score[:] = made.marginal_nano_usd
    else:
        np.multiply(fleet.batch, added_s, score)
        score += after_s
        score += ttft_s
    if models.speculate:
        tpot_s /= models.tokens_per_step
    waited_s, last_call_s = now - request.arrival_s, policy.last_call_share * ask.ttft_s
    left_s = ask.ttft_s - waited_s
    most_victims, hurry = policy.max_victims, False
    if fleet.packs and np.count_nonzero(fleet.serving > fleet.warm):
        most_victims = policy.spare_victims
    desk.most_victims = most_victims
    if not ask.late and left_s - _largest(ttft_s) < last_call_s:
        hurry = True
        near = left_s - ttft_s < last_call_s
        desk.most_victims = np.where(near, policy.last_call_victims, most_victims)
    desk.unharmed = _other_blocks(fleet, ask, policy, waited_s, hurry, made)
    _check_harm(desk, fleet, policy)
    return made


def choose(
    fleet: SelfHostedFleet, ask: PlacementQuery, policy: Policy, now: float, rotation: int
) -> tuple[int | None, Quote]:
    """The placement to take, with the quote that decided; None: no one can take it now.

    Harm curves age. The best placement is taken on a fresh one only; where none is free, the
    oldest of those that only harm blocks are made anew, so that a recovery is noticed.
    """
    desk, made = fleet.desk, quote(fleet, ask, policy, now)
    oldest_s = now - CURVE_AGE_S
    best = _best(fleet, made, rotation)
    for refreshes in range(MOST_REFRESHES + 1):
        if best is not None:
            if not policy.harm_check or fleet.curve_at_s[best] >= oldest_s:
                return best, made
            index = best
        else:
            harmed = (made.blocked == _HARM).nonzero()[0]
            if not len(harmed):
                break
            index = int(harmed[fleet.curve_at_s[harmed].argmin()])
            if fleet.curve_at_s[index] >= oldest_s:
                break
        if refreshes < MOST_REFRESHES:
            fleet.refresh_curve(index, now)
            is_free = _check_harm_again(desk, fleet, policy, index)
            if fleet.grouped or (best is not None and not is_free):
                best = _best(fleet, made, rotation)
            elif is_free:
                best = index  # the best still, or the only one
    return None, made


def _other_blocks(
    fleet: SelfHostedFleet,
    ask: PlacementQuery,
    policy: Policy,
    waited_s: float,
    hurry: bool,
    made: Quote,
) -> npt.NDArray[np.int8]:
    """Why each placement is out, harm apart. What is written later weighs more.

    `hurry`: a placement would use its time to first token up, or nearly.
    """
    blocked = fleet.all_free
    if policy.late_binding:
        if policy.shaping and fleet.packs and waited_s < policy.open_after_share * ask.ttft_s:
            open_warm = fleet.warm & fleet.serving
            if open_warm.any():
                # But for one whose cached prefix makes it the cheapest of all, as a session's home.
                least = made.score[open_warm].min()
                blocked = _mark(blocked, ~open_warm & (made.score >= least), _HELD)
        most_s = policy.tpot_share * ask.request.slo.tpot_s
        tpot_s = made.tpot_s
        if _largest(tpot_s) > most_s:
            blocked = _mark(blocked, (tpot_s > most_s) & fleet.warm, _TPOT)
        if hurry:
            blocked = _mark(blocked, made.ttft_s > ask.ttft_s - waited_s, _TTFT)
        variance = ask.spread_tokens**2
        most_tokens = ask.reserve_tokens + math.sqrt(
            max(0.0, _largest(fleet.kv_variance)) + variance
        )
        if _least(fleet.kv_room_tokens) < most_tokens:
            needed_tokens = ask.reserve_tokens + np.sqrt(fleet.kv_variance + variance)
            blocked = _mark(blocked, fleet.kv_room_tokens < needed_tokens, _KV)
        if _least(fleet.slot_room) < ask.request.choices:
            blocked = _mark(blocked, fleet.slot_room < ask.request.choices, _SLOTS)
    if ask.excluded is None:
        return blocked
    return np.where(ask.excluded, ask.excluded, blocked)


def _mark(
    blocked: npt.NDArray[np.int8], where: npt.NDArray[np.bool_], block: np.int8
) -> npt.NDArray[np.int8]:
    """`blocked` with `block` there; written to unless it is read-only, as `all_free` is."""
    if not blocked.flags.writeable:
        return where * block
    blocked[where] = block
    return blocked


def _check_harm(desk: Desk, fleet: SelfHostedFleet, policy: Policy) -> None:
    """Sets the victims by the harm curves as they are now, and whom that blocks."""
    made, at, harm, victims = desk.made, desk.at, desk.harm, desk.made.victims
    np.add(desk.stalls, fleet.line_offsets, harm)
    np.copyto(at, harm, casting="unsafe")
    lines = fleet.harm_lines.ravel()
    np.multiply(lines.take(at), desk.stalls, harm)
    at += _STALL_POINTS
    harm += lines.take(at)
    np.subtract(harm[1], harm[0], victims)
    made.blocked = desk.unharmed
    if policy.harm_check and policy.late_binding:
        harmed = victims > desk.most_victims
        if np.count_nonzero(harmed):
            if desk.unharmed is fleet.all_free:
                made.blocked = harmed * _HARM
            else:
                harmed &= desk.unharmed == _FREE
                made.blocked = desk.unharmed.copy()
                made.blocked[harmed] = _HARM


def _check_harm_again(desk: Desk, fleet: SelfHostedFleet, policy: Policy, index: int) -> bool:
    """The same where one harm curve is new: only its group can have changed. Whether it is free."""
    made = desk.made
    if fleet.grouped:
        _check_harm(desk, fleet, policy)
    else:
        before, after = desk.stalls[:, index].tolist()
        rises, starts = fleet.harm_lines[index].tolist()
        below, upto = int(before), int(after)
        victims = starts[upto] + rises[upto] * after - starts[below] - rises[below] * before
        made.victims[index] = victims
        if policy.late_binding and desk.unharmed[index] == _FREE:
            most = desk.most_victims
            harmed = victims > (most[index] if isinstance(most, np.ndarray) else most)
            if harmed != (made.blocked[index] == _HARM):
                if made.blocked is desk.unharmed:
                    made.blocked = desk.unharmed.copy()
                made.blocked[index] = _HARM if harmed else _FREE
    return bool(made.blocked[index] == _FREE)


def _best(fleet: SelfHostedFleet, made: Quote, rotation: int) -> int | None:
    score = made.score
    if not len(score):
        return None
    if made.blocked is not fleet.all_free:
        score = score.copy()
        score[made.blocked != _FREE] = np.inf
    best = int(score.argmin())
    least = score.item(best)
    if least == np.inf:
        return None
    near = score <= least * (_LIKE if fleet.packs else _TIE)
    if np.count_nonzero(near) == 1:
        return best
    ties = near.nonzero()[0]
    if fleet.packs:
        # The fullest; of idle groups the last to fall idle, since it may be powered still.
        fill = fleet.batch[ties]
        if not np.count_nonzero(fill):
            fill = fleet.idle_since_s[ties]
        ties = ties[fill == fill.max()]
        costs = score[ties]
        ties = ties[costs <= costs.min() * _TIE]
    if fleet.grouped:
        # Ranks that cost the same: the one with the least prefill, then the least KV.
        load = made.wait_s[ties] * 1e9 + fleet.kv_tokens[ties]
        ties = ties[load <= load.min()]
    if fleet.packs:
        return int(ties[0])
    return int(ties[rotation % len(ties)])


def _largest(figures: Floats) -> float:
    return figures.item(figures.argmax()) if len(figures) else -math.inf


def _least(figures: Floats) -> float:
    return figures.item(figures.argmin()) if len(figures) else math.inf
