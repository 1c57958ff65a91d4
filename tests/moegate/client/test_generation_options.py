"""From options to the request: each option reaches its field, and faults name the option."""

from __future__ import annotations

from typing import Any

import pytest

from moegate.client import Image, Message, Tool, ToolCall
from moegate.client.generation_options import GenerationOptions, generate_request
from moegate.v1 import chat_pb2, generation_pb2

EVERY: dict[str, Any] = {
    "system": "Be brief.",
    "tools": [Tool("f")],
    "tool_choice": "f",
    "parallel_tool_calls": False,
    "json_schema": {"type": "object"},
    "effort": "low",
    "thinking": True,
    "thinking_budget_tokens": 5,
    "chat_template_kwargs": {"a": 1},
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 3,
    "min_p": 0.5,
    "seed": 0,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.5,
    "logit_bias": {7: 1.0},
    "max_output_tokens": 10,
    "min_tokens": 2,
    "stop": ["x"],
    "stop_token_ids": [4],
    "ignore_eos": True,
    "choices": 2,
    "logprobs": 0,
    "slo_class": "batch",
    "ttft_s": 0.25,
    "tpot_s": 1.5,
    "priority": -1,
    "session_id": "s",
    "labels": {"team": "a"},
    "end_user": "u",
    "local_only": True,
    "remote_classes": ["eu"],
    "max_cost_nano_usd": 0,
    "request_id": "r",
    "idempotency_key": "k",
}
SHAPES = {"json_schema", "regex", "choices_of", "grammar"}


def request(chat: Any = "hi", **options: Any) -> generation_pb2.GenerateRequest:
    return generate_request("m", chat, options)  # type: ignore[arg-type]


def test_every_option_changes_the_request() -> None:
    assert set(EVERY) | SHAPES == set(GenerationOptions.__annotations__)
    plain = request(idempotency_key="same")
    for name, value in EVERY.items():
        assert request(**{"idempotency_key": "same", name: value}) != plain, name


def test_all_options_together() -> None:
    found = request(**EVERY)
    assert found.chat.messages[0].role == chat_pb2.ROLE_SYSTEM
    assert found.chat.tool_choice.function_name == "f"
    assert found.chat.response_format.json_schema.strict
    assert found.chat.reasoning.effort == chat_pb2.REASONING_EFFORT_LOW
    assert found.slo.slo_class == generation_pb2.SLO_CLASS_BATCH
    assert found.slo.ttft.ToMilliseconds() == 250
    assert (found.HasField("logprobs"), found.logprobs) == (True, 0)
    assert (found.HasField("max_cost_nano_usd"), found.max_cost_nano_usd) == (True, 0)
    assert dict(found.logit_bias) == {7: 1.0}


def test_absent_options_leave_their_fields_absent() -> None:
    found = request()
    assert {field.name for field, _ in found.ListFields()} == {"model", "chat", "idempotency_key"}
    assert {field.name for field, _ in found.chat.ListFields()} == {"messages"}


def test_each_call_has_an_idempotency_key_of_its_own() -> None:
    assert request().idempotency_key != request().idempotency_key != ""


def test_messages_keep_their_parts_in_order() -> None:
    call = ToolCall("1", "f", "{}")
    found = request(
        [
            Message(
                "user", ["see", Image(data=b"x", media_type="image/png"), Image(url="https://u")]
            ),
            Message("assistant", tool_calls=[call], reasoning="so"),
            Message("tool", "done", tool_call_id="1"),
        ]
    )
    user, assistant, tool = found.chat.messages
    assert [part.WhichOneof("part") for part in user.parts] == ["text", "image", "image"]
    assert (user.parts[1].image.media_type, user.parts[2].image.url) == ("image/png", "https://u")
    assert (list(assistant.parts), assistant.reasoning_text) == ([], "so")
    assert assistant.tool_calls[0].name == "f"
    assert (tool.role, tool.tool_call_id) == (chat_pb2.ROLE_TOOL, "1")


@pytest.mark.parametrize(
    ("options", "kind", "named"),
    [
        ({"temprature": 1}, TypeError, "temprature"),
        ({"slo_class": "fast"}, ValueError, r"slo_class: 'fast' is none of \['interactive'"),
        ({"effort": "unspecified"}, ValueError, "effort"),
        ({"ttft_s": 0}, ValueError, "ttft_s"),
        ({"tpot_s": float("nan")}, ValueError, "tpot_s"),
        ({"regex": "a", "grammar": "b"}, ValueError, "grammar"),
        ({"max_output_tokens": -1}, ValueError, "max_output_tokens: -1"),
        ({"temperature": "hot"}, TypeError, "temperature: 'hot'"),
    ],
)
def test_faults_name_the_option(options: dict[str, Any], kind: type[Exception], named: str) -> None:
    with pytest.raises(kind, match=named):
        request(**options)


def test_faults_name_the_message() -> None:
    with pytest.raises(ValueError, match=r"messages\[1\].role: 'robot'"):
        request([Message("user", "a"), Message("robot", "b")])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"messages\[0\]: a Message is needed, not dict"):
        request([{"role": "user"}])
    with pytest.raises(ValueError, match="either data"):
        Image()
