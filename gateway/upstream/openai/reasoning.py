"""How an OpenAI-shaped API is told to reason: each kind of API has its own fields.

Where the fields and their values are documented:
- OpenAI: `reasoning_effort`, none to max by model (guide "Reasoning", types of `openai` 3.54).
- OpenRouter: `reasoning`, with an effort or `max_tokens`, not both; effort none switches it off
  (guide "Reasoning tokens").
- DeepSeek: `thinking` and `reasoning_effort`, of which it has low, high and max, and maps the
  others to these (guide "Thinking mode").
- Moonshot: `thinking` for Kimi K2.5 and K2.6; from K3 on `reasoning_effort` (low, high, max), so
  that a remote with these models needs `reasoning_request: reasoning_effort`. Its API ignores
  values that it does not know.
- Z.ai: `thinking` (guide "Thinking mode").
- vLLM 0.32: `reasoning_effort`, none to max, a variable of the chat template that also sets
  `enable_thinking`; `thinking_token_budget`; `chat_template_kwargs` (its ChatCompletionRequest).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.config.remote import Feature, ReasoningRequest
from gateway.domain.generation import Chat, Reasoning

REFUSED_REASONING: Mapping[ReasoningRequest, tuple[frozenset[Feature], ...]] = {
    **dict.fromkeys(ReasoningRequest, ()),
    ReasoningRequest.REASONING: (frozenset({Feature.REASONING_EFFORT, Feature.THINKING_BUDGET}),),
}
"""Features that the fields of each kind of API cannot say together."""


def reasoning_fields(reasoning: Reasoning, request: ReasoningRequest) -> dict[str, Any]:
    """Fields of the body. The server has the features that the reasoning needs."""
    fields: dict[str, Any] = {}
    match request:
        case ReasoningRequest.REASONING_EFFORT | ReasoningRequest.CHAT_TEMPLATE:
            if reasoning.effort is not None:
                fields["reasoning_effort"] = reasoning.effort.value
            elif reasoning.thinking is False:
                fields["reasoning_effort"] = "none"
            if reasoning.budget_tokens is not None:
                fields["thinking_token_budget"] = reasoning.budget_tokens
        case ReasoningRequest.REASONING if reasoning.thinking is False:
            fields["reasoning"] = {"effort": "none"}
        case ReasoningRequest.REASONING:
            how: dict[str, Any] = {}
            if reasoning.effort is not None:
                how["effort"] = reasoning.effort.value
            if reasoning.budget_tokens is not None:
                how["max_tokens"] = reasoning.budget_tokens
            if reasoning.thinking is not None:
                how["enabled"] = reasoning.thinking
            fields["reasoning"] = how
        case ReasoningRequest.THINKING:
            fields["thinking"] = {"type": "enabled" if reasoning.is_on else "disabled"}
        case ReasoningRequest.THINKING_EFFORT:
            if reasoning.thinking is not None:
                fields["thinking"] = {"type": "enabled" if reasoning.thinking else "disabled"}
            if reasoning.effort is not None:
                fields["reasoning_effort"] = reasoning.effort.value
    return fields


def template_variables(
    chat: Chat, request: ReasoningRequest, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Variables of the chat template. Those of the request replace those that its reasoning asks
    for, which replace those of `extra`, fields that every body gets.

    Templates call the switch `enable_thinking` (Qwen, GLM) or `thinking` (DeepSeek, Granite); vLLM
    leaves out a variable that the template does not have.
    """
    variables: dict[str, Any] = _members(extra.get("chat_template_kwargs"))
    reasoning = chat.reasoning
    if reasoning is not None and request is ReasoningRequest.CHAT_TEMPLATE:
        is_on = reasoning.is_on or reasoning.thinking
        if is_on is not None:
            variables |= {"enable_thinking": is_on, "thinking": is_on}
    if chat.template_kwargs_json:
        text = chat.template_kwargs_json.encode()
        variables |= msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    return variables


def _members(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, msgspec.Raw):
        return {}
    try:
        return dict(msgspec.json.decode(raw, type=dict[str, msgspec.Raw]))
    except msgspec.DecodeError:
        return {}  # no object: the server says what is wrong with it
