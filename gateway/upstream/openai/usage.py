"""Token counts of OpenAI-shaped servers as a `Claim`, normalised across servers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.upstream.openai import wire
from gateway.upstream.usage_claims import Claim, larger
from scheduler.engine_steps import EngineTimes

_ENGINE_TIMES = ("queue_time_ms", "time_to_first_token_ms", "generation_time_ms")
"""Parts of the time that vLLM spends on a request. The second one begins when it is scheduled."""


_MOST_MS = 1e10
"""Largest time that is believed, some months."""


class UsageTotals:
    """Running totals of one stream: of each count, the largest that has come."""

    __slots__ = ("_last", "_seen")

    def __init__(self) -> None:
        self._last: wire.Usage | None = None
        self._seen: list[wire.Usage] = []

    def __bool__(self) -> bool:
        """Whether any counts have come."""
        return self._last is not None

    def add(self, usage: wire.Usage) -> None:
        """Adds the counts of an event. Counts that only grow replace those before them, because
        some servers count with every token."""
        last = self._last
        if last is not None and not _continues(usage, last):
            self._seen.append(last)
            if len(self._seen) > 8:
                self._seen = [_largest(self._seen)]
        self._last = usage

    def claim(self) -> Claim:
        """The counts of the whole stream."""
        if self._last is None:
            return Claim()
        if not self._seen:
            return claim_of(self._last)
        return claim_of(_largest([*self._seen, self._last]))


def engine_times(metrics: Any) -> EngineTimes | None:
    """The engine's own seconds, from the `metrics` of vLLM's last event; None: it does not tell all
    of them. moegate's plugin adds what the request had of the engine's steps, and of several
    choices, for which vLLM tells nothing, the whole time."""
    if not isinstance(metrics, dict):
        return None
    parts_s = [_seconds(metrics.get(name)) for name in _ENGINE_TIMES]
    known_s = [part_s for part_s in parts_s if part_s is not None]
    of_one = sum(known_s) if len(known_s) == len(parts_s) else None
    whole_s = _seconds(metrics.get("moegate_whole_ms")) if of_one is None else of_one
    if whole_s is None:
        return None
    return EngineTimes(
        whole_s=whole_s,
        prefill_had_s=_seconds(metrics.get("moegate_prefill_ms")),
        decode_had_s=_seconds(metrics.get("moegate_decode_ms")),
    )


def _seconds(value: Any) -> float | None:
    """A time in milliseconds; None: it cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value / 1e3 if 0 <= value <= _MOST_MS else None


def claim_of(usage: wire.Usage) -> Claim:
    """The counts with cached tokens and cache writes included in the prompt, and reasoning in the
    output.

    Most servers count like that. Those that count one beside give themselves away by a
    `total_tokens` that is larger by just as much (xAI's reasoning tokens do that), or by more
    cached or written tokens than prompt. What else a total has (Gemini's thinking) is unnamed.
    """
    prompt = _first(usage.prompt_tokens, usage.input_tokens)
    completion = _first(usage.completion_tokens, usage.output_tokens)
    total = usage.total_tokens
    if total is not None and prompt and completion is None and total > prompt:
        completion = total - prompt
    if total is not None and completion and not prompt and total > completion:
        prompt = total - completion
    details = usage.prompt_tokens_details or usage.input_tokens_details or wire.PromptDetails()
    output_details = usage.completion_tokens_details or usage.output_tokens_details
    cached = _first(
        *(details.cached_tokens, details.cache_read_tokens, usage.cached_tokens),
        *(usage.prompt_cache_hit_tokens, usage.cache_read_input_tokens),
    )
    written = _first(
        *(details.cache_write_tokens, details.cache_creation_tokens),
        *(details.cache_creation_input_tokens, usage.cache_write_tokens),
        *(usage.prompt_cache_write_tokens, usage.cache_creation_input_tokens),
    )
    reasoning = _first(
        None if output_details is None else output_details.reasoning_tokens, usage.reasoning_tokens
    )
    creation = usage.cache_creation or details.cache_creation
    long = None
    if creation is not None:
        long = larger(None, creation.ephemeral_1h_input_tokens)
        short = larger(None, creation.ephemeral_5m_input_tokens)
        written = (short or 0) + (long or 0) if written is None else written
    unnamed = 0
    if prompt is not None and completion is None and written and written > prompt - (cached or 0):
        prompt += written
    if prompt is not None and completion is not None:
        beside = (total or 0) - prompt - completion
        both = (reasoning or 0) + (cached or 0)
        if reasoning and (reasoning > completion or beside in (reasoning, both)):
            completion += reasoning
            beside -= reasoning
        if cached and (cached > prompt or beside == cached):
            # As Anthropic counts, the prompt is without what was written, too.
            written_too = written if written and cached > prompt and beside != cached else 0
            prompt += cached + written_too
            beside -= cached + written_too
        if written and (written > prompt - (cached or 0) or beside == written):
            prompt += written
            beside -= written
        unnamed = max(0, beside) if prompt else 0
    if written is not None and long is not None:
        long = min(long, written)
        written -= long
    return Claim(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        reasoning_tokens=reasoning,
        cache_write_tokens=written,
        long_cache_write_tokens=long,
        unnamed_tokens=unnamed,
    )


def _first(*counts: int | None) -> int | None:
    """The largest of the counts, which are one count under several names; None: none is known."""
    found: int | None = None
    for count in counts:
        if count is not None:
            found = larger(found, count)
    return found


def _continues(usage: wire.Usage, last: wire.Usage) -> bool:
    """Whether counts are at least those before them, with all of their parts."""
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    return (
        prompt is not None
        and completion is not None
        and prompt >= (last.prompt_tokens or 0)
        and completion >= (last.completion_tokens or 0)
        and (last.prompt_tokens_details is None)
        and (last.completion_tokens_details is None)
        and last.cached_tokens is None
        and last.prompt_cache_hit_tokens is None
        and last.input_tokens is None
    )


def _largest(all_of: Iterable[wire.Usage]) -> wire.Usage:
    """The largest of each count, and of each count of the details."""
    found = wire.Usage()
    for usage in all_of:
        _raise_to(found, usage)
    return found


def _raise_to(found: wire.Usage, usage: wire.Usage) -> None:
    for name in wire.Usage.__struct_fields__:
        value = getattr(usage, name)
        if isinstance(value, int):
            setattr(found, name, larger(getattr(found, name), value))
        elif value is not None:
            details = getattr(found, name) or type(value)()
            _raise_details(details, value)
            setattr(found, name, details)


def _raise_details(found: object, value: object) -> None:
    for name in getattr(value, "__struct_fields__", ()):
        given = getattr(value, name)
        if isinstance(given, int):
            setattr(found, name, larger(getattr(found, name), given))
        elif given is not None:
            setattr(found, name, given)
