"""Prompts as token ids: a ChatML-like template over messages, or the prompt of /v1/completions.

The text of an earlier answer is tokenized into the same tokens that were generated, so that the
next turn of a conversation finds them in the prefix cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from moegate.simulated_vllm.failures import bad_value
from moegate.simulated_vllm.wire import Message, encode
from simulation.tokenizer import (
    MESSAGE_END_ID,
    MESSAGE_START_ID,
    THINK_END_ID,
    THINK_START_ID,
    VOCABULARY_TOKENS,
)
from simulation.tokenizer import encode as token_ids

_NEWLINE = token_ids("\n")
THINKING_IDS = (THINK_START_ID, *_NEWLINE)
"""The prompt's end where the model thinks: the template opens the answer like that of Qwen3.5."""
NOT_THINKING_IDS = (*THINKING_IDS, *_NEWLINE, THINK_END_ID, *token_ids("\n\n"))
"""The prompt's end where it does not."""


def chat_prompt(
    messages: Sequence[Message],
    tools: Sequence[Any] | None,
    *,
    generation_prompt: bool = True,
    opening: Sequence[int] = (),
) -> list[int]:
    """Token ids of a chat. Tools become text of a system message, images a short marker.

    `opening`: tokens behind the role of the answer. They also stand before the reasoning of earlier
    turns, so that these have the tokens that were generated.
    """
    ids: list[int] = []
    if tools:
        ids += _message_ids("system", encode(tools).decode())
    for message in messages:
        ids += _message_ids(message.role, _text(message), _reasoning_ids(message, opening))
    if generation_prompt:
        ids += [MESSAGE_START_ID, *token_ids("assistant\n"), *opening]
    return ids


def is_thinking(template_kwargs: dict[str, Any] | None, effort: str | None = None) -> bool:
    """Whether the template lets the model think. An effort switches it, unless the variable is
    set."""
    switch = (template_kwargs or {}).get("enable_thinking")
    return bool(switch) if switch is not None else effort != "none"


def answer_opening(reasoning_parser: str | None, *, thinking: bool) -> tuple[int, ...]:
    """Tokens that the template adds behind the role of the answer."""
    if reasoning_parser is None:
        return ()
    return THINKING_IDS if thinking else NOT_THINKING_IDS


def completion_prompt(prompt: str | Sequence[Any]) -> list[int]:
    """Token ids of a text, of a list of ids, or of a list that holds one prompt. Raises Refused."""
    if isinstance(prompt, str):
        return token_ids(prompt)
    if prompt and isinstance(prompt[0], str | list):
        if len(prompt) > 1:
            raise bad_value("prompt", "the simulated vLLM takes one prompt a request")
        return completion_prompt(prompt[0])
    for token_id in prompt:
        if not isinstance(token_id, int):
            raise bad_value("prompt", "prompt must be a text or a list of token ids")
        if not 0 <= token_id < VOCABULARY_TOKENS:
            raise bad_value("prompt", f"Token id {token_id} is out of vocabulary")
    return list(prompt)


def _reasoning_ids(message: Message, opening: Sequence[int]) -> list[int]:
    if not message.reasoning:
        return []
    ids = token_ids(message.reasoning)
    return [*opening, *ids, THINK_END_ID] if opening else ids


def _message_ids(role: str, text: str, reasoning_ids: Sequence[int] = ()) -> list[int]:
    return [
        MESSAGE_START_ID,
        *token_ids(f"{role}\n"),
        *reasoning_ids,
        *token_ids(text),
        MESSAGE_END_ID,
        *_NEWLINE,
    ]


def _text(message: Message) -> str:
    text = ""
    match message.content:
        case str(content):
            text += content
        case list(parts):
            text += "".join(_part_text(part) for part in parts)
    if message.tool_calls:
        text += encode(message.tool_calls).decode()
    return text


def _part_text(part: Any) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        text: str = part["text"]
        return text
    return f"<|{blake2b(encode(part), digest_size=8).hexdigest()}|>"
