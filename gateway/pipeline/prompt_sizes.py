"""Estimates prompt tokens from bytes, with a ratio per model learnt from reported usage."""

from __future__ import annotations

from gateway.domain.generation import Chat, Generation, Image
from gateway.domain.text_size import utf8_bytes

FIRST_BYTES_PER_TOKEN = 4.0
"""Initial ratio, typical of English text. Reported usage corrects it."""
RATIO_WEIGHT = 0.05
"""Weight of a new ratio in the running mean."""
IMAGE_TOKENS = 1024
"""Assumed tokens per image, the order of magnitude of open vision models."""
TOKENS_PER_MESSAGE = 4
"""Tokens that a chat template adds to each message."""


class PromptSizes:
    """Estimates prompt tokens per model, and learns from the usage that engines report."""

    def __init__(self) -> None:
        self._bytes_per_token: dict[str, float] = {}

    def estimate(self, generation: Generation) -> int:
        """Returns the estimated prompt tokens. The number is exact for a prompt of token ids."""
        if isinstance(generation.input, tuple):
            return len(generation.input)
        size_bytes, extra_tokens = _prompt_size(generation.input)
        ratio = self._bytes_per_token.get(generation.model, FIRST_BYTES_PER_TOKEN)
        return max(1, round(size_bytes / ratio) + extra_tokens)

    def learn(self, generation: Generation, prompt_tokens: int) -> None:
        """Updates the model's ratio with the prompt tokens that the engine reported."""
        if isinstance(generation.input, tuple):
            return
        size_bytes, extra_tokens = _prompt_size(generation.input)
        if prompt_tokens <= extra_tokens or size_bytes < 64:
            return  # mostly template tokens, so the ratio is meaningless
        seen = min(16.0, max(0.5, size_bytes / (prompt_tokens - extra_tokens)))
        ratio = self._bytes_per_token.get(generation.model, FIRST_BYTES_PER_TOKEN)
        self._bytes_per_token[generation.model] = ratio + RATIO_WEIGHT * (seen - ratio)


def _prompt_size(generation_input: Chat | str | tuple[int, ...]) -> tuple[int, int]:
    """Returns the bytes of text, and the tokens of everything else."""
    if isinstance(generation_input, str):
        return utf8_bytes(generation_input), 0
    if isinstance(generation_input, tuple):
        return 0, len(generation_input)
    size_bytes = sum(
        len(tool.parameters_json_schema) + len(tool.description) for tool in generation_input.tools
    )
    extra_tokens = 0
    for message in generation_input.messages:
        extra_tokens += TOKENS_PER_MESSAGE
        size_bytes += sum(len(call.arguments_json) for call in message.tool_calls)
        for part in message.parts:
            if isinstance(part, Image):
                extra_tokens += IMAGE_TOKENS
            else:
                size_bytes += utf8_bytes(part)
    return size_bytes, extra_tokens
