"""Periods in which a placement computes own prompts, from dispatches and first tokens.

Prompts share steps: short ones that come together end in one step, and a long one is computed in
several. Single times to the first token are therefore no times of single prompts, but the time from
the first dispatch until no own prompt is pending is that of all prompts in it together.

What was computed of a prompt, only its answer's end tells, because an engine may have cached more
than is known here: a period is kept until all its answers have ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec

MOST_PERIOD_S = 10.0
"""A period is cut at the first token after so long; the prompts that are pending then begin the
next one."""
SAME_STEP_S = 1e-3
"""First tokens that come within so long are of one step."""
UNSURE_WEIGHT = 0.1
"""Weight of a period with a prompt whose prefix was expected in the cache, where the engine does
not tell what it found there."""


class PrefillPeriod(msgspec.Struct, frozen=True, kw_only=True):
    """Attributes:
    began_s, ended_s: on the scheduler's clock.
    prompts, tokens: number of prompts, and their uncached tokens.
    pairs: sum of u (2 m - u) over these prompts, see `step_model.py`.
    steps: steps of the engine that computed them, at least.
    joined: the engine was in no known step when the period began, so that half a step passed
        before the prompts were joined to one.
    sequences: that ran on the group when the period began.
    kv_tokens: of the group when the period ended, see `StepModel.decode_step_s`.
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
    kv_tokens: float
    weight: float

    @property
    def took_s(self) -> float:
        """Its length."""
        return self.ended_s - self.began_s


@dataclass(slots=True)
class _Prompts:
    """The prompts of a period. `awaited`: prompt tokens and expected cached ones of those whose
    answers run; `guessed`: whether one with expected ones ended without telling."""

    began_s: float
    joined: bool
    sequences: int
    ended_s: float = 0.0
    kv_tokens: float = 0.0
    chunk_tokens: int = 1
    steps: int = 0
    count: int = 0
    tokens: float = 0.0
    pairs: float = 0.0
    guessed: bool = False
    awaited: dict[str, tuple[int, int]] = field(default_factory=dict)

    def record_end(
        self, request_id: str, prompt_tokens: int | None, cached_tokens: int | None
    ) -> bool:
        """Records the end of a prompt's answer; returns whether it is one of these."""
        if (expected := self.awaited.pop(request_id, None)) is None:
            return False
        whole, cached = expected
        if cached_tokens is None:
            self.guessed |= cached > 0
        else:
            # Both by the engine's count: what is left of a long prompt that is cached almost whole
            # is less than what its size was estimated wrong by.
            whole = whole if prompt_tokens is None else prompt_tokens
            cached = min(cached_tokens, whole)
        uncached = float(whole - cached)
        self.tokens += uncached
        self.pairs += uncached * (2.0 * whole - uncached)
        return True

    def period(self) -> PrefillPeriod:
        """The whole, once every answer has ended."""
        return PrefillPeriod(
            began_s=self.began_s,
            ended_s=self.ended_s,
            prompts=self.count,
            tokens=self.tokens,
            pairs=self.pairs,
            steps=max(self.steps, math.ceil(self.tokens / self.chunk_tokens)),
            joined=self.joined,
            sequences=self.sequences,
            kv_tokens=self.kv_tokens,
            weight=UNSURE_WEIGHT if self.guessed else 1.0,
        )


class PrefillPeriods:
    """Keeps the periods of one placement: the running one, and at most one for each answer that
    runs there, whose end tells what was cached of its prompt."""

    __slots__ = ("_awaited", "_first_token_s", "_now", "_spoiled")

    def __init__(self) -> None:
        self._spoiled = False
        self._first_token_s = -math.inf
        self._now = _Prompts(0.0, joined=False, sequences=0)
        self._awaited: list[_Prompts] = []

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
        request_id: str,
        prompt_tokens: int,
        hit_tokens: int,
        pending: int,
        sequences: int,
        kv_tokens: float,
        chunk_tokens: int,
    ) -> None:
        """Records the first token of a prompt, with which the period may end.

        `hit_tokens`: expected in the cache; `pending`: prompts that are still pending; `sequences`,
        `kv_tokens`: that run on the group.
        """
        prompts = self._now
        if now - self._first_token_s > SAME_STEP_S:
            prompts.steps += 1
            self._first_token_s = now
        prompts.count += 1
        prompts.awaited[request_id] = prompt_tokens, hit_tokens
        if pending and now - prompts.began_s < MOST_PERIOD_S:
            return
        prompts.ended_s, prompts.kv_tokens = now, kv_tokens
        prompts.chunk_tokens = chunk_tokens
        spoiled, self._spoiled = self._spoiled, False
        self._begin(now, sequences, joined=False)
        if not spoiled and now > prompts.began_s:
            self._awaited.append(prompts)

    def ended(
        self, request_id: str, prompt_tokens: int | None, cached_tokens: int | None
    ) -> PrefillPeriod | None:
        """Records the end of an answer; returns its period if nothing else of it is awaited.
        `prompt_tokens`, `cached_tokens`: of its prompt, as the engine counted them, and what it
        found of them; None: it did not tell."""
        if self._now.record_end(request_id, prompt_tokens, cached_tokens):
            return None
        for at, prompts in enumerate(self._awaited):
            if prompts.record_end(request_id, prompt_tokens, cached_tokens):
                if prompts.awaited:
                    return None
                del self._awaited[at]
                return prompts.period()
        return None

    def spoil(self) -> None:
        """Records that the running period tells nothing: a prompt was given up, or others' prompts
        are computed, too."""
        self._spoiled = True

    def _begin(self, now: float, sequences: int, *, joined: bool) -> None:
        self._now = _Prompts(now, joined=joined, sequences=sequences)
        self._first_token_s = -math.inf
