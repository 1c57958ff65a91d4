"""Estimates prompt tokens from bytes, with a ratio per model and tenant learnt from usage."""

from __future__ import annotations

from collections import OrderedDict

from gateway.domain.generation import Chat, Generation, Image, Prompt
from gateway.domain.pooling import PoolingInput, input_texts, input_token_ids
from gateway.domain.text_size import utf8_bytes

FIRST_BYTES_PER_TOKEN = 4.0
"""Initial ratio, typical of English text. Reported usage corrects it."""
RATIO_WEIGHT = 0.05
"""Weight of a new ratio in the running mean."""
IMAGE_TOKENS = 1024
"""Assumed tokens per image, the order of magnitude of open vision models."""
TOKENS_PER_MESSAGE = 4
"""Tokens that a chat template adds to each message."""


MOST_TENANTS = 4096
"""Bound of the ratios of tenants, each of one model; the one not learnt for longest is dropped."""


class PromptSizes:
    """Estimates prompt tokens per model and tenant, and learns from the usage that engines report.

    Each tenant has a ratio of its own, so that nobody's texts change the estimates of others. A
    tenant without one takes that of the model.
    """

    def __init__(self) -> None:
        self._of_model: dict[str, float] = {}
        self._of_tenant: OrderedDict[tuple[str, str], tuple[float, int]] = OrderedDict()
        """Ratio, and number of requests that it was learnt from, by model and tenant."""

    def estimate(self, generation: Generation, tenant: str) -> int:
        """Returns the estimated prompt tokens. The number is exact for a prompt of token ids."""
        if isinstance(generation.input, tuple):
            return len(generation.input)
        size_bytes, extra_tokens = _prompt_size(generation.input)
        ratio, _ = self._ratio(generation.model, tenant)
        return max(1, round(size_bytes / ratio) + extra_tokens)

    def learn(self, generation: Generation, tenant: str, prompt_tokens: int) -> None:
        """Updates the ratios with the prompt tokens that the engine reported."""
        if isinstance(generation.input, tuple):
            return
        size_bytes, extra_tokens = _prompt_size(generation.input)
        if prompt_tokens <= extra_tokens or size_bytes < 64:
            return  # mostly template tokens, so the ratio is meaningless
        seen = min(16.0, max(0.5, size_bytes / (prompt_tokens - extra_tokens)))
        model = generation.model
        ratio, learnt = self._ratio(model, tenant)
        weight = max(RATIO_WEIGHT, 1.0 / (learnt + 1))
        self._of_tenant[model, tenant] = (ratio + weight * (seen - ratio), learnt + 1)
        self._of_tenant.move_to_end((model, tenant))
        if len(self._of_tenant) > MOST_TENANTS:
            self._of_tenant.popitem(last=False)
        ratio = self._of_model.get(model, FIRST_BYTES_PER_TOKEN)
        self._of_model[model] = ratio + RATIO_WEIGHT * (seen - ratio)

    def _ratio(self, model: str, tenant: str) -> tuple[float, int]:
        """Bytes per token, and the number of requests of the tenant that it was learnt from."""
        own = self._of_tenant.get((model, tenant))
        return own or (self._of_model.get(model, FIRST_BYTES_PER_TOKEN), 0)


def _prompt_size(generation_input: Prompt | PoolingInput) -> tuple[int, int]:
    """Returns the bytes of text, and the tokens of everything else."""
    if isinstance(generation_input, str):
        return utf8_bytes(generation_input), 0
    if isinstance(generation_input, tuple):
        return 0, len(generation_input)
    if not isinstance(generation_input, Chat):
        texts = input_texts(generation_input)
        return sum(map(utf8_bytes, texts)), input_token_ids(generation_input)
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
