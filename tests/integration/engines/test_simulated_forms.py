"""Forms of the answer, tool calls and rules for tokens: the simulated vLLM against the real one."""

from __future__ import annotations

import json
import re
from typing import Any

import aiohttp
import pytest

from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from tests.integration.engines.test_simulated_vllm import (
    CHAT,
    HELLO,
    RAW,
    STREAM,
    Client,
    client,
    golden,
    shape,
    shapes,
    text_of,
)
from tests.vllm.record_golden import CITY, NAMED, WITH_TOOLS

__all__ = ["client"]
TOOLS = {"tools": WITH_TOOLS["tools"], "max_tokens": 60}
BIASED = 900
"""Any token that is no word, so that it is never drawn by itself."""


def pieces(chunks: list[Any]) -> list[Any]:
    """The pieces of tool calls of a stream."""
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return [piece for delta in deltas for piece in delta.get("tool_calls", ())]


@pytest.mark.parametrize(
    ("name", "choice", "finish_reason"),
    [
        ("chat_stream_tool_required.sse", "required", "tool_calls"),
        ("chat_stream_tool_named.sse", NAMED, "stop"),
    ],
)
async def test_a_forced_tool_call_is_streamed_like_the_real_one(
    client: Client, name: str, choice: Any, finish_reason: str
) -> None:
    chunks = await client.stream(CHAT, HELLO | STREAM | TOOLS | {"tool_choice": choice})
    real = golden(name)
    assert shapes(chunks) == shapes(real)
    first, *rest = pieces(chunks)
    assert first["function"] == {"name": "weather"} == pieces(real)[0]["function"]
    arguments = "".join(piece["function"]["arguments"] for piece in rest)
    assert json.loads(arguments) == {"city": "Paris"}
    last = chunks[-2]["choices"][0]
    assert (last["delta"], last["finish_reason"], last["stop_reason"]) == ({}, finish_reason, None)
    assert chunks[-1]["usage"]["completion_tokens"] > len(rest) + 1, "those of the markup too"

    answer = await client.answer(CHAT, HELLO | TOOLS | {"tool_choice": choice})
    assert shape(answer) == shape(golden("chat_unary_tool_named.json"))
    [call] = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "weather", "arguments": arguments}
    assert answer["choices"][0]["finish_reason"] == finish_reason


@pytest.mark.parametrize("choice", ["auto", "none", None])
async def test_tools_may_be_offered_without_force(client: Client, choice: str | None) -> None:
    answer = await client.answer(CHAT, HELLO | TOOLS | {"tool_choice": choice})
    assert "tool_calls" not in answer["choices"][0]["message"]
    assert answer["choices"][0]["message"]["content"]


async def test_a_call_that_is_cut_has_the_reason_length(client: Client) -> None:
    body = HELLO | TOOLS | {"tool_choice": "required"}
    whole = (await client.answer(CHAT, body))["usage"]["completion_tokens"]
    cut = await client.answer(CHAT, body | {"max_tokens": whole - 4})
    assert cut["choices"][0]["finish_reason"] == "length"
    [call] = cut["choices"][0]["message"]["tool_calls"]
    assert '{"city": "Paris"}'.startswith(call["function"]["arguments"])
    none = await client.answer(CHAT, body | {"max_tokens": 2})
    assert "tool_calls" not in none["choices"][0]["message"]


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"choice": ["Paris 🦀", "Rome"]}, "Paris 🦀|Rome"),
        ({"regex": "(ab|cd){3}"}, "(ab|cd){3}"),
        ({"grammar": 'root ::= "yes" | "no" [0-9]'}, r"yes|no[0-9]"),
        ({"json": CITY}, r'\{"city": "(Paris|Rome)"\}'),
    ],
)
async def test_the_answer_has_its_form(client: Client, form: Any, pattern: str) -> None:
    body = HELLO | {"structured_outputs": form, "max_tokens": 60}
    chunks = await client.stream(CHAT, body | STREAM)
    assert re.fullmatch(pattern, text_of([*chunks[:-2], chunks[-1]]))
    assert shapes(chunks) == shapes(golden("chat_stream_choice.sse"))
    answer = await client.answer(CHAT, body)
    assert re.fullmatch(pattern, answer["choices"][0]["message"]["content"])
    assert answer["choices"][0]["finish_reason"] == "stop"
    raw = await client.answer(RAW, body | {"prompt": "Hello"})
    assert re.fullmatch(pattern, raw["choices"][0]["text"])


async def test_a_schema_is_kept(client: Client) -> None:
    shape_of_it = {"name": "a", "schema": CITY, "strict": True}
    body = HELLO | {"max_tokens": 60}
    body |= {"response_format": {"type": "json_schema", "json_schema": shape_of_it}}
    answer = await client.answer(CHAT, body)
    assert shape(answer) == shape(golden("chat_unary_schema.json"))
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"city": "Paris"}
    body["response_format"] = {"type": "json_object"}
    answer = await client.answer(CHAT, body)
    assert json.loads(answer["choices"][0]["message"]["content"]) == {}


@pytest.mark.parametrize(
    ("name", "fields", "is_same_text"),
    [
        (
            "error_two_forms.json",
            {"structured_outputs": {"regex": "a", "choice": ["a"]}},
            True,
        ),
        ("error_bad_regex.json", {"structured_outputs": {"regex": "(a"}}, False),
        ("error_stop_token.json", {"stop_token_ids": [2**33]}, False),
        ("error_logit_bias.json", {"logit_bias": {str(2**33): 1}}, False),
        ("error_budget.json", {"thinking_token_budget": 5}, True),
        ("error_no_tools.json", {"tool_choice": "required"}, True),
        (
            "error_unknown_tool.json",
            TOOLS | {"tool_choice": {"type": "function", "function": {"name": "nope"}}},
            True,
        ),
    ],
)
async def test_errors_are_those_of_the_real_one(
    client: Client, name: str, fields: dict[str, Any], is_same_text: bool
) -> None:
    status, answer, _ = await client.post(CHAT, HELLO | fields)
    real = golden(name)
    assert status == 400
    if not is_same_text:  # another vocabulary, another compiler
        answer["error"]["message"] = real["error"]["message"]
    assert answer == real


async def test_a_bad_form_of_a_stream_is_an_event(client: Client) -> None:
    body = HELLO | STREAM | {"structured_outputs": {"regex": "(a"}}
    chunks = await client.stream(CHAT, body)
    assert shapes(chunks) == shapes(golden("chat_stream_bad_regex.sse"))


async def test_rules_for_tokens(client: Client) -> None:
    async def tokens(**fields: Any) -> tuple[list[int], str]:
        body = HELLO | {"return_token_ids": True, "max_tokens": 12} | fields
        choice = (await client.answer(CHAT, body))["choices"][0]
        return choice["token_ids"], choice["finish_reason"]

    bias = {str(BIASED): 100}
    assert await tokens(logit_bias=bias) == ([BIASED] * 12, "length")
    assert await tokens(logit_bias=bias, stop_token_ids=[BIASED]) == ([BIASED], "stop")
    said, reason = await tokens(logit_bias=bias, stop_token_ids=[BIASED], min_tokens=5)
    assert (len(said), said[-1], said.count(BIASED), reason) == (6, BIASED, 1, "stop")
    assert await tokens(logit_bias={"2": 100}) == ([2], "stop")
    said, reason = await tokens(logit_bias={"2": 100}, min_tokens=5)
    assert (len(said), said[-1], reason) == (6, 2, "stop")
    plain, _ = await tokens()
    assert (await tokens(logit_bias={str(BIASED): 1}))[0] == plain


async def test_a_tool_of_the_settings_is_called_until_its_result_is_there() -> None:
    function = TOOLS["tools"][0]["function"]["name"]
    settings = SimulatedVllmConfig(
        served_model_name="m", speed=100.0, tool_calls=((function, '{"city": "Rome"}'),)
    )
    async with simulated_vllm(settings) as server, aiohttp.ClientSession() as session:

        async def answer(**body: Any) -> Any:
            async with session.post(f"{server.url}{CHAT}", json={"model": "m", **body}) as found:
                return (await found.json())["choices"][0]

        asked: list[Any] = [{"role": "user", "content": "hi"}]
        called = await answer(messages=asked, **TOOLS)
        assert called["finish_reason"] == "tool_calls"
        [call] = called["message"]["tool_calls"]
        assert call["function"] == {"name": function, "arguments": '{"city": "Rome"}'}
        done = [
            *asked,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "sunny"},
        ]
        for body in (
            {"messages": done, **TOOLS},
            {"messages": asked, "max_tokens": 9},
            {"messages": asked, **TOOLS, "tool_choice": "none"},
        ):
            assert not (await answer(**body))["message"].get("tool_calls")
