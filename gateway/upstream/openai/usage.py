"""Token counts of OpenAI-shaped servers as `Usage`, normalised across servers."""

from __future__ import annotations

from gateway.upstream.openai import wire
from gateway.upstream.token_estimate import MAX_TOKENS
from scheduler.contract import Usage


def normalised(usage: wire.Usage) -> Usage | None:
    """The counts with cached tokens included in the prompt and reasoning included in the output.

    Most servers count like that. Those that count either beside give themselves away by a
    `total_tokens` that is larger by just as much (xAI's reasoning tokens do that), or by more
    cached tokens than prompt. None: a count is missing or absurd.
    """
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if prompt is None or completion is None:
        return None
    cached = usage.cached_tokens
    if cached is None:
        cached = usage.prompt_cache_hit_tokens
    if usage.prompt_tokens_details is not None:
        details = usage.prompt_tokens_details.cached_tokens
        cached = cached if details is None else details
    reasoning = None
    if usage.completion_tokens_details is not None:
        reasoning = usage.completion_tokens_details.reasoning_tokens
    if not all(
        0 <= count <= MAX_TOKENS for count in (prompt, completion, cached, reasoning) if count
    ):
        return None
    beside = (usage.total_tokens or 0) - prompt - completion
    if cached and (cached > prompt or beside in (cached, cached + (reasoning or 0))):
        prompt += cached
        beside -= cached
    if reasoning and (reasoning > completion or beside == reasoning):
        completion += reasoning
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        reasoning_tokens=reasoning,
    )
