"""The peak of a KV cache: answers grow by a token a step, and free their blocks when they end.

Not all that runs reaches its full length together. An answer with p prompt tokens and g output
tokens still runs h steps from now with probability P = S(g + h) / S(g), S the learnt survival
function of output lengths (`output_length.py`), and then holds p + g + h tokens. So

    E(h) = sum of P_i (p_i + g_i + h)                    tokens are expected h steps from now,
    V(h) = sum of P_i (1 - P_i) (p_i + g_i + h)^2        with this variance, in tokens squared,

because lengths are independent. The planned peak is the largest E(h) + z sqrt(V(h)) of all h, with
z = `Policy.kv_sigmas`. Horizons are a grid: between two of its points, those that are left at the
first hold what they would hold at the second, so that no peak is overlooked. No answer is longer
than its `max_output_tokens`; for equal answers of certain length that start together the peak is
the sum of their full lengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from scheduler.contract import Request
from scheduler.output_length import Floats, OutputLengths
from scheduler.placement.objectives import Indices
from scheduler.placement.quotes import PlacementQuery
from scheduler.placement_state import PlacementState

PLAN_AGE_S = 0.1
"""A plan older than this is made anew before a request starts by it."""
MOST_PLANS = 2
"""Plans that one decision makes at most: bounds its time, whatever the number of placements."""
HORIZONS: Floats = np.concatenate(
    ((0.0,), 8.0 * 2.0 ** (np.arange(19) / 2.0), 4096.0 * 2.0 ** np.arange(1.0, 6.0))
)
"""Steps from now: 0, 8 to 4,096 by factors of 1.41, to 131,072 by factors of 2."""

_FROM = HORIZONS[:, None]
_UNTIL = np.append(HORIZONS[1:], np.inf)[:, None]
# numpy takes arrays without dimensions faster than Python numbers.
_ONE, _TINY = np.array(1.0), np.array(1e-300)

Attempt = tuple[int, float, int, int, int]
"""Prompt tokens, output tokens of each choice so far and at most, choices, and the row of the key
in `OutputLengths`."""
Kept = tuple[Floats, Indices, Floats, Floats]
"""Plans, their peaks, and when they were made."""


def expected_kv(attempts: Sequence[Attempt], lengths: OutputLengths) -> Floats:
    """E and V of attempts that run together, at each horizon; shape (2, horizons)."""
    if not attempts:
        return np.zeros((2, len(HORIZONS)))
    prompt, tokens, most, choices, rows = np.array(attempts, dtype=np.float64).T
    reached = tokens + _FROM
    runs = lengths.survival(rows, reached)
    runs /= np.fmax(runs[0], _TINY)
    np.fmin(runs, _ONE, runs)
    runs[reached >= most] = 0.0
    runs[0] = 1.0
    output = np.fmin(tokens + _UNTIL, np.fmax(most, tokens))
    if choices.max() == 1.0:
        holds = prompt + output
        expected = runs * holds
        variance = expected * (holds - expected)
    else:
        # Its choices share the prompt of an attempt, which is held until the last of them ends.
        any_runs = _ONE - (_ONE - runs) ** choices
        own = choices * runs * output
        expected = any_runs * prompt + own
        variance = (_ONE - any_runs) * prompt * (any_runs * prompt + 2.0 * own)
        variance += own * (_ONE - runs) * output
    return np.array((expected.sum(axis=1), variance.sum(axis=1)))


def kv_limit_tokens(state: PlacementState, kept_share: float, now: float) -> float:
    """KV tokens that may be planned, external load included: without the share that is kept free,
    or with the larger one that preemptions have taught. Infinite where the capacity is unknown."""
    capacity = state.kv_capacity_tokens
    if capacity is None:
        return math.inf
    return capacity * (1.0 - max(kept_share, state.reserve_share(now)))


class KvPlans:
    """Plans of the placements of one fleet. They are made when a decision needs them: a start, an
    end and time outdate the plan of a placement."""

    def __init__(
        self,
        states: Sequence[PlacementState],
        kv_tokens: Floats,
        lengths: OutputLengths,
        sigmas: float,
    ) -> None:
        """`kv_tokens`: what each placement holds now, external load included; read, not copied."""
        count = len(states)
        self._states, self._kv_tokens, self._lengths = states, kv_tokens, lengths
        self._sigmas = np.array(sigmas)
        self._plans: Floats = np.zeros((count, 2, len(HORIZONS)))
        """E and V of what runs on each placement."""
        self._peaks = np.zeros(count, dtype=np.intp)
        """The horizon at which each plan is largest."""
        self._peak_tokens: Floats = np.zeros(count)
        self.made_at_s: Floats = np.full(count, -np.inf)
        """When each plan was made; minus infinity: an attempt has started or ended since."""
        self.limit_tokens: Floats = np.full(count, np.inf)
        """Largest planned peak of each placement."""

    def outdate(self, index: int) -> None:
        """An attempt has started or ended there."""
        self.made_at_s[index] = -np.inf

    def kept(self) -> Kept:
        """The plans as they are, for `restore`."""
        return (
            self._plans.copy(),
            self._peaks.copy(),
            self._peak_tokens.copy(),
            self.made_at_s.copy(),
        )

    def restore(self, kept: Kept) -> None:
        """Undoes what was planned since `kept`."""
        self._plans[:], self._peaks[:], self._peak_tokens[:], self.made_at_s[:] = kept

    def fit(self, rows: Indices, query: PlacementQuery, now: float) -> Indices:
        """Those of `rows`, indices of placements, that stay within their limits with the request.
        `MOST_PLANS` outdated plans are made anew, the oldest first; by any other nothing fits, nor
        before the lengths of answers are learnt."""
        request, oldest_s = query.request, now - PLAN_AGE_S
        rows = self.may_fit(rows, query)
        if not len(rows):
            return rows
        made_at_s = self.made_at_s[rows]
        outdated = (made_at_s < oldest_s).nonzero()[0]
        if len(outdated):
            for at in outdated[made_at_s[outdated].argsort()[:MOST_PLANS]]:
                self.refresh(rows.item(at), now)
            rows = rows[self.made_at_s[rows] >= oldest_s]
        row = self._lengths.known_row(request.key_id)
        asked = expected_kv([_attempt(request, 0, query.reserve_tokens, row)], self._lengths)
        # The peak with the request is no lower than where the peak without it is.
        least_tokens = self._peak_tokens[rows] + asked[0].take(self._peaks[rows])
        rows = rows[least_tokens <= self.limit_tokens[rows]]
        peak_tokens = self._heights(self._plans[rows] + asked).max(axis=1)
        fitting: Indices = rows[peak_tokens <= self.limit_tokens[rows]]
        return fitting

    def may_fit(self, rows: Indices, query: PlacementQuery) -> Indices:
        """Those of `rows` that have room for the prompt now: time alone may make the request fit,
        as answers that go on become likelier to end."""
        asked_now = _attempt(query.request, 0, query.reserve_tokens, 0)[0]
        have_room: Indices = rows[self._kv_tokens[rows] + asked_now <= self.limit_tokens[rows]]
        return have_room if self._lengths.learnt else rows[:0]

    def _heights(self, plans: Floats) -> Floats:
        """E + z sqrt(V) at each horizon."""
        heights: Floats = np.sqrt(plans[..., 1, :])
        heights *= self._sigmas
        heights += plans[..., 0, :]
        return heights

    def refresh(self, index: int, now: float) -> None:
        """Makes the plan of a placement anew."""
        state, row = self._states[index], self._lengths.known_row
        attempts = [
            _attempt(r.request, r.output_tokens, r.kv_reserved_tokens, row(r.request.key_id))
            for r in state.residents.values()
        ]
        plan = expected_kv(attempts, self._lengths)
        if others := state.external(now):
            # Others send as much anew as ends; each that comes or goes changes it by a share.
            plan[0] += state.external_kv_tokens
            plan[1] += state.external_kv_tokens**2 / others
        heights = self._heights(plan)
        self._plans[index], self.made_at_s[index] = plan, now
        self._peaks[index] = peak = int(heights.argmax())
        self._peak_tokens[index] = heights[peak]


def _attempt(request: Request, output_tokens: int, reserved_tokens: int, row: int) -> Attempt:
    most, choices = request.max_output_tokens, request.choices
    # What generates nothing holds a step of its prompt at most.
    prompt_tokens = request.prompt_tokens if most else reserved_tokens
    return prompt_tokens, output_tokens / choices, most, choices, row
