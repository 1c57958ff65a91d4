"""Which features a generation needs, and which field of the API asks for each.

Not every server has all of them; each dialect says which ones it has by default.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.remote import Feature
from gateway.domain.generation import Chat, Generation, Image


def unsupported(generation: Generation, features: frozenset[Feature]) -> tuple[str, ...]:
    """Fields of GenerateRequest that are set and need a feature that is not among `features`."""
    return tuple(field for feature, field in _used(generation) if feature not in features)


def _used(generation: Generation) -> Iterator[tuple[Feature, str]]:
    sampling = generation.sampling
    if sampling.top_k is not None:
        yield Feature.TOP_K, "sampling.top_k"
    if sampling.min_p is not None:
        yield Feature.MIN_P, "sampling.min_p"
    if sampling.repetition_penalty is not None:
        yield Feature.REPETITION_PENALTY, "sampling.repetition_penalty"
    if sampling.presence_penalty is not None:
        yield Feature.PENALTIES, "sampling.presence_penalty"
    if sampling.frequency_penalty is not None:
        yield Feature.PENALTIES, "sampling.frequency_penalty"
    if sampling.seed is not None:
        yield Feature.SEED, "sampling.seed"
    if generation.ignore_eos:
        yield Feature.IGNORE_EOS, "ignore_eos"
    if generation.choices > 1:
        yield Feature.CHOICES, "choices"
    if generation.logprobs is not None:
        yield Feature.LOGPROBS, "logprobs"
    if generation.stop:
        yield Feature.STOP, "stop"
    if generation.continues:
        yield Feature.CONTINUATION, "chat.messages"
    match generation.input:
        case Chat() as chat:
            yield from _used_by_chat(chat)
        case str():
            yield Feature.PROMPT, "prompt"
        case _:
            yield Feature.PROMPT_TOKENS, "prompt_tokens"


def _used_by_chat(chat: Chat) -> Iterator[tuple[Feature, str]]:
    if chat.tools:
        yield Feature.TOOLS, "chat.tools"
    if chat.json_object:
        yield Feature.JSON_OBJECT, "chat.response_format.json_object"
    if chat.json_schema is not None:
        yield Feature.JSON_SCHEMA, "chat.response_format.json_schema"
    for i, message in enumerate(chat.messages):
        path = f"chat.messages[{i}]"
        if message.name:
            yield Feature.NAMES, f"{path}.name"
        if message.tool_calls or message.tool_call_id:
            yield Feature.TOOLS, f"{path}.tool_calls" if message.tool_calls else path
        if any(isinstance(part, Image) for part in message.parts):
            yield Feature.IMAGES, f"{path}.parts"
