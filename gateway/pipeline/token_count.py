"""How many tokens a prompt has: counted by a replica's own tokenizer, or bounded from its bytes."""

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
"""More than a chat template adds to a conversation; the longest ones tell date and channels."""
MESSAGE_TOKENS = 16
TOOL_TOKENS = 64
"""More than a template adds to each message, and to each tool beside its texts."""
IMAGE_BOUND_TOKENS = 4096
"""More than most open vision models make of a picture."""


@runtime_checkable
class Counter(Protocol):
    """A client that can count a prompt's tokens."""

    async def count_tokens(self, generation: Generation) -> tuple[int, object]:
        """The count first. Raises UpstreamFailure."""


async def exact_prompt_tokens(
    fleet: FleetView, counters: Mapping[str, object], generation: Generation
) -> int | None:
    """Counts at the first self-hosted replica in service that answers; None: there is none.

    `counters`: client of each placement. Raises UpstreamFailure where the replica finds the request
    itself at fault.
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
