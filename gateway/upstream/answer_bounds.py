"""What an answer to a request can hold at most: tokens, and output before the gateway cuts it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import structs

from gateway.domain.generation import Chat, ChoiceDelta, Generation
from gateway.domain.pooling import EmbeddingInput, ScoringInput, input_token_ids
from gateway.domain.prompt_bound import prompt_token_bound
from gateway.upstream.token_estimate import MAX_TOKENS

UNSEEN_OUTPUT_TOKENS = 768
"""Output tokens of a choice beyond max_output_tokens that are believed: end tokens, and reasoning
that some servers count beside it. An eighth of max_output_tokens is added."""
MAX_BYTES_PER_TOKEN = 64
"""Most bytes of text that a token has on average. English has 4 to 5, the longest tokens (of
spaces and dashes) 128."""
FREE_BYTES = 2048
"""Output of a choice that is always let through."""


class AnswerBounds(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer to a request can hold at most.

    `max_output_tokens`: per choice. `prompt_token_bound`, `prompt_chars`: upper bound of the
    prompt's tokens, and its characters of text; called when they are needed. `tool_names`: of the
    request's tools.
    """

    max_output_tokens: int = MAX_TOKENS // 4
    choices: int = 1
    prompt_token_bound: Callable[[], int] = lambda: MAX_TOKENS // 4
    prompt_chars: Callable[[], int] = lambda: 0
    tool_names: frozenset[str] = frozenset()

    @property
    def output_tokens(self) -> int:
        """Most output tokens that were asked for."""
        return self.max_output_tokens * self.choices

    @property
    def believed_output_tokens(self) -> int:
        """Most output tokens that a count may claim."""
        return self.output_tokens + self.output_tokens // 8 + UNSEEN_OUTPUT_TOKENS * self.choices

    @property
    def ample_bytes(self) -> int:
        """Output of a choice up to which `is_too_much` is false."""
        return 8 * self.max_output_tokens + FREE_BYTES

    @property
    def most_bytes(self) -> int:
        """Output of a choice that is never let through whole."""
        return MAX_BYTES_PER_TOKEN * self.max_output_tokens + FREE_BYTES

    def is_too_much(self, size_bytes: int, pieces: int) -> bool:
        """Whether the output of a choice is clearly more than was asked for. `pieces`: pieces with
        content; servers cut text into tokens or smaller."""
        most = self.max_output_tokens
        if size_bytes > self.most_bytes:
            return True
        many = pieces > most + most // 4 + UNSEEN_OUTPUT_TOKENS
        return many and size_bytes > self.ample_bytes


UNBOUNDED = AnswerBounds()


def bounds_of(generation: Generation) -> AnswerBounds:
    """The bounds of the answer to a request."""
    tools = generation.input.tools if isinstance(generation.input, Chat) else ()
    return AnswerBounds(
        max_output_tokens=generation.max_output_tokens,
        choices=generation.choices,
        prompt_token_bound=lambda: prompt_token_bound(generation),
        prompt_chars=lambda: _prompt_chars(generation),
        tool_names=frozenset(tool.name for tool in tools),
    )


def shortened(delta: ChoiceDelta, excess_bytes: int) -> ChoiceDelta:
    """The delta without the last text, or the last reasoning, of this size; tool calls stay."""
    keep = max(0, len(delta.text) - excess_bytes)
    excess_bytes -= len(delta.text) - keep
    keep_reasoning = max(0, len(delta.reasoning_text) - excess_bytes)
    return structs.replace(
        delta, text=delta.text[:keep], reasoning_text=delta.reasoning_text[:keep_reasoning]
    )


def _prompt_chars(generation: Generation) -> int:
    """Characters of the texts that every template shows to the model."""
    match generation.input:
        case str(prompt):
            return len(prompt)
        case Chat() as chat:
            return sum(
                len(part)
                for message in chat.messages
                for part in message.parts
                if isinstance(part, str)
            )
        case tuple() as token_ids:
            return len(token_ids) * MAX_BYTES_PER_TOKEN // 2
        case pooling if pooling.truncate_tokens is not None:
            return 0  # what is cut may count nothing
        case ScoringInput() as scoring:
            return len(scoring.query) + sum(map(len, scoring.documents))
        case EmbeddingInput() as embedding:
            texts = sum(len(each) for each in embedding.inputs if isinstance(each, str))
            return texts + input_token_ids(embedding) * MAX_BYTES_PER_TOKEN // 2
