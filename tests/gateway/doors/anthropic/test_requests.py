"""Bodies of /v1/messages: what becomes of turns, tools and options, and which faults are told."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.generation import (
    Chat,
    Image,
    NamedTool,
    Reasoning,
    ReasoningEffort,
    Role,
    Signature,
    ToolMode,
)
from gateway.domain.slices import finish
from gateway.doors.anthropic import wire
from gateway.doors.anthropic.requests import (
    chat_of,
    sampling_of,
    session_of,
    shows_thinking,
    stops_of,
)
from gateway.doors.anthropic.thinking_signatures import signature_text

LIMITS = ElementLimitsConfig()
SIGNED = Signature(origin="abc", data=b"sealed")
WEATHER = {"name": "weather", "description": "d", "input_schema": {"type": "object"}}


def body(messages: Any = "hi", **fields: Any) -> wire.MessagesBody:
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    text = json.dumps({"model": "m", "max_tokens": 100, "messages": messages, **fields})
    return msgspec.json.decode(text, type=wire.MessagesBody)


def chat(messages: Any = "hi", **fields: Any) -> Chat:
    faults: list[tuple[str, str]] = []
    found = finish(chat_of(body(messages, **fields), LIMITS, lambda *fault: faults.append(fault)))
    assert not faults
    return found


def faults(messages: Any = "hi", **fields: Any) -> dict[str, str]:
    found: list[tuple[str, str]] = []
    parsed = body(messages, **fields)
    finish(chat_of(parsed, LIMITS, lambda *fault: found.append(fault)))
    sampling_of(parsed, lambda *fault: found.append(fault))
    stops_of(parsed.stop_sequences, lambda *fault: found.append(fault))
    return dict(found)


def turns(found: Chat) -> list[tuple[Role, tuple[str | Image, ...]]]:
    return [(message.role, message.parts) for message in found.messages]


def test_the_system_comes_first_without_the_billing_text() -> None:
    system = [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1; cch=77;"},
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}},
    ]
    assert turns(chat(system=system)) == [(Role.SYSTEM, ("Be brief.",)), (Role.USER, ("hi",))]
    assert turns(chat(system="Be."))[0] == (Role.SYSTEM, ("Be.",))


def test_a_system_turn_in_the_middle_is_the_same_as_text_or_as_blocks() -> None:
    def with_system(content: Any) -> Chat:
        return chat([{"role": "user", "content": "a"}, {"role": "system", "content": content}])

    marked = [{"type": "text", "text": "note", "cache_control": {"type": "ephemeral"}}]
    assert with_system(marked) == with_system("note")
    assert turns(with_system("note"))[1] == (Role.SYSTEM, ("note",))


def test_a_tool_round_trip() -> None:
    found = chat(
        [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": signature_text([SIGNED])},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "t1", "name": "weather", "input": {"a": 1}},
                    {"type": "tool_use", "id": "t2", "name": "weather", "input": None},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"},
                    {
                        "type": "tool_result",
                        "tool_use_id": "t2",
                        "content": [{"type": "text", "text": "no such place"}],
                        "is_error": True,
                    },
                    {"type": "text", "text": "Go on."},
                ],
            },
        ],
        tools=[WEATHER],
    )
    _, assistant, first, second, user = found.messages
    assert (assistant.reasoning_text, assistant.signatures) == ("hm", (SIGNED,))
    assert [(c.index, c.id, c.arguments_json) for c in assistant.tool_calls] == [
        (0, "t1", '{"a": 1}'),
        (1, "t2", "{}"),
    ]
    assert (first.role, first.tool_call_id, first.parts) == (Role.TOOL, "t1", ("sunny",))
    assert "".join(map(str, second.parts)) == "Error: no such place"
    assert (user.role, user.parts) == (Role.USER, ("Go on.",))


def test_thinking_after_text_belongs_to_the_call_that_follows() -> None:
    found = chat(
        [
            {"role": "user", "content": "a"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "b"},
                    {"type": "redacted_thinking", "data": signature_text([SIGNED])},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {}},
                    {"type": "thinking", "thinking": "of another provider", "signature": "EqQB"},
                ],
            },
        ]
    )
    [call] = found.messages[1].tool_calls
    assert call.signatures == (SIGNED,)
    assert found.messages[1].signatures == ()


def test_turns_of_one_role_are_joined() -> None:
    found = chat([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    assert turns(found) == [(Role.USER, ("a", "b"))]


def test_images_documents_and_search_results_are_read() -> None:
    data = base64.b64encode(b"png").decode()
    content = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
        {"type": "image", "source": {"type": "url", "url": "https://u"}},
        {
            "type": "document",
            "title": "T",
            "source": {"type": "text", "media_type": "text/plain", "data": "d"},
        },
        {
            "type": "search_result",
            "title": "S",
            "source": "https://s",
            "content": [{"type": "text", "text": "found"}],
        },
    ]
    [(_, parts)] = turns(chat([{"role": "user", "content": content}]))
    assert parts == (
        Image(data=b"png", media_type="image/png"),
        Image(url="https://u"),
        *("T\n", "d", "S\nhttps://s\nfound"),
    )


def test_what_is_unknown_is_left_out() -> None:
    content = [
        {"type": "text", "text": "a", "citations": None, "new": {"deep": [1]}},
        {"type": "web_search_tool_result", "tool_use_id": "w", "content": {"type": "error"}},
        {"type": "brand_new", "id": 5, "data": {}},
    ]
    tools = [
        WEATHER,
        {"type": "web_search_20260209", "name": "web_search", "max_uses": 5},
        {**WEATHER, "name": "late", "type": "custom", "defer_loading": True},
    ]
    found = chat(
        [{"role": "user", "content": content}],
        tools=tools,
        context_management={"edits": []},
        metadata={"user_id": "u", "new": 1},
        service_tier="auto",
        thinking={"type": "adaptive", "display": "summarized"},
        output_config={"effort": "high", "task_budget": {}},
    )
    assert turns(found) == [(Role.USER, ("a",))]
    assert [tool.name for tool in found.tools] == ["weather", "late"]
    assert json.loads(found.tools[0].parameters_json_schema) == {"type": "object", "properties": {}}
    assert found.reasoning == Reasoning(effort=ReasoningEffort.HIGH)


@pytest.mark.parametrize(
    ("choice", "mode", "parallel"),
    [
        ({"type": "auto"}, ToolMode.AUTO, None),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolMode.AUTO, False),
        ({"type": "any"}, ToolMode.REQUIRED, None),
        ({"type": "none"}, ToolMode.NONE, None),
        ({"type": "tool", "name": "weather"}, NamedTool(name="weather"), None),
    ],
)
def test_tool_choices(choice: Any, mode: Any, parallel: bool | None) -> None:
    found = chat(tools=[WEATHER], tool_choice=choice)
    assert (found.tool_choice, found.parallel_tool_calls) == (mode, parallel)


@pytest.mark.parametrize(
    ("fields", "reasoning", "shown"),
    [
        ({}, None, True),
        ({"thinking": {"type": "adaptive"}}, None, True),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, None, False),
        ({"thinking": {"type": "disabled"}}, Reasoning(thinking=False), False),
        (
            {"thinking": {"type": "enabled", "budget_tokens": 50}},
            Reasoning(thinking=True, budget_tokens=50),
            True,
        ),
        ({"output_config": {"effort": "max"}}, Reasoning(effort=ReasoningEffort.MAX), True),
    ],
)
def test_reasoning(fields: Any, reasoning: Reasoning | None, shown: bool) -> None:
    assert chat(**fields).reasoning == reasoning
    assert shows_thinking(body(**fields)) == shown


def test_the_form_of_the_answer() -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    for fields in ({"output_config": {"format": form}}, {"output_format": form}):
        schema = chat(**fields).json_schema
        assert schema is not None
        assert (json.loads(schema.schema_json), schema.strict) == ({"type": "object"}, True)


def test_the_session_of_claude_code() -> None:
    user_id = json.dumps({"device_id": "d", "session_id": "s-1"})
    assert session_of(body(metadata={"user_id": user_id})) == "s-1"
    for other in (
        "plain",
        "{",
        json.dumps({"session_id": 5}),
        json.dumps({"session_id": "x" * 200}),
    ):
        assert session_of(body(metadata={"user_id": other})) == ""
    assert session_of(body()) == ""


@pytest.mark.parametrize(
    ("messages", "fields", "path"),
    [
        ([], {}, "messages"),
        ([{"role": "tool", "content": "a"}], {}, "messages[0].role"),
        ([{"role": "user", "content": 5}], {}, "messages[0].content"),
        ([{"role": "user", "content": [{"text": "a"}]}], {}, "messages[0].content[0]"),
        (
            [{"role": "user", "content": [{"type": "text", "text": 5}]}],
            {},
            "messages[0].content[0].text",
        ),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "%"},
                        }
                    ],
                }
            ],
            {},
            "messages[0].content[0].source",
        ),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "document",
                            "source": {
                                "type": "base64",
                                "media_type": "application/pdf",
                                "data": "",
                            },
                        }
                    ],
                }
            ],
            {},
            "messages[0].content[0].source",
        ),
        (
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "brand_new"},
                        {"type": "image", "source": {"type": "url", "url": "http://u"}},
                    ],
                }
            ],
            {},
            "messages[0].content[1].source.url",
        ),
        ("hi", {"tools": [{"name": "a b"}]}, "tools[0].name"),
        ("hi", {"tools": [{**WEATHER, "input_schema": []}]}, "tools[0].input_schema"),
        ("hi", {"tools": [WEATHER, WEATHER]}, "tools"),
        ("hi", {"tool_choice": {"type": "any"}}, "tool_choice"),
        (
            "hi",
            {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}},
            "tool_choice.name",
        ),
        ("hi", {"temperature": 3.0}, "temperature"),
        ("hi", {"top_k": -5}, "top_k"),
        ("hi", {"stop_sequences": ["a"] * 5}, "stop_sequences"),
        ("hi", {"thinking": {"type": "maybe"}}, "thinking.type"),
        (
            "hi",
            {"thinking": {"type": "enabled", "budget_tokens": 100}},
            "thinking.budget_tokens",
        ),
        ("hi", {"output_config": {"effort": "huge"}}, "output_config.effort"),
        ("hi", {"output_format": {"type": "json_schema"}}, "output_format.schema"),
    ],
)
def test_faults_name_the_field(messages: Any, fields: Any, path: str) -> None:
    assert path in faults(messages, **fields)
