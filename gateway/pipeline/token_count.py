"""Prompt token counts: exact from a replica's tokenizer, or an upper bound from the bytes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import Chat, Generation, Image
from scheduler.contract import PlacementKind
from scheduler.fleet_view import FleetView

log = logging.getLogger(__name__)

TEMPLATE_TOKENS = 256
"""Upper bound of the tokens that a chat template adds once. The longest templates add a date and a
list of channels."""
MESSAGE_TOKENS = 16
TOOL_TOKENS = 64
"""Upper bounds of the tokens that a template adds to each message, and to each tool besides its
texts."""
IMAGE_BOUND_TOKENS = 4096
"""Upper bound of the tokens per image for most open vision models."""


@runtime_checkable
class Counter(Protocol):
    """An upstream client that can count prompt tokens."""

    async def count_tokens(self, generation: Generation) -> tuple[int, object]:
        """Returns the count first. Raises UpstreamFailure."""


async def exact_prompt_tokens(
    fleet: FleetView, counters: Mapping[str, object], generation: Generation
) -> int | None:
    """Asks the serving self-hosted replicas in order, and returns the first count; None: no replica
    could count.

    `counters`: upstream client per placement. Raises UpstreamFailure if a replica rejects the
    request itself.
    """
    for placement in fleet.of_model(generation.model):
        client = counters.get(placement.name)
        if placement.kind is not PlacementKind.SELF_HOSTED or not placement.serving:
            continue
        if isinstance(client, Counter):
            try:
                tokens, _ = await client.count_tokens(generation)
            except UpstreamFailure as failure:
                if not failure.retryable:
                    raise
                log.warning("%s cannot count tokens: %s", placement.name, failure)
            else:
                return tokens
    return None


def prompt_token_bound(generation: Generation) -> int:
    """Returns an upper bound of the prompt tokens. A token of a byte-level vocabulary has at least
    one byte."""
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
