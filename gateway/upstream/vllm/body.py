"""A generation as the JSON body of a request to vLLM: OpenAI's shape, and what vLLM adds to it.

vLLM can do everything that the gateway's API offers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.config.remote import (
    Feature,
    HistoryConfig,
    ReasoningField,
    ReasoningRequest,
    ReasoningTurns,
)
from gateway.domain.generation import Chat, Generation
from gateway.domain.slices import Steps
from gateway.upstream.json_body import encoded
from gateway.upstream.openai.body import BodyOptions, body_fields, chat_fields

VLLM_OPTIONS = BodyOptions(
    features=frozenset(Feature),
    history=HistoryConfig(
        reasoning_field=ReasoningField.REASONING, reasoning_turns=ReasoningTurns.KNOWN
    ),
    reasoning_request=ReasoningRequest.CHAT_TEMPLATE,
)
"""vLLM 0.32 deprecates `reasoning_content`."""
_NO_FIELDS: Mapping[str, Any] = {}


def vllm_body(
    generation: Generation,
    upstream_model: str,
    tokens_per_chunk: int = 1,
    extra: Mapping[str, Any] = _NO_FIELDS,
) -> Steps[bytes]:
    """Body for `generation_path`: a stream whose events carry the usage so far.

    `tokens_per_chunk`: vLLM is asked to put so many tokens into a chunk, after the first one.
    `extra`: fields that every body gets, unless the request sets them.
    """
    options = replace(VLLM_OPTIONS, extra=extra) if extra else VLLM_OPTIONS
    body = yield from body_fields(generation, upstream_model, options)
    body["stream_options"]["continuous_usage_stats"] = True
    if generation.continues:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    hints = generation.hints
    if hints.cache_salt:
        body["cache_salt"] = hints.cache_salt
    if hints.priority:
        body["priority"] = hints.priority
    if tokens_per_chunk > 1:
        body["stream_interval"] = tokens_per_chunk
    return (yield from encoded(body, generation))


def tokenize_body(
    generation: Generation, upstream_model: str, extra: Mapping[str, Any] = _NO_FIELDS
) -> Steps[bytes]:
    """Body for /tokenize. Raises ValueError for a prompt of token ids, which needs no counting."""
    body: dict[str, Any] = {"model": upstream_model}
    match generation.input:
        case Chat() as chat:
            body |= yield from chat_fields(chat, replace(VLLM_OPTIONS, extra=extra))
        case str(prompt):
            body["prompt"] = prompt
        case _:
            raise ValueError("token ids need no counting")
    return (yield from encoded(body, generation))
