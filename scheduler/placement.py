"""What every own placement would promise a request now, and the one to take.

One vectorised pass over the arrays of `LocalFleet`: when the first token would come, how fast the
rest would follow, what it would cost at the margin, whom it would harm, and what forbids it. A
placement is taken only if it keeps the newcomer's promise and, but for `max_victims`, those of the
streams that run; among these the pool's objective decides.

    TTFT     = pending prefills + own prefill + T (1.5 + chunks), T the step with the newcomer
    TPOT     = T(B + 1) / tau
    marginal = added stall of the group + expected output x (T(B + 1) - T(B)), in the group's $/s
    latency  = B (T(B + 1) - T(B)) + T(B + 1) + TTFT

D is concave, so least marginal cost packs requests; T(0) = 0, so opening an idle group costs T(1).
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.harm import STALL_POINTS, stall_position
from scheduler.local_fleet import LocalFleet
from scheduler.output_length import Floats
from scheduler.policy import Policy
from scheduler.types import Request

CURVE_AGE_S = 0.1
"""A harm curve older than this is made anew before it decides."""
MOST_REFRESHES = 2
"""Harm curves made anew in one look: bounds its time, whatever the number of placements."""
_TIE = 1.0 + 1e-9
# numpy takes arrays without dimensions faster than Python numbers, fmax faster than maximum, and a
# look at the largest element by argmax faster than a comparison with all of them.
_ZERO, _HALF, _STALL_POINTS = np.array(0.0), np.array(0.5), np.array(STALL_POINTS)


class Block(enum.IntEnum):
    """Why a placement cannot be taken; FREE: it can."""

    FREE = 0
    NOT_SERVING = 1
    TRIED = 2
    NOT_PERMITTED = 3
    CONTEXT = 4
    SLOTS = 5
    KV = 6
    TTFT = 7
    TPOT = 8
    HARM = 9
    HELD = 10
    PAUSED = 11


# numpy compares plain integers faster than enum members.
_FREE, _NOT_SERVING, _SLOTS, _KV, _TTFT, _TPOT, _HARM, _HELD, _PAUSED = (
    np.int8(block)
    for block in (
        *(Block.FREE, Block.NOT_SERVING, Block.SLOTS, Block.KV, Block.TTFT, Block.TPOT),
        *(Block.HARM, Block.HELD, Block.PAUSED),
    )
)

BLOCK_TEXT = {
    Block.FREE: "can take it",
    Block.NOT_SERVING: "not in service",
    Block.TRIED: "an attempt failed there",
    Block.NOT_PERMITTED: "cannot honour a field of the request",
    Block.CONTEXT: "context too short",
    Block.SLOTS: "no free sequence slot",
    Block.KV: "KV cache would be full",
    Block.TTFT: "first token would be late",
    Block.TPOT: "tokens would be slow",
    Block.HARM: "its prefill would harm running streams",
    Block.HELD: "idle: a running group may take it in time",
    Block.PAUSED: "asked to be spared for a while",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request as a quote needs it.

    Attributes:
        excluded: shape (placements,), a `Block` for those that are out of the question, else FREE;
            None: no one is.
        hit_tokens: shape (placements,), prompt tokens expected in each prefix cache.
        output_tokens: expected, all choices together.
        reserve_tokens: KV tokens to count it with.
        ttft_s: the time to first token that it is promised.
        late: its time to first token is lost already, and binds no more.
    """

    request: Request
    ttft_s: float
    excluded: npt.NDArray[np.int8] | None
    hit_tokens: Floats
    output_tokens: float
    reserve_tokens: int
    late: bool

    @property
    def possible(self) -> bool:
        """Whether an own placement may take it, now or later."""
        blocks = self.excluded
        if blocks is None:
            return len(self.hit_tokens) > 0
        shut = np.count_nonzero(blocks)
        return bool(shut < len(blocks) or (blocks == _PAUSED).any())


@dataclass(slots=True, kw_only=True)
class Quote:
    """Figures of every own placement of a model, arrays of shape (placements,).

    `wait_s`: prefills before its own; `stalled_s`: by which the group's stall grows; `steps`: that
    the request is expected to stay for, each longer by `added_s`; `stalls`: shape (2, placements),
    the group's stall without and with the newcomer, as positions on the harm curves; `unharmed`:
    `blocked`, harm apart. Only `choose` writes, before it returns.
    """

    blocked: npt.NDArray[np.int8]
    hit_tokens: Floats
    wait_s: Floats
    prefill_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    stalled_s: Floats
    added_s: Floats
    steps: Floats | float
    nano_usd_per_s: Floats
    stalls: Floats
    most_victims: Floats | float
    victims: Floats
    score: Floats
    unharmed: npt.NDArray[np.int8]

    @property
    def marginal_nano_usd(self) -> Floats:
        """Own group's time that the request adds; meaningful only where the rate is known."""
        return _marginal(self.stalled_s, self.steps, self.added_s, self.nano_usd_per_s)

    def best_s(self) -> tuple[float, float]:
        """Shortest prefill, and shortest time to a first token but for pending prefills."""
        possible = self.blocked != _NOT_SERVING
        if not possible.any():
            return 0.0, 0.0
        service_s = (self.ttft_s - self.wait_s)[possible]
        return float(self.prefill_s[possible].min()), float(service_s.min())


def quote(fleet: LocalFleet, ask: Ask, policy: Policy, now: float) -> Quote:
    """Figures for `ask` on every placement, with the harm curves as they are."""
    request, models = ask.request, fleet.models
    choices, prompt = request.choices, np.array(float(request.prompt_tokens))
    hits = ask.hit_tokens
    prefill_s = models.prefill_time_s(prompt if hits is fleet.no_hits else prompt - hits, prompt)
    stalls_s = np.empty((2, len(fleet)))
    wait_s, own_end_s = stalls_s
    np.subtract(fleet.prefill_end_s, now, wait_s)
    np.fmax(wait_s, _ZERO, wait_s)
    np.add(wait_s, prefill_s, own_end_s)
    if fleet.grouped:
        stall_s = np.fmax(fleet.stall_end_s - now, _ZERO)
        stalls_s = np.array((stall_s, np.fmax(stall_s, own_end_s)))
        stalled_s = stalls_s[1] - stall_s
        rank_kv = (fleet.kv_tokens + choices * prompt) * fleet.ranks
        kv_after = np.fmax(fleet.kv_paced_tokens, rank_kv)
    else:
        stalled_s = prefill_s
        kv_after = fleet.kv_tokens + choices * prompt
    if choices == 1:
        after_s = models.kv_token_s * kv_after
        after_s += fleet.next_step_s
    else:
        after_s = models.decode_step_s(fleet.batch + choices, kv_after)
    ttft_s = stalls_s[1] / fleet.chunk_s
    np.ceil(ttft_s, ttft_s)
    ttft_s += _HALF
    ttft_s *= after_s
    ttft_s += own_end_s
    tpot_s, steps = after_s, ask.output_tokens / choices
    if models.speculate:
        tpot_s, steps = after_s / models.tokens_per_step, steps / models.tokens_per_step
    added_s = after_s - fleet.step_s
    if fleet.packs:
        score = _marginal(stalled_s, steps, added_s, fleet.nano_usd_per_s)
    else:
        score = fleet.batch * added_s
        score += after_s
        score += ttft_s
    waited_s = now - request.arrival_s
    last_call_s = policy.last_call_share * ask.ttft_s
    most_victims: Floats | float = policy.max_victims
    left_s = None
    if not ask.late and ask.ttft_s - waited_s - _largest(ttft_s) < last_call_s:
        left_s = (ask.ttft_s - waited_s) - ttft_s
        most_victims = np.where(left_s < last_call_s, policy.last_call_victims, most_victims)
    unharmed = _other_blocks(fleet, ask, policy, waited_s, left_s, tpot_s)
    made = Quote(
        blocked=unharmed,
        hit_tokens=hits,
        wait_s=wait_s,
        prefill_s=prefill_s,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        stalled_s=stalled_s,
        added_s=added_s,
        steps=steps,
        nano_usd_per_s=fleet.nano_usd_per_s,
        stalls=stall_position(stalls_s),
        most_victims=most_victims,
        victims=wait_s,
        score=score,
        unharmed=unharmed,
    )
    _check_harm(made, fleet, policy)
    return made


def choose(
    fleet: LocalFleet, ask: Ask, policy: Policy, now: float, rotation: int
) -> tuple[int | None, Quote]:
    """The placement to take, with the quote that decided; None: no one can take it now.

    Harm curves age. The best placement is taken on a fresh one only; where none is free, the
    oldest of those that only harm blocks are made anew, so that a recovery is noticed.
    """
    made = quote(fleet, ask, policy, now)
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
            is_free = _check_harm_again(made, fleet, policy, index)
            if fleet.grouped or (best is not None and not is_free):
                best = _best(fleet, made, rotation)
            elif is_free:
                best = index  # the best still, or the only one
    return None, made


def _other_blocks(
    fleet: LocalFleet,
    ask: Ask,
    policy: Policy,
    waited_s: float,
    left_s: Floats | None,
    tpot_s: Floats,
) -> npt.NDArray[np.int8]:
    """Why each placement is out, harm apart. What is written later weighs more.

    `left_s`: None where the time to first token is far from up everywhere, or lost already.
    """
    blocked = fleet.all_free
    if policy.late_binding:
        if policy.shaping and fleet.packs and waited_s < policy.open_after_share * ask.ttft_s:
            open_warm = fleet.warm & fleet.serving
            if open_warm.any():
                blocked = _mark(blocked, ~open_warm, _HELD)
        most_s = policy.tpot_share * ask.request.slo.tpot_s
        if _largest(tpot_s) > most_s:
            blocked = _mark(blocked, (tpot_s > most_s) & fleet.warm, _TPOT)
        if left_s is not None:
            blocked = _mark(blocked, left_s < 0.0, _TTFT)
        if _least(fleet.kv_room_tokens) < ask.reserve_tokens:
            blocked = _mark(blocked, fleet.kv_room_tokens < ask.reserve_tokens, _KV)
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


def _check_harm(made: Quote, fleet: LocalFleet, policy: Policy) -> None:
    """Sets the victims by the harm curves as they are now, and whom that blocks."""
    at = (made.stalls + fleet.line_offsets).astype(np.intp)
    lines = fleet.harm_lines.ravel()
    harm = lines.take(at)
    harm *= made.stalls
    at += _STALL_POINTS
    harm += lines.take(at)
    made.victims = harm[1] - harm[0]
    made.blocked = made.unharmed
    if policy.harm_check and policy.late_binding:
        harmed = made.victims > made.most_victims
        if np.count_nonzero(harmed):
            if made.unharmed is fleet.all_free:
                made.blocked = harmed * _HARM
            else:
                harmed &= made.unharmed == _FREE
                made.blocked = made.unharmed.copy()
                made.blocked[harmed] = _HARM


def _check_harm_again(made: Quote, fleet: LocalFleet, policy: Policy, index: int) -> bool:
    """The same where one harm curve is new: only its group can have changed. Whether it is free."""
    if fleet.grouped:
        _check_harm(made, fleet, policy)
    else:
        before, after = made.stalls[:, index].tolist()
        rises, starts = fleet.harm_lines[index].tolist()
        below, upto = int(before), int(after)
        victims = starts[upto] + rises[upto] * after - starts[below] - rises[below] * before
        made.victims[index] = victims
        if policy.late_binding and made.unharmed[index] == _FREE:
            most = made.most_victims
            harmed = victims > (most if isinstance(most, float) else most[index])
            if harmed != (made.blocked[index] == _HARM):
                if made.blocked is made.unharmed:
                    made.blocked = made.unharmed.copy()
                made.blocked[index] = _HARM if harmed else _FREE
    return bool(made.blocked[index] == _FREE)


def _best(fleet: LocalFleet, made: Quote, rotation: int) -> int | None:
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
    near = score <= least * _TIE
    if np.count_nonzero(near) == 1:
        return best
    ties = near.nonzero()[0]
    if fleet.grouped:
        # Ranks that cost the same: the one with the least prefill, then the least KV.
        load = made.wait_s[ties] * 1e9 + fleet.kv_tokens[ties]
        ties = ties[load <= load.min()]
    if fleet.packs:
        return int(ties[0])
    return int(ties[rotation % len(ties)])


def _marginal(
    stalled_s: Floats, steps: Floats | float, added_s: Floats, nano_usd_per_s: Floats
) -> Floats:
    return (stalled_s + steps * added_s) * nano_usd_per_s


def _largest(figures: Floats) -> float:
    return figures.item(figures.argmax()) if len(figures) else -math.inf


def _least(figures: Floats) -> float:
    return figures.item(figures.argmin()) if len(figures) else math.inf
