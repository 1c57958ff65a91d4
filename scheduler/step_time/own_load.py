"""What the scheduler counted itself of its own streams on a group, for `step_windows.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PromptsUnderway:
    """Parts of prompts that are computed so far, as predicted: of the prompts, of their tokens, and
    of those that were not cached."""

    prompts: float = 0.0
    tokens: float = 0.0
    uncached_tokens: float = 0.0

    def __add__(self, other: PromptsUnderway) -> PromptsUnderway:
        return PromptsUnderway(
            self.prompts + other.prompts,
            self.tokens + other.tokens,
            self.uncached_tokens + other.uncached_tokens,
        )


NONE_UNDERWAY = PromptsUnderway()


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCounts:
    """Totals that the scheduler counted itself from its own streams on a group.

    Attributes:
        sequences: own sequences on the group now, a gauge.
        kv_tokens: KV tokens of the group now by the scheduler's count, external load included; with
            several ranks, the fullest rank's KV on each. It replaces what the engine does not tell.
        output_tokens: output tokens received.
        gaps: outputs beyond the first of each sequence.
        gaps_s: total time of these gaps. Several tokens in one piece are as many gaps in the time
            since the previous piece, so coalescing and a late read change no sum.
        prompts, prompt_tokens, uncached_tokens: totals of the sequences that got their first token.
        underway: what is computed of the prompts that are at their turn now, a gauge.
    """

    sequences: int = 0
    kv_tokens: float | None = None
    output_tokens: int = 0
    gaps: int = 0
    gaps_s: float = 0.0
    prompts: int = 0
    prompt_tokens: int = 0
    uncached_tokens: int = 0
    underway: PromptsUnderway = NONE_UNDERWAY


@dataclass(slots=True)
class OwnLoad:
    """Keeps `OwnCounts` from token events, by a few additions each; one per group."""

    _output_tokens: int = 0
    _gaps: int = 0
    _gaps_s: float = 0.0
    _prompts: int = 0
    _prompt_tokens: int = 0
    _uncached_tokens: int = 0

    def first_token(self, *, sequences: int, prompt_tokens: int, uncached_tokens: int) -> None:
        """Counts the end of the prefill of a request with `sequences` choices."""
        self._output_tokens += sequences
        self._prompts += 1
        self._prompt_tokens += prompt_tokens
        self._uncached_tokens += uncached_tokens

    def tokens(self, tokens: int, waited_s: float, sequences: int = 1) -> None:
        """Counts `tokens` more of a request, which came `waited_s` after the previous ones."""
        self._output_tokens += tokens
        self._gaps += tokens
        self._gaps_s += waited_s * sequences

    def at(
        self,
        *,
        sequences: int,
        kv_tokens: float | None = None,
        underway: PromptsUnderway = NONE_UNDERWAY,
    ) -> OwnCounts:
        """The totals now. `sequences`: own sequences on the group, including those that prefill."""
        return OwnCounts(
            sequences=sequences,
            kv_tokens=kv_tokens,
            output_tokens=self._output_tokens,
            gaps=self._gaps,
            gaps_s=self._gaps_s,
            prompts=self._prompts,
            prompt_tokens=self._prompt_tokens,
            uncached_tokens=self._uncached_tokens,
            underway=underway,
        )
