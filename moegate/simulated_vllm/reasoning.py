"""Reasoning as vLLM 0.32 tells it with `--reasoning-parser=qwen3` (tests/golden/vllm_0_32).

The template opens the answer with `<think>` and a line break. What the model generates up to
`</think>` is reasoning, and a form of the answer or a tool call binds only what follows. Without
thinking the template closes the tag itself.
"""

from __future__ import annotations

from typing import Any

from moegate.simulated_vllm.config import SimulatedVllmConfig
from moegate.simulated_vllm.failures import bad_value
from moegate.simulated_vllm.wire import GenerationBody
from simulation.output import Output, token_text
from simulation.tokenizer import THINK_END_ID, THINK_START_ID
from simulation.tokenizer import encode as token_ids

OPENING_IDS = (THINK_START_ID, *token_ids("\n"))
"""The prompt's end where the model thinks."""
CLOSED_IDS = (*OPENING_IDS, *token_ids("\n"), THINK_END_ID, *token_ids("\n\n"))
"""The prompt's end where it does not."""
UNLIMITED = -1
_NO_REASONING_PARSER = (
    "thinking_token_budget is set but reasoning_config is not configured. Please set"
    " --reasoning-parser and/or --reasoning-config to use thinking_token_budget."
)
_BAD_BUDGET = "`thinking_token_budget` must be a non-negative integer or -1 for unlimited."


def is_thinking(template_kwargs: dict[str, Any] | None, effort: str | None = None) -> bool:
    """Whether the template lets the model think. An effort switches it, unless the variable is
    set."""
    switch = (template_kwargs or {}).get("enable_thinking")
    return bool(switch) if switch is not None else effort != "none"


def answer_opening(config: SimulatedVllmConfig, *, thinking: bool) -> tuple[int, ...]:
    """Tokens that the template adds behind the role of the answer."""
    if config.reasoning_parser is None:
        return ()
    return OPENING_IDS if thinking else CLOSED_IDS


def most_reasoning_tokens(
    body: GenerationBody, config: SimulatedVllmConfig, max_tokens: int, is_chat: bool
) -> int | None:
    """Bound on the tokens of reasoning; None: there is no reasoning. Raises Refused.

    The line break behind the opening tag counts among those of the budget.
    """
    budget = body.thinking_token_budget
    if budget is not None:
        if budget < UNLIMITED:
            raise bad_value("thinking_token_budget", _BAD_BUDGET, budget)
        if config.reasoning_parser is None:
            raise bad_value(None, _NO_REASONING_PARSER)
    if config.reasoning_parser is None or not is_chat:
        return None
    if not is_thinking(body.chat_template_kwargs, body.reasoning_effort):
        return None
    if budget is None or budget == UNLIMITED:
        return max_tokens
    return min(max_tokens, max(0, budget - len(OPENING_IDS) + 1))


class ReasoningSplit:
    """Divides the text of one choice, as it grows, into reasoning and answer."""

    def __init__(self, output: Output) -> None:
        tokens = min(output.reasoning_tokens or 0, output.tokens)
        self._left_chars = sum(len(token_text(output, i)) for i in range(tokens))

    def advance(self, new_text: str) -> tuple[str, str]:
        """Returns the reasoning and the answer of the new text."""
        reasoning = new_text[: self._left_chars]
        self._left_chars -= len(reasoning)
        return reasoning, new_text[len(reasoning) :]
