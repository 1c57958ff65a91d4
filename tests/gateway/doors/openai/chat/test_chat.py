"""/v1/chat/completions: what reaches the server, and what the client gets, by OpenAI's own
types."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import openai
import pytest
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from tests import serving
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

CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "Hi"}]
PNG = base64.b64encode(b"\x89PNG").decode()
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


async def whole(parts: Rig, **body: Any) -> ChatCompletion:
    status, answer = await parts.post(CHAT, **{"messages": USER, **body})
    assert status == 200, answer
    return TypeAdapter(ChatCompletion).validate_python(answer, strict=True)


async def chunks(parts: Rig, **body: Any) -> list[ChatCompletionChunk]:
    events = await parts.events(CHAT, **{"messages": USER, **body})
    assert events.pop() is None, "no [DONE]"
    found = [TypeAdapter(ChatCompletionChunk).validate_python(e, strict=True) for e in events]
    assert len({(chunk.id, chunk.created) for chunk in found}) == 1
    return found


async def test_a_whole_answer() -> None:
    details = {"prompt_tokens_details": {"cached_tokens": 8}}
    frames = [*text_frames("Hello", " there.")[:-2], usage(12, 7, **details), DONE]
    async with rig(frames) as parts:
        answer = await whole(parts)
        assert answer.model == MODEL
        (choice,) = answer.choices
        assert (choice.message.content, choice.finish_reason) == ("Hello there.", "stop")
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (12, 7)
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == 8
        assert parts.sent["messages"] == USER


async def test_a_stream_and_its_usage() -> None:
    async with rig() as parts:
        found = await chunks(parts, stream_options={"include_usage": True})
        assert found[0].choices[0].delta.role == "assistant"
        texts = [choice.delta.content or "" for chunk in found for choice in chunk.choices]
        assert "".join(texts) == "Hello there."
        assert [c.finish_reason for chunk in found for c in chunk.choices][-1] == "stop"
        assert found[-1].choices == []
        assert isinstance(found[-1].usage, CompletionUsage)
        assert found[-1].usage.total_tokens == 19
        without = await chunks(parts)
        assert all(chunk.usage is None for chunk in without)


async def test_the_sdk_streams() -> None:
    async with rig(call_frames(("get_weather", '{"city": "Oslo"}'))) as parts:
        messages: Any = USER
        tools: Any = [WEATHER]
        async with parts.client.chat.completions.stream(
            model=MODEL, messages=messages, tools=tools
        ) as stream:
            final = await stream.get_final_completion()
        call = (final.choices[0].message.tool_calls or [])[0]
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments) == {"city": "Oslo"}
        assert final.choices[0].finish_reason == "tool_calls"


async def test_parallel_tool_calls_and_their_results() -> None:
    calls = [("get_weather", '{"city": "Oslo"}'), ("get_weather", '{"city": "Rome"}')]
    async with rig(call_frames(*calls)) as parts:
        answer = await whole(parts, tools=[WEATHER], tool_choice="auto", parallel_tool_calls=True)
        message = answer.choices[0].message
        assert message.content is None
        made = [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or ()]  # type: ignore[union-attr]
        assert made == [("call_0", *calls[0]), ("call_1", *calls[1])]
        assert parts.sent["tools"] == [WEATHER]
        assert parts.sent["tool_choice"] == "auto"
        # Some clients rewrite the ids; results and calls still go together.
        history = [
            *USER,
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": f"call{i}",
                        "type": "function",
                        "function": {"name": name, "arguments": arguments},
                    }
                    for i, (name, arguments) in enumerate(calls)
                ],
            },
            {"role": "tool", "tool_call_id": "call0", "content": "rain"},
            {"role": "tool", "tool_call_id": "call1", "content": [{"type": "text", "text": "sun"}]},
            {"role": "user", "content": "And?"},
            {"role": "user", "content": "Well?"},
        ]
        await whole(parts, messages=history, tools=[WEATHER])
        sent = parts.sent["messages"]
        roles = ["user", "assistant", "tool", "tool", "user", "user"]
        assert [message["role"] for message in sent] == roles
        assert [c["id"] for c in sent[1]["tool_calls"]] == ["call0", "call1"]
        assert [(m["tool_call_id"], m["content"]) for m in sent[2:4]] == [
            ("call0", "rain"),
            ("call1", "sun"),
        ]


@pytest.mark.parametrize(
    ("choice", "sent", "tools"),
    [
        ("none", "none", 2),
        ("required", "required", 2),
        (
            {"type": "function", "function": {"name": "get_weather"}},
            {"type": "function", "function": {"name": "get_weather"}},
            2,
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "get_weather"}}],
                },
            },
            "required",
            1,
        ),
    ],
)
async def test_the_choice_of_a_tool(choice: Any, sent: Any, tools: int) -> None:
    other = {"type": "function", "function": {"name": "other", "strict": True}}
    async with rig(call_frames(("get_weather", "{}"))) as parts:
        await whole(parts, tools=[WEATHER, other, {"type": "web_search"}], tool_choice=choice)
        assert parts.sent["tool_choice"] == sent
        assert len(parts.sent["tools"]) == tools
        if tools == 2:
            assert parts.sent["tools"][1]["function"]["strict"] is True


async def test_images_and_roles_and_parts() -> None:
    url = f"data:image/jpg;base64,{PNG}"
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look:"},
                {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Nice."}]},
        {"role": "user", "content": "More"},
    ]
    async with rig() as parts:
        await whole(parts, messages=messages)
        sent = parts.sent["messages"]
        assert sent[0] == {"role": "system", "content": "Be brief."}
        assert sent[1]["content"][1]["image_url"]["url"] == f"data:image/jpeg;base64,{PNG}"


async def test_reasoning_comes_and_goes_back() -> None:
    frames = [
        frame({"reasoning_content": "Hm."}),
        *text_frames("Yes.")[1:-2],
        usage(12, 7, completion_tokens_details={"reasoning_tokens": 3}),
        DONE,
    ]
    async with rig(frames) as parts:
        answer = await whole(parts, reasoning_effort="high")
        message = answer.choices[0].message
        assert message.model_dump()["reasoning_content"] == "Hm."
        assert answer.usage is not None
        assert answer.usage.completion_tokens_details is not None
        assert answer.usage.completion_tokens_details.reasoning_tokens == 3
        assert parts.sent["reasoning_effort"] == "high"
        found = await chunks(parts)
        deltas = [c.delta.model_dump() for chunk in found for c in chunk.choices]
        assert [d["reasoning_content"] for d in deltas if "reasoning_content" in d] == ["Hm."]
        await whole(parts, messages=[*USER, message.model_dump(exclude_none=True), *USER])
        assert parts.sent["messages"][1]["reasoning"] == "Hm."


async def test_structured_output_sampling_and_what_engines_add() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {
        "type": "json_schema",
        "json_schema": {"name": "made", "schema": schema, "strict": True},
    }
    async with rig(text_frames('{"a": 1}')) as parts:
        await whole(
            parts,
            response_format=form,
            temperature=0,
            top_p=0.9,
            seed=7,
            stop=["END"],
            logit_bias={"17": -100},
            presence_penalty=0.5,
            top_k=40,
            max_completion_tokens=50,
            min_tokens=2,
            chat_template_kwargs={"enable_thinking": False},
        )
        sent = parts.sent
        assert sent["response_format"]["json_schema"]["schema"] == schema
        assert (sent["temperature"], sent["top_p"], sent["seed"]) == (0, 0.9, 7)
        assert (sent["stop"], sent["logit_bias"]) == (["END"], {"17": -100})
        assert (sent["presence_penalty"], sent["top_k"], sent["min_tokens"]) == (0.5, 40, 2)
        assert sent["chat_template_kwargs"]["enable_thinking"] is False
        assert 50 in (sent.get("max_tokens"), sent.get("max_completion_tokens"))


async def test_logprobs_and_choices() -> None:
    top = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": None}]
    entry = {"token": "a", "logprob": -0.5, "top_logprobs": top}
    frames = [
        b'data: {"model":"m","choices":[{"index":%d,"delta":{"content":"a"},"logprobs":'
        b'{"content":[%b]},"finish_reason":"stop"}]}\n\n' % (i, json.dumps(entry).encode())
        for i in range(2)
    ]
    async with rig([*frames, usage(), DONE]) as parts:
        answer = await whole(parts, n=2, logprobs=True, top_logprobs=2)
        assert [choice.index for choice in answer.choices] == [0, 1]
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert (logprobs.content[0].token, logprobs.content[0].bytes) == ("a", [97])
        await chunks(parts, n=2, logprobs=True, top_logprobs=2)
        assert (parts.sent["n"], parts.sent["top_logprobs"]) == (2, 2)


async def test_more_output_than_the_model_has_is_no_reason_to_refuse() -> None:
    async with rig() as parts:
        await whole(parts, max_tokens=128_000)
        most = parts.sent.get("max_tokens") or parts.sent["max_completion_tokens"]
        assert 0 < most < 1000  # of the context of 1000 the prompt takes some


async def test_what_is_not_known_is_no_reason_to_refuse() -> None:
    async with rig() as parts:
        await whole(
            parts,
            store=False,
            metadata={"a": "b"},
            service_tier="auto",
            prediction={"type": "content", "content": ""},
            reasoning_effort="enormous",
            safety_identifier="x",
            tools=[],
            tool_choice="auto",
            stop=None,
            something_new={"deep": [1, 2]},
        )


async def test_a_byte_order_mark_before_the_body_is_skipped() -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    async with rig(text_frames("Hi")) as parts:
        http = parts.http
        sent = b"\xef\xbb\xbf" + json.dumps(body).encode()
        async with http.session.post(http.url + CHAT, data=sent) as response:
            assert response.status == 200, await response.text()


@pytest.mark.parametrize("arguments", ["", " ", "null", "{}"])
async def test_earlier_calls_without_arguments_have_an_object(arguments: str) -> None:
    called = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
    ]
    async with rig(text_frames("Hi")) as parts:
        status, _ = await parts.post(CHAT, messages=messages)
        assert status == 200
        assert parts.sent["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"temperature": 3}, "temperature"),
        ({"n": 99}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_completion_tokens": -1, "max_tokens": 5}, "max_completion_tokens"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"messages": 7}, "messages"),
    ],
)
async def test_a_fault_names_its_field(body: dict[str, Any], param: str) -> None:
    async with rig() as parts:
        status, answer = await parts.post(CHAT, **{"messages": USER, **body})
        assert status == 400
        assert answer["error"]["type"] == "invalid_request_error"
        assert answer["error"]["param"] == param
        assert param in answer["error"]["message"]
        assert parts.script.chats == 0


async def test_errors_are_those_that_the_sdk_knows() -> None:
    async with rig() as parts:
        messages: Any = USER
        with pytest.raises(openai.NotFoundError) as unknown:
            await parts.client.chat.completions.create(model="other", messages=messages)
        assert unknown.value.code == "model_not_found"
        stranger = parts.client.with_options(api_key="mg-unknown")
        with pytest.raises(openai.AuthenticationError) as refused:
            await stranger.chat.completions.create(model=MODEL, messages=messages)
        assert refused.value.code == "invalid_api_key"
        assert refused.value.response.headers["x-should-retry"] == "false"
        models = await parts.client.models.list()
        assert [model.id for model in models.data] == [MODEL]
        assert (await parts.client.models.retrieve(MODEL)).id == MODEL
        with pytest.raises(openai.NotFoundError):
            await parts.client.models.retrieve("other/model")


async def test_an_idempotency_key_is_taken_once() -> None:
    async with rig() as parts:
        body = {"model": MODEL, "messages": USER}
        first, _ = await parts.http.post(CHAT, body, idempotency_key="k1")
        second, answer = await parts.http.post(CHAT, body, idempotency_key="k1")
        assert (first, second) == (200, 409)
        assert answer["error"]["code"] == "idempotency_key_used"


async def test_a_client_that_leaves_frees_the_engine() -> None:
    frames = text_frames("Hello")[:2]
    async with rig(frames, end="hang") as parts:
        messages: Any = USER
        stream = await parts.client.chat.completions.create(
            model=MODEL, messages=messages, stream=True
        )
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        async with asyncio.timeout(serving.READY_S):
            await parts.script.left.wait()
