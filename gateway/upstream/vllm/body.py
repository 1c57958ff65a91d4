"""A generation as the JSON body of a request to vLLM: OpenAI's shape, and what vLLM adds to it.

vLLM can do everything that the gateway's API offers.
"""

from __future__ import annotations

from typing import Any

from gateway.config.remote import Feature, HistoryConfig, ReasoningField, ReasoningTurns
from gateway.domain.generation import Chat, Generation
from gateway.domain.slices import Steps
from gateway.upstream.json_body import encoded
from gateway.upstream.openai.body import BodyOptions, body_fields, chat_fields

VLLM_OPTIONS = BodyOptions(
    features=frozenset(Feature),
    history=HistoryConfig(
        reasoning_field=ReasoningField.REASONING, reasoning_turns=ReasoningTurns.KNOWN
    ),
)
"""vLLM 0.32 deprecates `reasoning_content`."""


def vllm_body(
    generation: Generation, upstream_model: str, tokens_per_chunk: int = 1
) -> Steps[bytes]:
    """Body for `generation_path`: a stream whose events carry the usage so far.

    `tokens_per_chunk`: vLLM is asked to put so many tokens into a chunk, after the first one.
    """
    body = yield from body_fields(generation, upstream_model, VLLM_OPTIONS)
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


def tokenize_body(generation: Generation, upstream_model: str) -> Steps[bytes]:
    """Body for /tokenize. Raises ValueError for a prompt of token ids, which needs no counting."""
    body: dict[str, Any] = {"model": upstream_model}
    match generation.input:
        case Chat() as chat:
            body |= yield from chat_fields(chat, VLLM_OPTIONS)
        case str(prompt):
            body["prompt"] = prompt
        case _:
            raise ValueError("token ids need no counting")
    return (yield from encoded(body, generation))
