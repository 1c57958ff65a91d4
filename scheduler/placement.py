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

from scheduler.harm import STALL_POINTS, stall_position
from scheduler.local_fleet import LocalFleet
from scheduler.output_length import Floats
from scheduler.policy import Policy
from scheduler.types import Objective, Request

CHUNK_TOKENS = 8192
"""Prompt tokens of one engine step: vLLM's --max-num-batched-tokens on data-centre GPUs."""
CURVE_AGE_S = 0.1
"""A harm curve older than this is made anew before it decides."""
MOST_REFRESHES = 4
"""Harm curves made anew in one look: bounds its time, whatever the number of placements."""
LONGEST_RESERVED_SHARE = 0.1
"""One answer in ten is longer than what is reserved for it."""
_TIE = 1.0 + 1e-9


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
        return bool(((self.excluded == Block.FREE) | (self.excluded == Block.PAUSED)).any())


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """Figures of every own placement of a model, arrays of shape (placements,).

    `wait_s`: prefills before its own; `marginal_nano_usd`: meaningful only where the rate is known.
    """

    blocked: npt.NDArray[np.int8]
    hit_tokens: Floats
    wait_s: Floats
    prefill_s: Floats
    ttft_s: Floats
    tpot_s: Floats
    victims: Floats
    marginal_nano_usd: Floats
    score: Floats

    def best_s(self) -> tuple[float, float]:
        """Shortest prefill, and shortest time to a first token but for pending prefills."""
        possible = self.blocked != Block.NOT_SERVING
        if not possible.any():
            return 0.0, 0.0
        service_s = (self.ttft_s - self.wait_s)[possible]
        return float(self.prefill_s[possible].min()), float(service_s.min())


def quote(fleet: LocalFleet, ask: Ask, policy: Policy, now: float) -> Quote:
    """Figures for `ask` on every placement, with the harm curves as they are."""
    request, slo = ask.request, ask.request.slo
    waited_s = now - request.arrival_s
    choices, prompt = request.choices, np.array(float(request.prompt_tokens))
    models = fleet.models
    prefill_s = models.prefill_time_s(prompt - ask.hit_tokens, prompt)
    wait_s = np.maximum(fleet.prefill_end_s - now, 0.0)
    if fleet.grouped:
        stall_s = np.maximum(fleet.stall_end_s - now, 0.0)
        stall_after_s = np.maximum(stall_s, wait_s + prefill_s)
        kv_after = np.maximum(
            fleet.kv_paced_tokens, (fleet.kv_tokens + choices * prompt) * fleet.ranks
        )
    else:
        stall_s = wait_s
        stall_after_s = wait_s + prefill_s
        kv_after = fleet.kv_paced_tokens + choices * prompt
    step_s = models.decode_step_s(fleet.batch, fleet.kv_paced_tokens)
    after_s = models.decode_step_s(fleet.batch + choices, kv_after)
    tpot_s = after_s / models.tokens_per_step
    chunks = np.ceil(stall_after_s / (models.prefill_token_s * CHUNK_TOKENS))
    ttft_s = wait_s + prefill_s + after_s * (0.5 + chunks)
    victims = _victims(fleet, stall_s, stall_after_s)
    added_s = after_s - step_s
    steps = ask.output_tokens / (choices * models.tokens_per_step)
    marginal_s = stall_after_s - stall_s + steps * added_s
    marginal_nano_usd = marginal_s * fleet.nano_usd_per_s
    packs = fleet.states[0].facts.objective is Objective.COST
    score = marginal_nano_usd if packs else fleet.batch * added_s + after_s + ttft_s
    blocked = ask.excluded.copy()
    if policy.late_binding:
        left_s = ask.ttft_s - waited_s - ttft_s
        # A request that needs more slots or blocks than there are runs alone, in turns.
        busy = fleet.sequences > 0
        _block(blocked, busy & (fleet.sequences + choices > fleet.slots), Block.SLOTS)
        _block(blocked, busy & (fleet.kv_free_tokens < ask.reserve_tokens), Block.KV)
        if not ask.late:
            _block(blocked, left_s < 0, Block.TTFT)
        _block(blocked, (tpot_s > slo.tpot_s) & (fleet.batch > 0), Block.TPOT)
        if policy.harm_check:
            most: float | Floats = policy.max_victims
            if not ask.late:
                last_call = left_s < policy.last_call_share * ask.ttft_s
                most = np.where(last_call, policy.last_call_victims, policy.max_victims)
            _block(blocked, victims > most, Block.HARM)
        if policy.shaping and packs and waited_s < policy.open_after_share * ask.ttft_s:
            warm = fleet.serving & (fleet.batch > 0)
            if warm.any():
                _block(blocked, ~warm, Block.HELD)
    return Quote(
        blocked=blocked,
        hit_tokens=ask.hit_tokens,
        wait_s=wait_s,
        prefill_s=prefill_s,
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        victims=victims,
        marginal_nano_usd=marginal_nano_usd,
        score=score,
    )


def choose(
    fleet: LocalFleet, ask: Ask, policy: Policy, now: float, rotation: int
) -> tuple[int | None, Quote]:
    """The placement to take, with the quote that decided; None: no one can take it now.

    Harm curves age. The best placement is taken on a fresh one only; where none is free, the
    oldest of those that only harm blocks are made anew, so that a recovery is noticed.
    """
    for _ in range(MOST_REFRESHES):
        made = quote(fleet, ask, policy, now)
        best = _best(fleet, made, rotation)
        if best is not None:
            if not policy.harm_check or now - fleet.curve_at_s[best] <= CURVE_AGE_S:
                return best, made
            fleet.refresh_curve(best, now)
            continue
        harmed = np.flatnonzero(made.blocked == Block.HARM)
        if not len(harmed):
            return None, made
        oldest = int(harmed[np.argmin(fleet.curve_at_s[harmed])])
        if now - fleet.curve_at_s[oldest] <= CURVE_AGE_S:
            return None, made
        fleet.refresh_curve(oldest, now)
    made = quote(fleet, ask, policy, now)
    best = _best(fleet, made, rotation)
    if best is not None and policy.harm_check and now - fleet.curve_at_s[best] > CURVE_AGE_S:
        best = None
    return best, made


def _best(fleet: LocalFleet, made: Quote, rotation: int) -> int | None:
    free = np.flatnonzero(made.blocked == Block.FREE)
    if not len(free):
        return None
    score = made.score[free]
    ties = free[score <= score.min() * _TIE]
    if len(ties) == 1:
        return int(ties[0])
    if fleet.grouped:
        # Ranks that cost the same: the one with the least prefill, then the least KV.
        load = made.wait_s[ties] * 1e9 + fleet.kv_tokens[ties]
        ties = ties[load <= load.min()]
    if fleet.states[0].facts.objective is Objective.COST:
        return int(ties[0])
    return int(ties[rotation % len(ties)])


def _victims(fleet: LocalFleet, stall_s: Floats, stall_after_s: Floats) -> Floats:
    position = stall_position(np.stack((stall_s, stall_after_s)))
    below = position.astype(np.intp)
    flat = fleet.curves.ravel()
    at = below + np.arange(len(fleet), dtype=np.intp) * STALL_POINTS
    lower = flat[at]
    harm = lower + (position - below) * (flat[at + 1] - lower)
    return np.asarray(harm[1] - harm[0])


def _block(blocked: npt.NDArray[np.int8], where: npt.NDArray[np.bool_], why: Block) -> None:
    blocked[where & (blocked == Block.FREE)] = why
