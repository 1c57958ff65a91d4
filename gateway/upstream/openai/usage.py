"""Accounts of tokens as one kind of `Usage`, whatever a server includes in which number."""

from __future__ import annotations

from gateway.domain.generation import Chat, Generation
from gateway.upstream.openai import wire
from scheduler.contract import Usage

BYTES_PER_TOKEN = 4
"""Of English text, roughly; other languages and code have fewer."""
MAX_TOKENS = 1 << 40
"""Larger counts are nonsense, and would not fit where they go."""


def normalised(usage: wire.Usage) -> Usage | None:
    """The account with cached tokens inside the prompt's and reasoning inside the output's.

    Most servers count like that. Those that count either beside give themselves away by a
    `total_tokens` that is larger by just as much (xAI's reasoning tokens do that), or by more
    cached tokens than prompt. None: a count is missing or absurd, so it is no account.
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


def estimated_tokens(size_bytes: int) -> int:
    """Tokens of a text of this size, from its bytes: an estimate, at least 1."""
    return max(1, -(-size_bytes // BYTES_PER_TOKEN))


def estimated_prompt_tokens(generation: Generation) -> int:
    """Tokens of the input: exact for token ids, else bytes / 4. Pictures count nothing."""
    match generation.input:
        case str(prompt):
            return estimated_tokens(len(prompt.encode()))
        case Chat() as chat:
            return estimated_tokens(_text_bytes(chat))
        case token_ids:
            return len(token_ids)


def _text_bytes(chat: Chat) -> int:
    texts = [part for message in chat.messages for part in message.parts if isinstance(part, str)]
    for message in chat.messages:
        texts.append(message.reasoning_text)
        texts += [call.name + call.arguments_json for call in message.tool_calls]
    texts += [tool.name + tool.description + tool.parameters_json_schema for tool in chat.tools]
    return sum(len(text.encode()) for text in texts)
