"""Reasoning and single tool calls in the Messages API."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from gateway.config.remote import Feature
from gateway.domain.generation import (
    Chat,
    Generation,
    Message,
    NamedTool,
    Reasoning,
    ReasoningEffort,
    Role,
    Sampling,
    Tool,
    ToolCall,
    ToolMode,
)
from gateway.domain.slices import finish
from gateway.upstream.anthropic.body import (
    ANTHROPIC_FEATURES,
    REFUSED_TOGETHER,
    messages_body,
    plain,
    unsupported_fields,
)
from gateway.upstream.features import capabilities
from tests.gateway.upstream.anthropic.test_anthropic import USER, body, generation

TOOL = Tool(name="look", description="", parameters_json_schema="{}")
CALL = ToolCall(index=0, id="a", name="look", arguments_json="{}")
FOREIGN = Message(role=Role.ASSISTANT, parts=(), tool_calls=(CALL,))
RESULT = Message(role=Role.TOOL, parts=("1",), tool_call_id="a")
CAN = capabilities(ANTHROPIC_FEATURES, together=REFUSED_TOGETHER)


def asked(reasoning: Reasoning, **fields: Any) -> Generation:
    chat = Chat(messages=fields.pop("messages", (USER,)), reasoning=reasoning)
    chat = replace(chat, **{k: fields.pop(k) for k in ("tools", "tool_choice") if k in fields})
    return replace(generation(chat), **{"max_output_tokens": 4096, **fields})


def refused(made: Generation) -> set[str]:
    made = plain(made)
    return {*CAN.unsupported(made), *unsupported_fields(made, ANTHROPIC_FEATURES)}


@pytest.mark.parametrize(
    ("reasoning", "thinking", "config"),
    [
        (Reasoning(budget_tokens=2000), {"type": "enabled", "budget_tokens": 2000}, None),
        (Reasoning(thinking=True), {"type": "adaptive"}, None),
        (Reasoning(thinking=False), {"type": "disabled"}, None),
        (Reasoning(effort=ReasoningEffort.LOW), None, {"effort": "low"}),
        (Reasoning(effort=ReasoningEffort.XHIGH), None, {"effort": "xhigh"}),
        (Reasoning(effort=ReasoningEffort.MAX), None, {"effort": "max"}),
        (
            Reasoning(effort=ReasoningEffort.HIGH, thinking=True),
            {"type": "adaptive"},
            {"effort": "high"},
        ),
    ],
)
def test_how_to_think(
    reasoning: Reasoning, thinking: dict[str, Any] | None, config: dict[str, str] | None
) -> None:
    made = body(asked(reasoning))
    assert (made.get("thinking"), made.get("output_config")) == (thinking, config)


def adaptive(**fields: Any) -> Generation:
    """A request that leaves it to the model whether it thinks."""
    tools = {k: fields.pop(k) for k in ("tools", "tool_choice", "reasoning") if k in fields}
    return replace(generation(Chat(messages=(USER,), adaptive_thinking=True, **tools)), **fields)


@pytest.mark.parametrize(
    ("made", "thinking"),
    [
        (adaptive(), {"type": "adaptive"}),
        (adaptive(reasoning=Reasoning(effort=ReasoningEffort.LOW)), {"type": "adaptive"}),
        (adaptive(sampling=Sampling(temperature=1.0, top_p=0.95)), {"type": "adaptive"}),
        (adaptive(tools=(TOOL,), tool_choice=ToolMode.AUTO), {"type": "adaptive"}),
        # A permission is given up for what was asked.
        (adaptive(sampling=Sampling(temperature=0.5)), None),
        (adaptive(sampling=Sampling(top_k=5)), None),
        (adaptive(sampling=Sampling(top_p=0.9)), None),
        (adaptive(tools=(TOOL,), tool_choice=ToolMode.REQUIRED), None),
    ],
)
def test_a_model_that_may_think(made: Generation, thinking: dict[str, str] | None) -> None:
    assert not refused(made)
    assert body(made).get("thinking") == thinking


def test_a_model_that_cannot_think_is_not_asked_to() -> None:
    features = ANTHROPIC_FEATURES - {Feature.THINKING}
    made = finish(messages_body(adaptive(), "m", features, {}))
    assert "thinking" not in msgspec.json.decode(made)


def test_the_configuration_goes_before_a_permission() -> None:
    extra = {"thinking": msgspec.Raw(b'{"type": "disabled"}')}
    assert body(adaptive(), extra)["thinking"] == {"type": "disabled"}


def test_the_request_goes_before_the_configuration() -> None:
    extra = {"thinking": msgspec.Raw(b'{"type": "enabled", "budget_tokens": 1024}')}
    assert body(asked(Reasoning(thinking=False)), extra)["thinking"] == {"type": "disabled"}


@pytest.mark.parametrize(
    ("made", "fields"),
    [
        (asked(Reasoning(effort=ReasoningEffort.MINIMAL)), {"chat.reasoning.effort"}),
        (asked(Reasoning(budget_tokens=1023)), {"chat.reasoning.budget_tokens"}),
        (
            asked(Reasoning(budget_tokens=2000), max_output_tokens=2000),
            {"chat.reasoning.budget_tokens"},
        ),
        (
            asked(Reasoning(budget_tokens=2000), messages=(USER, FOREIGN, RESULT), tools=(TOOL,)),
            {"chat.reasoning.budget_tokens"},
        ),
        (
            asked(Reasoning(thinking=True), sampling=Sampling(temperature=0.5)),
            {"sampling.temperature+chat.reasoning.thinking"},
        ),
        (
            asked(Reasoning(thinking=True), sampling=Sampling(top_k=5)),
            {"chat.reasoning.thinking+sampling.top_k"},
        ),
        (
            asked(Reasoning(thinking=True), tools=(TOOL,), tool_choice=NamedTool(name="look")),
            {"chat.reasoning.thinking+chat.tool_choice.function_name"},
        ),
        (
            asked(Reasoning(thinking=True), tools=(TOOL,), tool_choice=ToolMode.REQUIRED),
            {"chat.reasoning.thinking+chat.tool_choice.mode"},
        ),
        (asked(Reasoning(thinking=True), sampling=Sampling(top_p=0.94)), {"sampling.top_p"}),
        (
            asked(Reasoning(budget_tokens=2000), sampling=Sampling(top_p=0.5)),
            {"sampling.top_p"},
        ),
        (asked(Reasoning(thinking=True), sampling=Sampling(top_p=0.95)), set()),
        (asked(Reasoning(thinking=False), sampling=Sampling(top_p=0.5)), set()),
        (asked(Reasoning(thinking=True), sampling=Sampling(temperature=1.0)), set()),
        (asked(Reasoning(thinking=False), sampling=Sampling(temperature=0.5)), set()),
        (asked(Reasoning(thinking=True), messages=(USER, FOREIGN, RESULT), tools=(TOOL,)), set()),
    ],
)
def test_what_the_api_refuses_with_it(made: Generation, fields: set[str]) -> None:
    assert refused(made) == fields


@pytest.mark.parametrize(
    ("choice", "parallel", "wire"),
    [
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolMode.REQUIRED, False, {"type": "any", "disable_parallel_tool_use": True}),
        (ToolMode.AUTO, True, {"type": "auto", "disable_parallel_tool_use": False}),
        (ToolMode.NONE, False, {"type": "none"}),
    ],
)
def test_one_tool_call(choice: ToolMode | None, parallel: bool, wire: dict[str, Any]) -> None:
    chat = Chat(messages=(USER,), tools=(TOOL,), tool_choice=choice, parallel_tool_calls=parallel)
    assert body(generation(chat))["tool_choice"] == wire
