"""Estimates of token counts that an upstream does not report, and the bound of plausible counts."""

from __future__ import annotations

from gateway.domain.generation import Chat, Generation
from gateway.domain.pooling import PoolingInput, input_texts, input_token_ids
from gateway.domain.text_size import utf8_bytes

BYTES_PER_TOKEN = 4
"""Bytes of one token of English text, roughly; other languages and code have fewer."""
MAX_TOKENS = 1 << 40
"""Larger counts are absurd, and would overflow the fields that carry them."""


def estimated_tokens(size_bytes: int) -> int:
    """Tokens of a text of this size, from its bytes: an estimate, at least 1."""
    return max(1, -(-size_bytes // BYTES_PER_TOKEN))


def estimated_prompt_tokens(generation: Generation) -> int:
    """Tokens of the input: exact for token ids, else bytes / 4. Pictures count nothing."""
    match generation.input:
        case str(prompt):
            return estimated_tokens(utf8_bytes(prompt))
        case Chat() as chat:
            return estimated_tokens(_text_bytes(chat))
        case tuple() as token_ids:
            return len(token_ids)
        case pooling:
            return _pooling_tokens(pooling)


def _pooling_tokens(pooling: PoolingInput) -> int:
    size_bytes = sum(map(utf8_bytes, input_texts(pooling)))
    return input_token_ids(pooling) or estimated_tokens(size_bytes)


def _text_bytes(chat: Chat) -> int:
    texts = [part for message in chat.messages for part in message.parts if isinstance(part, str)]
    for message in chat.messages:
        texts.append(message.reasoning_text)
        texts += [call.name + call.arguments_json for call in message.tool_calls]
    texts += [tool.name + tool.description + tool.parameters_json_schema for tool in chat.tools]
    return sum(utf8_bytes(text) for text in texts)
