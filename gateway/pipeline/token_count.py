"""How many tokens a prompt has: counted by a replica's own tokenizer, or bounded from its bytes."""

from __future__ import annotations

import logging

from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Chat, Generation, Image
from gateway.runtime.assembly import Runtime
from gateway.upstream.vllm.server import VllmServer
from scheduler.contract import PlacementKind

log = logging.getLogger(__name__)

TEMPLATE_TOKENS = 256
"""More than a chat template adds to a conversation; the longest ones tell date and channels."""
MESSAGE_TOKENS = 16
TOOL_TOKENS = 64
"""More than a template adds to each message, and to each tool beside its texts."""
IMAGE_BOUND_TOKENS = 4096
"""More than most open vision models make of a picture."""


async def exact_prompt_tokens(runtime: Runtime, generation: Generation) -> int | None:
    """Counts at the first replica in service that answers; None: there is none.

    Raises UpstreamFailure where the replica finds the request itself at fault.
    """
    for state in runtime.scheduler.placements:
        facts = state.facts
        if facts.model != generation.model or facts.kind is not PlacementKind.LOCAL:
            continue
        engine = runtime.backends.get(facts.name)
        if state.serving and isinstance(engine, VllmServer):
            try:
                tokens, _ = await engine.count_tokens(generation)
            except UpstreamFailure as failure:
                if not failure.retryable:
                    raise
                log.warning("%s cannot count tokens: %s", facts.name, failure)
            else:
                return tokens
    return None


def prompt_token_bound(generation: Generation) -> int:
    """No fewer than the prompt has: a token of a byte-level vocabulary is at least one byte."""
    prompt = generation.input
    if isinstance(prompt, tuple):
        return len(prompt)
    if isinstance(prompt, str):
        return len(prompt.encode()) + MESSAGE_TOKENS
    return TEMPLATE_TOKENS + _chat_bound(prompt)


def _chat_bound(chat: Chat) -> int:
    tokens = 0
    for tool in chat.tools:
        texts = (tool.name, tool.description, tool.parameters_json_schema)
        tokens += TOOL_TOKENS + sum(len(text.encode()) for text in texts)
    if chat.json_schema is not None:
        tokens += TOOL_TOKENS + len(chat.json_schema.schema_json.encode())
    for message in chat.messages:
        tokens += MESSAGE_TOKENS + len(message.name.encode()) + len(message.reasoning_text.encode())
        for call in message.tool_calls:
            tokens += MESSAGE_TOKENS + len(call.name.encode()) + len(call.arguments_json.encode())
        for part in message.parts:
            tokens += IMAGE_BOUND_TOKENS if isinstance(part, Image) else len(part.encode())
    return tokens
