"""Upper bound of the tokens of a prompt, from its bytes."""

from __future__ import annotations

from gateway.domain.generation import Chat, Generation, Image
from gateway.domain.pooling import PoolingInput, input_texts, input_token_ids
from gateway.domain.text_size import utf8_bytes

TEMPLATE_TOKENS = 256
"""Upper bound of the tokens that a chat template adds once. The longest templates add a date and a
list of channels."""
MESSAGE_TOKENS = 16
TOOL_TOKENS = 64
"""Upper bounds of the tokens that a template adds to each message, and to each tool besides its
texts."""
IMAGE_BOUND_TOKENS = 4096
"""Upper bound of the tokens per image for most open vision models."""


def prompt_token_bound(generation: Generation) -> int:
    """Returns an upper bound of the prompt tokens. A token of a byte-level vocabulary has at least
    one byte."""
    prompt = generation.input
    if isinstance(prompt, tuple):
        return len(prompt)
    if isinstance(prompt, str):
        return utf8_bytes(prompt) + MESSAGE_TOKENS
    if isinstance(prompt, Chat):
        return TEMPLATE_TOKENS + _chat_bound(prompt)
    return _pooling_bound(prompt)


def _pooling_bound(pooling: PoolingInput) -> int:
    """Truncation is ignored: a cut input is read as a whole by some servers."""
    bytes_bound = sum(utf8_bytes(text) + MESSAGE_TOKENS for text in input_texts(pooling))
    return bytes_bound + input_token_ids(pooling)


def _chat_bound(chat: Chat) -> int:
    tokens = utf8_bytes(chat.template_kwargs_json)
    for tool in chat.tools:
        texts = (tool.name, tool.description, tool.parameters_json_schema)
        tokens += TOOL_TOKENS + sum(utf8_bytes(text) for text in texts)
    if chat.json_schema is not None:
        tokens += TOOL_TOKENS + utf8_bytes(chat.json_schema.schema_json)
    for message in chat.messages:
        tokens += MESSAGE_TOKENS + utf8_bytes(message.name) + utf8_bytes(message.reasoning_text)
        tokens += sum(len(each.data) for each in message.signatures)
        for call in message.tool_calls:
            tokens += MESSAGE_TOKENS + utf8_bytes(call.name) + utf8_bytes(call.arguments_json)
            tokens += sum(len(each.data) for each in call.signatures)
        for part in message.parts:
            tokens += IMAGE_BOUND_TOKENS if isinstance(part, Image) else utf8_bytes(part)
    return tokens
