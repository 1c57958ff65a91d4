"""A generation as JSON for vLLM and for a plain OpenAI-shaped server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from gateway.domain.generation import (
    Chat,
    Generation,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Role,
    Sampling,
    Tool,
    ToolCall,
    ToolMode,
)
from gateway.domain.slices import finish
from gateway.upstream.features import unsupported
from gateway.upstream.openai.body import OPENAI_FEATURES, generation_body, generation_path
from gateway.upstream.vllm.body import VLLM_OPTIONS, vllm_body

Dialect = Callable[[Generation], dict[str, Any]]
HELLO = Chat(messages=(Message(role=Role.USER, parts=("Hello",)),))
GENERATION = Generation(request_id="r", model="moe", input=HELLO, max_output_tokens=8)
SCHEMA = '{"type": "object",\n "properties": {"a": {"type": "integer"}}}'
WEATHER = Tool(name="weather", description="of a place", parameters_json_schema=SCHEMA)


def openai_body(generation: Generation) -> dict[str, Any]:
    return msgspec.json.decode(finish(generation_body(generation, "up")), type=dict[str, Any])


def body(generation: Generation) -> dict[str, Any]:
    return msgspec.json.decode(finish(vllm_body(generation, "up")), type=dict[str, Any])


def chat_body(dialect: Dialect = body, **fields: Any) -> dict[str, Any]:
    return dialect(replace(GENERATION, input=replace(HELLO, **fields)))


def message_body(message: Message, dialect: Dialect = body) -> dict[str, Any]:
    [found] = chat_body(dialect, messages=(message,))["messages"]
    assert isinstance(found, dict)
    return found


def test_a_plain_chat_holds_nothing_more_than_it_must() -> None:
    assert body(GENERATION) == {
        "model": "up",
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 8,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }
    assert generation_path(GENERATION) == "/chat/completions"


def test_only_vllm_is_asked_for_continuous_usage() -> None:
    assert openai_body(GENERATION)["stream_options"] == {"include_usage": True}


def test_every_sampling_field_arrives_under_its_name() -> None:
    values = {
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": -1,
        "min_p": 0.0,
        "presence_penalty": -1.5,
        "frequency_penalty": 0.25,
        "repetition_penalty": 1.25,
        "seed": 0,
    }
    assert set(values) == set(Sampling.__struct_fields__)
    sent = body(
        replace(
            GENERATION,
            sampling=Sampling(**values),  # type: ignore[arg-type]
            stop=("a", "b"),
            choices=3,
            ignore_eos=True,
        )
    )
    assert {name: sent[name] for name in values} == values
    assert (sent["stop"], sent["n"], sent["ignore_eos"]) == (["a", "b"], 3, True)


@pytest.mark.parametrize("prompt", ["Hello", (1, 2, 3)])
def test_raw_prompts_go_to_completions(prompt: str | tuple[int, ...]) -> None:
    generation = replace(GENERATION, input=prompt, logprobs=2)
    assert generation_path(generation) == "/completions"
    sent = body(generation)
    assert sent["prompt"] == (prompt if isinstance(prompt, str) else list(prompt))
    assert sent["logprobs"] == 2
    assert "messages" not in sent


@pytest.mark.parametrize("logprobs", [0, 5])
def test_chat_asks_for_logprobs_in_two_fields(logprobs: int) -> None:
    sent = body(replace(GENERATION, logprobs=logprobs))
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, logprobs)


def test_parts_and_pictures() -> None:
    image = Image(data=b"\x89PNG", media_type="image/png")
    far = Image(url="https://example.com/a.png")
    message = Message(role=Role.USER, parts=("See", image, far))
    assert message_body(message)["content"] == [
        {"type": "text", "text": "See"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ]


def test_a_turn_of_tool_calls_and_its_answer() -> None:
    call = ToolCall(index=0, id="c1", name="weather", arguments_json='{"a": 1}')
    assert message_body(Message(role=Role.ASSISTANT, parts=(), tool_calls=(call,))) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"a": 1}'},
            }
        ],
    }
    answer = Message(role=Role.TOOL, parts=("dry",), name="weather", tool_call_id="c1")
    assert message_body(answer) == {
        "role": "tool",
        "content": "dry",
        "name": "weather",
        "tool_call_id": "c1",
    }


@pytest.mark.parametrize(
    ("dialect", "name"), [(body, "reasoning"), (openai_body, "reasoning_content")]
)
def test_reasoning_of_earlier_turns(dialect: Dialect, name: str) -> None:
    message = Message(role=Role.ASSISTANT, parts=("4",), reasoning_text="2 + 2")
    assert message_body(message, dialect)[name] == "2 + 2"


def test_tools_hold_the_schema_as_it_is() -> None:
    sent = chat_body(tools=(WEATHER, Tool(name="now", description="", parameters_json_schema="{}")))
    assert sent["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "of a place",
                "parameters": msgspec.json.decode(SCHEMA),
            },
        },
        {"type": "function", "function": {"name": "now", "parameters": {}}},
    ]
    assert "tool_choice" not in sent


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ToolMode.AUTO, "auto"),
        (ToolMode.NONE, "none"),
        (ToolMode.REQUIRED, "required"),
        (NamedTool(name="weather"), {"type": "function", "function": {"name": "weather"}}),
    ],
)
def test_tool_choice(choice: ToolMode | NamedTool, expected: object) -> None:
    assert chat_body(tools=(WEATHER,), tool_choice=choice)["tool_choice"] == expected


def test_no_tool_choice_without_tools() -> None:
    assert "tool_choice" not in chat_body(tool_choice=ToolMode.NONE)


def test_response_formats() -> None:
    assert chat_body(json_object=True)["response_format"] == {"type": "json_object"}
    schema = JsonSchema(name="answer", schema_json=SCHEMA, strict=True)
    assert chat_body(json_schema=schema)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": msgspec.json.decode(SCHEMA), "strict": True},
    }


def test_what_a_plain_server_has_no_word_for_is_named_and_never_sent() -> None:
    generation = replace(
        GENERATION,
        input=(1, 2),
        sampling=Sampling(temperature=1.0, top_k=5, min_p=0.1, repetition_penalty=1.1),
        ignore_eos=True,
    )
    fields = (
        "sampling.top_k",
        "sampling.min_p",
        "sampling.repetition_penalty",
        "ignore_eos",
        "prompt_tokens",
    )
    assert unsupported(generation, OPENAI_FEATURES) == fields
    assert unsupported(generation, VLLM_OPTIONS.features) == ()
    with pytest.raises(ValueError, match=r"sampling\.top_k"):
        finish(generation_body(generation, "up"))


def test_a_plain_generation_is_supported_everywhere() -> None:
    for plain in (GENERATION, replace(GENERATION, input="Hello", logprobs=1)):
        assert unsupported(plain, OPENAI_FEATURES) == ()
