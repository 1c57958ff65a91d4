"""Periods in which a placement computes own prompts, from dispatches and first tokens.

Prompts share steps: short ones that come together end in one step, and a long one is computed in
several. Single times to the first token are therefore no times of single prompts, but the time from
the first dispatch until no own prompt is pending is that of all prompts in it together.
"""

from __future__ import annotations

import math

import msgspec

MOST_PERIOD_S = 10.0
"""A period is cut at the first token after so long; the prompts that are pending then begin the
next one."""
SAME_STEP_S = 1e-3
"""First tokens that come within so long are of one step."""
UNSURE_WEIGHT = 0.1
"""Weight of a period with a prompt whose prefix was expected in the cache."""


class PrefillPeriod(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    began_s, ended_s: on the scheduler's clock.
    prompts, tokens: number of prompts, and their uncached tokens.
    pairs: sum of u (2 m - u) over these prompts, see `step_model.py`.
    steps: steps of the engine that computed them, at least.
    joined: the engine was in no known step when the period began, so that half a step passed
        before the prompts were joined to one.
    sequences: that ran on the group when the period began.
    weight: 1, or less if it is not sure what was computed.
    """

    began_s: float
    ended_s: float
    prompts: int
    tokens: float
    pairs: float
    steps: int
    joined: bool
    sequences: int
    weight: float

    @property
    def took_s(self) -> float:
        """Its length."""
        return self.ended_s - self.began_s


class PrefillPeriods:
    """Keeps the period of one placement."""

    __slots__ = (
        *("_began_s", "_first_token_s", "_joined", "_pairs", "_prompts", "_sequences", "_spoiled"),
        *("_steps", "_tokens", "_unsure"),
    )

    def __init__(self) -> None:
        self._spoiled = False
        self._first_token_s = -math.inf
        self._begin(0.0, 0, joined=False)

    def sent(self, now: float, *, pending: int, sequences: int) -> None:
        """Records a dispatch. `pending`: prompts that were pending before it; `sequences`: those
        that ran on the group before it."""
        if not pending:
            self._spoiled = False
            self._begin(now, sequences, joined=sequences > 0)

    def first_token(
        self,
        now: float,
        *,
        uncached_tokens: float,
        context_tokens: float,
        sure: bool,
        pending: int,
        sequences: int,
        chunk_tokens: int,
    ) -> PrefillPeriod | None:
        """Records the first token of a prompt; returns the period if it ends with it.

        `sure`: no part of the prompt was expected in the cache; `pending`: prompts that are still
        pending; `sequences`: that run on the group.
        """
        if now - self._first_token_s > SAME_STEP_S:
            self._steps += 1
            self._first_token_s = now
        self._prompts += 1
        self._tokens += uncached_tokens
        self._pairs += uncached_tokens * (2.0 * context_tokens - uncached_tokens)
        self._unsure |= not sure
        if pending and now - self._began_s < MOST_PERIOD_S:
            return None
        period = PrefillPeriod(
            began_s=self._began_s,
            ended_s=now,
            prompts=self._prompts,
            tokens=self._tokens,
            pairs=self._pairs,
            steps=max(self._steps, math.ceil(self._tokens / chunk_tokens)),
            joined=self._joined,
            sequences=self._sequences,
            weight=UNSURE_WEIGHT if self._unsure else 1.0,
        )
        spoiled, self._spoiled = self._spoiled, False
        self._begin(now, sequences, joined=False)
        return None if spoiled or period.took_s <= 0.0 else period

    def spoil(self) -> None:
        """Records that the running period tells nothing: a prompt was given up, or others' prompts
        are computed, too."""
        self._spoiled = True

    def _begin(self, now: float, sequences: int, *, joined: bool) -> None:
        self._began_s, self._sequences, self._joined = now, sequences, joined
        self._first_token_s = -math.inf
        self._steps: int = 0
        self._prompts: int = 0
        self._tokens: float = 0.0
        self._pairs: float = 0.0
        self._unsure: bool = False
