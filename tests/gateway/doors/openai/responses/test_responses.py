"""/v1/responses: what reaches the server, and what the client gets, by OpenAI's own types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import Field, TypeAdapter

from gateway.config.limits import LimitsConfig
from gateway.domain.generation import Message, Role
from gateway.domain.slices import in_slices
from gateway.doors.openai.responses.body import Item
from gateway.doors.openai.responses.references import with_referenced
from gateway.doors.openai.responses.stored import KEPT_S, ResponseStore, StoredResponse
from tests.gateway.doors.openai.rig import (
    MODEL,
    Rig,
    call_frames,
    frame,
    rig,
    text_frames,
    usage,
)
from tests.scripted import DONE

RESPONSES = "/v1/responses"
FUNCTION = {
    "type": "function",
    "name": "shell",
    "description": "Runs a command",
    "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
    "strict": False,
}
SERVER_TOOLS = [
    {"type": "web_search"},
    {"type": "namespace", "name": "mcp", "tools": [FUNCTION]},
]
THINKING = [
    frame({"role": "assistant", "reasoning": "Let me"}),
    frame({"reasoning": " see."}),
    *text_frames("Done.")[1:-2],
    usage(20, 9, completion_tokens_details={"reasoning_tokens": 4}),
    DONE,
]


async def whole(parts: Rig, **body: Any) -> Response:
    status, answer = await parts.post(RESPONSES, **{"input": "Hi", **body})
    assert status == 200, answer
    return TypeAdapter(Response).validate_python(answer, strict=True)


async def events(parts: Rig, **body: Any) -> list[ResponseStreamEvent]:
    found = await parts.events(RESPONSES, **{"input": "Hi", **body})
    by_type = Annotated[ResponseStreamEvent, Field(discriminator="type")]
    adapter: TypeAdapter[ResponseStreamEvent] = TypeAdapter(by_type)
    checked = [adapter.validate_python(event, strict=True) for event in found]
    assert [event.sequence_number for event in checked] == [*range(len(checked))]
    return checked


def kinds(found: Sequence[ResponseStreamEvent]) -> list[str]:
    """The kinds of events, each series of one kind once."""
    names = [event.type.removeprefix("response.") for event in found]
    return [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]


async def test_a_whole_response() -> None:
    async with rig() as parts:
        answer = await whole(parts, instructions="Be brief.", metadata={"a": "b"}, user="u")
        assert (answer.output_text, answer.status, answer.model) == (
            "Hello there.",
            "completed",
            MODEL,
        )
        assert answer.usage is not None
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (12, 7)
        assert parts.sent["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
        ]


async def test_the_events_of_a_text() -> None:
    async with rig() as parts:
        found = await events(parts)
        assert kinds(found) == [
            *("created", "in_progress", "output_item.added", "content_part.added"),
            *("output_text.delta", "output_text.done", "content_part.done", "output_item.done"),
            "completed",
        ]
        last = found[-1]
        assert last.type == "response.completed"
        assert last.response.output_text == "Hello there."
        assert last.response.usage is not None


async def test_reasoning_then_text_as_summary_and_as_content() -> None:
    async with rig(THINKING) as parts:
        summarized = await events(parts, reasoning={"effort": "low", "summary": "auto"})
        assert kinds(summarized)[2:8] == [
            *("output_item.added", "reasoning_summary_part.added"),
            *("reasoning_summary_text.delta", "reasoning_summary_text.done"),
            *("reasoning_summary_part.done", "output_item.done"),
        ]
        assert parts.sent["reasoning_effort"] == "low"
        plain = await events(parts)
        assert kinds(plain)[3:6] == [
            *("content_part.added", "reasoning_text.delta", "reasoning_text.done"),
        ]
        answer = await whole(parts)
        assert [item.type for item in answer.output] == ["reasoning", "message"]
        assert answer.usage is not None
        assert answer.usage.output_tokens_details.reasoning_tokens == 4


async def test_codex_runs_a_command_and_comes_back() -> None:
    body: dict[str, Any] = {
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "reasoning": {"summary": "auto"},
        "tools": [FUNCTION, *SERVER_TOOLS],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "prompt_cache_key": "s1",
        "client_metadata": {"x": "y"},
    }
    first = [
        {"type": "message", "role": "developer", "content": "Rules"},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "run echo hello"}],
        },
    ]
    calls = call_frames(("shell", '{"command": "echo a"}'), ("shell", '{"command": "echo b"}'))
    async with rig([frame({"reasoning": "I run it."}), *calls]) as parts:
        found = await events(parts, input=first, **body)
        done = found[-1]
        assert done.type == "response.completed"
        items = [item.model_dump(exclude_none=True) for item in done.response.output]
        assert [item["type"] for item in items] == ["reasoning", "function_call", "function_call"]
        assert [tool["function"]["name"] for tool in parts.sent["tools"]] == ["shell"]
        assert [json.loads(item["arguments"]) for item in items[1:]] == [
            {"command": "echo a"},
            {"command": "echo b"},
        ]
        items[0]["summary"] = []  # clients may shorten what is shown, not what is sealed
        outputs = [
            {"type": "function_call_output", "call_id": item["call_id"], "output": text}
            for item, text in zip(items[1:], ("a", "b"), strict=True)
        ]
        await events(parts, input=[*first, *items, *outputs], **body)
        sent = parts.sent["messages"]
        roles = ["system", "user", "assistant", "tool", "tool"]
        assert [message["role"] for message in sent] == roles
        assert sent[2]["reasoning"] == "I run it."
        assert len(sent[2]["tool_calls"]) == 2
        assert [message["content"] for message in sent[3:]] == ["a", "b"]


async def test_a_response_is_continued_by_its_id_within_its_tenant() -> None:
    async with rig() as parts:
        first = await whole(parts, instructions="Only now.")
        second = await whole(parts, input="More", previous_response_id=first.id)
        assert parts.sent["messages"] == [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello there."},
            {"role": "user", "content": "More"},
        ]
        assert (await parts.client.responses.retrieve(first.id)).output_text == "Hello there."
        await parts.client.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            await parts.client.responses.retrieve(first.id)
        unstored = await whole(parts, store=False)
        status, answer = await parts.post(RESPONSES, input="More", previous_response_id=unstored.id)
        assert (status, answer["error"]["code"]) == (404, "previous_response_not_found")
        assert (
            await whole(parts, previous_response_id=second.id)
        ).previous_response_id == second.id


async def test_turns_that_are_only_named_are_those_that_are_stored() -> None:
    calls = call_frames(("shell", '{"command": "echo a"}'))
    async with rig([frame({"reasoning": "I run it."}), *calls]) as parts:
        user = {"role": "user", "content": "run echo a"}
        first = await whole(parts, input=[user], tools=[FUNCTION])
        assert [item.type for item in first.output] == ["reasoning", "function_call"]
        call = first.output[1]
        assert call.type == "function_call"
        named = [{"type": "item_reference", "id": item.id} for item in first.output]
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "a"}
        again = [user, *named, output]
        await whole(parts, input=again, tools=[FUNCTION], store=False)
        _, assistant, tool = parts.sent["messages"]
        assert assistant["reasoning"] == "I run it."
        [sent] = assistant["tool_calls"]
        assert json.loads(sent["function"]["arguments"]) == {"command": "echo a"}
        assert (tool["role"], tool["content"]) == ("tool", "a")

        status, answer = await parts.post(RESPONSES, input=[user, named[0], named[0]])
        assert (status, answer["error"]["param"]) == (400, "input[2]")
        await parts.client.responses.delete(first.id)
        status, answer = await parts.post(RESPONSES, input=again)
        assert (status, answer["error"]["param"]) == (400, "input[1]")


async def test_the_answers_of_named_items_are_counted_once_each() -> None:
    answers = {
        name: json.dumps(
            {"id": f"resp_{name}", "output": [{"id": f"msg_{name}_{at}"} for at in (0, 1)]}
        )
        for name in ("a", "b_c")
    }
    given = [Item(type="item_reference", id=f"msg_{name}") for name in ("a_1", "b_c_0", "a_0")]
    found, size_bytes = await in_slices(
        with_referenced([*given, Item(role="user")], lambda name: answers[name].encode())
    )
    assert [item.id for item in found if isinstance(item, Item)] == [
        "msg_a_1",
        "msg_b_c_0",
        "msg_a_0",
        None,
    ]
    assert size_bytes == sum(map(len, answers.values()))
    assert await in_slices(with_referenced("Hi", lambda _: None)) == ("Hi", 0)


async def test_structured_output_and_the_end_by_length() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "name": "made", "schema": schema, "strict": True}
    async with rig(text_frames('{"a": 1', finish="length")) as parts:
        answer = await whole(parts, text={"format": form}, max_output_tokens=9)
        assert answer.status == "incomplete"
        assert answer.incomplete_details is not None
        assert answer.incomplete_details.reason == "max_output_tokens"
        assert parts.sent["response_format"]["json_schema"]["schema"] == schema
        found = await events(parts)
        assert found[-1].type == "response.incomplete"


async def test_a_stream_that_breaks_off_says_so() -> None:
    async with rig(text_frames("Hel")[:2], end="cut") as parts:
        found = await events(parts)
        last = found[-1]
        assert last.type == "response.failed"
        assert last.response.error is not None
        assert "incomplete" in last.response.error.message


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1", "version": "2"}}, "prompt"),
        (
            {
                "input": [
                    {"type": "item_reference", "id": "msg_1"},
                    {"role": "user", "content": "x"},
                ]
            },
            "input[0]",
        ),
        ({"max_output_tokens": 0}, "max_output_tokens"),
    ],
)
async def test_a_fault_names_its_field(body: dict[str, Any], param: str) -> None:
    async with rig() as parts:
        status, answer = await parts.post(RESPONSES, **{"input": "Hi", **body})
        assert (status, answer["error"]["param"]) == (400, param)


def stored(tenant: str, size_bytes: int, stored_s: float = 0.0) -> StoredResponse:
    message = Message(role=Role.USER, parts=("x",))
    return StoredResponse(
        tenant=tenant, messages=(message,), answer=b"", size_bytes=size_bytes, stored_s=stored_s
    )


def test_stored_responses_are_bounded_by_tenant_first() -> None:
    limits = LimitsConfig(stored_bytes=100, stored_tenant_bytes=60)
    store = ResponseStore()
    for name in ("a1", "a2", "a3"):
        store.put(name, stored("a", 25), limits)
    assert store.get("a1", "a", 0.0) is None
    assert store.get("a2", "a", 0.0) is not None
    store.put("b1", stored("b", 60), limits)
    assert store.get("a2", "a", 0.0) is None  # the oldest of all
    assert store.get("a3", "a", 0.0) is not None
    store.put("a4", stored("a", 61), limits)
    assert store.get("a4", "a", 0.0) is None
    assert store.get("b1", "a", 0.0) is None
    assert not store.remove("b1", "a")
    assert store.get("b1", "b", KEPT_S + 1) is None
    assert store.total_bytes == 25


def test_an_id_that_two_tenants_chose_names_a_response_of_each() -> None:
    limits = LimitsConfig(stored_bytes=100, stored_tenant_bytes=60)
    store = ResponseStore()
    store.put("same", stored("a", 40), limits)
    store.put("same", stored("b", 25), limits)
    found = store.get("same", "a", 0.0), store.get("same", "b", 0.0)
    assert [None if each is None else each.size_bytes for each in found] == [40, 25]
    assert store.remove("same", "b")
    assert store.get("same", "a", 0.0) is not None
    assert store.total_bytes == 40
    store.put("same", stored("a", 50), limits)
    assert store.total_bytes == 50
    assert store.remove("same", "a")
    assert store.total_bytes == 0
