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
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.harm import stall_position
from scheduler.local_fleet import LocalFleet
from scheduler.output_length import Floats
from scheduler.policy import Policy
from scheduler.types import Request

CURVE_AGE_S = 0.1
"""A harm curve older than this is made anew before it decides."""
MOST_REFRESHES = 2
"""Harm curves made anew in one look: bounds its time, whatever the number of placements."""
_TIE = 1.0 + 1e-9
_ZERO = np.array(0.0)
"""numpy takes it faster than a Python number."""


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
        excluded: shape (placements,), a `Block` for those that are out of the question, else FREE.
        hit_tokens: shape (placements,), prompt tokens expected in each prefix cache.
        output_tokens: expected, all choices together.
        reserve_tokens: KV tokens to count it with.
        ttft_s: the time to first token that it is promised.
        late: its time to first token is lost already, and binds no more.
    """

    request: Request
    ttft_s: float
    excluded: npt.NDArray[np.int8]
    hit_tokens: Floats
    output_tokens: float
    reserve_tokens: int
    late: bool

    @property
    def possible(self) -> bool:
        """Whether an own placement may take it, now or later."""
        shut = np.count_nonzero(self.excluded)
        return bool(shut < len(self.excluded) or (self.excluded == _PAUSED).any())


@dataclass(slots=True, kw_only=True)
class Quote:
    """Figures of every own placement of a model, arrays of shape (placements,).

    `wait_s`: prefills before its own; `marginal_nano_usd`: meaningful only where the rate is known;
    `stalls`: shape (2, placements), the group's stall without and with the newcomer, as positions
    on the harm curves; `unharmed`: `blocked`, harm apart. Only `choose` writes, before it returns.
    """

    blocked: npt.NDArray[np.int8]
    hit_tokens: Floats
    wait_s: Floats
    prefill_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    stalls: Floats
    most_victims: Floats | float
    victims: Floats
    marginal_nano_usd: Floats
    score: Floats
    unharmed: npt.NDArray[np.int8]

    def best_s(self) -> tuple[float, float]:
        """Shortest prefill, and shortest time to a first token but for pending prefills."""
        possible = self.blocked != _NOT_SERVING
        if not possible.any():
            return 0.0, 0.0
        service_s = (self.ttft_s - self.wait_s)[possible]
        return float(self.prefill_s[possible].min()), float(service_s.min())


def quote(fleet: LocalFleet, ask: Ask, policy: Policy, now: float) -> Quote:
    """Figures for `ask` on every placement, with the harm curves as they are."""
    request = ask.request
    waited_s = now - request.arrival_s
    choices, prompt = request.choices, np.array(float(request.prompt_tokens))
    models = fleet.models
    prefill_s = models.prefill_time_s(prompt - ask.hit_tokens, prompt)
    wait_s = np.maximum(fleet.prefill_end_s - now, _ZERO)
    own_end_s = wait_s + prefill_s
    if fleet.grouped:
        stall_s = np.maximum(fleet.stall_end_s - now, _ZERO)
        stall_after_s = np.maximum(stall_s, own_end_s)
        rank_kv = (fleet.kv_tokens + choices * prompt) * fleet.ranks
        kv_after = np.maximum(fleet.kv_paced_tokens, rank_kv)
    else:
        stall_s, stall_after_s = wait_s, own_end_s
        kv_after = fleet.kv_paced_tokens + choices * prompt
    if choices == 1:
        after_s = fleet.next_step_s + models.kv_token_s * kv_after
    else:
        after_s = models.decode_step_s(fleet.batch + choices, kv_after)
    tpot_s = after_s / models.tokens_per_step
    chunks = np.ceil(stall_after_s / fleet.chunk_s)
    ttft_s = own_end_s + after_s * (0.5 + chunks)
    added_s = after_s - fleet.step_s
    steps = ask.output_tokens / (choices * models.tokens_per_step)
    marginal_nano_usd = (stall_after_s - stall_s + steps * added_s) * fleet.nano_usd_per_s
    score = marginal_nano_usd if fleet.packs else fleet.batch * added_s + after_s + ttft_s
    left_s = (ask.ttft_s - waited_s) - ttft_s
    last_call_s = policy.last_call_share * ask.ttft_s
    hurry = not ask.late and np.count_nonzero(left_s < last_call_s) > 0
    most_victims: Floats | float = policy.max_victims
    if hurry:
        most_victims = np.where(left_s < last_call_s, policy.last_call_victims, most_victims)
    made = Quote(
        blocked=ask.excluded,
        hit_tokens=ask.hit_tokens,
        wait_s=wait_s,
        prefill_s=prefill_s,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        stalls=stall_position(np.array((stall_s, stall_after_s))),
        most_victims=most_victims,
        victims=wait_s,
        marginal_nano_usd=marginal_nano_usd,
        score=score,
        unharmed=_other_blocks(fleet, ask, policy, waited_s, left_s if hurry else None, tpot_s),
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
            _check_harm_again(made, fleet, policy, index)
            if best is not None or made.blocked[index] == _FREE or fleet.grouped:
                best = _best(fleet, made, rotation)
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
    if not policy.late_binding:
        return ask.excluded
    blocked = np.zeros(len(fleet), dtype=np.int8)
    if policy.shaping and fleet.packs and waited_s < policy.open_after_share * ask.ttft_s:
        open_warm = fleet.warm & fleet.serving
        if open_warm.any():
            blocked[~open_warm] = _HELD
    slow = tpot_s > policy.tpot_share * ask.request.slo.tpot_s
    slow &= fleet.warm
    if np.count_nonzero(slow):  # cheaper than to assign to no one
        blocked[slow] = _TPOT
    if left_s is not None:
        blocked[left_s < 0.0] = _TTFT
    if np.count_nonzero(full := fleet.kv_room_tokens < ask.reserve_tokens):
        blocked[full] = _KV
    if np.count_nonzero(full := fleet.slot_room < ask.request.choices):
        blocked[full] = _SLOTS
    if np.count_nonzero(ask.excluded):
        np.copyto(blocked, ask.excluded, where=ask.excluded != _FREE)
    return blocked


def _check_harm(made: Quote, fleet: LocalFleet, policy: Policy) -> None:
    """Sets the victims by the harm curves as they are now, and whom that blocks."""
    below = made.stalls.astype(np.intp)
    share = made.stalls - below
    below += fleet.curve_offsets
    flat = fleet.curves.ravel()
    lower = flat.take(below)
    below += 1
    harm = lower + share * (flat.take(below) - lower)
    made.victims = harm[1] - harm[0]
    made.blocked = made.unharmed
    if policy.harm_check and policy.late_binding:
        harmed = made.victims > made.most_victims
        harmed &= made.unharmed == _FREE
        if np.count_nonzero(harmed):
            made.blocked = made.unharmed.copy()
            made.blocked[harmed] = _HARM


def _check_harm_again(made: Quote, fleet: LocalFleet, policy: Policy, index: int) -> None:
    """The same where one harm curve is new: only its group can have changed."""
    members = fleet.groups[index].members
    if len(members) > 1:
        _check_harm(made, fleet, policy)
        return
    before, after = made.stalls[:, index].tolist()
    curve = fleet.curves[index].tolist()
    victims = _between(curve, after) - _between(curve, before)
    made.victims[index] = victims
    if policy.late_binding and made.unharmed[index] == _FREE:
        most = made.most_victims
        harmed = victims > (most[index] if isinstance(most, np.ndarray) else most)
        if made.blocked is made.unharmed:
            made.blocked = made.unharmed.copy()
        made.blocked[index] = _HARM if harmed else _FREE


def _between(curve: list[float], position: float) -> float:
    below = int(position)
    return curve[below] + (position - below) * (curve[below + 1] - curve[below])


def _best(fleet: LocalFleet, made: Quote, rotation: int) -> int | None:
    free = (made.blocked == _FREE).nonzero()[0]
    if not len(free):
        return None
    score = made.score[free]
    ties = free[score <= score[score.argmin()] * _TIE]
    if len(ties) == 1:
        return int(ties[0])
    if fleet.grouped:
        # Ranks that cost the same: the one with the least prefill, then the least KV.
        load = made.wait_s[ties] * 1e9 + fleet.kv_tokens[ties]
        ties = ties[load <= load.min()]
    if fleet.packs:
        return int(ties[0])
    return int(ties[rotation % len(ties)])
