"""Reasoning told apart from the answer: the simulated vLLM against the real one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.integration.engines.test_simulated_vllm import (
    CHAT,
    HELLO,
    RAW,
    STREAM,
    Client,
    config,
    golden,
    serving,
    shape,
    shapes,
    text_of,
)
from tests.vllm.record_golden import ANSWER_AFTER, NAMED, WITH_TOOLS

TOOL = {"tools": WITH_TOOLS["tools"], "tool_choice": NAMED}
OFF = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with serving(config(reasoning_parser="qwen3")) as running:
        yield running


def kinds(chunks: list[Any]) -> list[tuple[str, ...]]:
    """Members of each delta."""
    return [tuple(choice["delta"]) for chunk in chunks for choice in chunk["choices"]]


def runs(chunks: list[Any]) -> list[tuple[str, ...]]:
    """The same, equal neighbours as one: pieces of a text may be cut elsewhere."""
    members = kinds(chunks)
    return [each for i, each in enumerate(members) if i == 0 or members[i - 1] != each]


def reasoning_of(chunks: list[Any]) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("reasoning") or "" for delta in deltas)


def content_of(chunks: list[Any]) -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("reasoning_stream.sse", ANSWER_AFTER),
        ("reasoning_stream_interval.sse", ANSWER_AFTER | {"stream_interval": 4}),
        ("reasoning_stream_logprobs.sse", ANSWER_AFTER | {"logprobs": True, "top_logprobs": 1}),
        ("reasoning_stream_token_ids.sse", ANSWER_AFTER | {"return_token_ids": True}),
        ("reasoning_stream_cut.sse", {"max_tokens": 4}),
        ("reasoning_stream_hidden.sse", ANSWER_AFTER | {"include_reasoning": False}),
        ("reasoning_stream_eos.sse", {"logit_bias": {"2": 100}}),
        ("reasoning_stream_off.sse", OFF),
        ("reasoning_stream_effort_none.sse", {"reasoning_effort": "none"}),
        (
            "reasoning_stream_continuous_usage.sse",
            ANSWER_AFTER
            | {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        ),
    ],
)
async def test_streams_are_those_of_the_real_one(
    client: Client, name: str, fields: dict[str, Any]
) -> None:
    chunks = await client.stream(CHAT, HELLO | STREAM | fields)
    real = golden(name)
    assert kinds(chunks) == kinds(real)
    assert shapes(chunks) == shapes(real)
    for ours, theirs in zip(chunks, real, strict=True):
        details = "completion_tokens_details"
        assert ours.get("usage", {}).get(details) == theirs.get("usage", {}).get(details)
    assert chunks[-1]["usage"]["completion_tokens"] == real[-1]["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("reasoning_unary.json", ANSWER_AFTER),
        ("reasoning_unary_cut.json", {"max_tokens": 4}),
        ("reasoning_unary_off.json", OFF),
        (
            "reasoning_unary_tool_named.json",
            TOOL | {"thinking_token_budget": 4, "max_tokens": 80},
        ),
    ],
)
async def test_answers_are_those_of_the_real_one(
    client: Client, name: str, fields: dict[str, Any]
) -> None:
    answer = await client.answer(CHAT, HELLO | fields)
    real = golden(name)
    assert shape(answer) == shape(real)
    details = answer["usage"]["completion_tokens_details"]
    assert details == real["usage"]["completion_tokens_details"]


async def test_a_form_and_a_tool_call_follow_the_reasoning(client: Client) -> None:
    form = {"structured_outputs": {"choice": ["Paris", "Rome"]}}
    fields = {"max_tokens": 80, "thinking_token_budget": 4}
    chunks = await client.stream(CHAT, HELLO | STREAM | fields | form)
    assert runs(chunks) == runs(golden("reasoning_stream_choice.sse"))
    assert content_of(chunks) == "Paris"
    assert len(reasoning_of(chunks).split()) == 3
    chunks = await client.stream(CHAT, HELLO | STREAM | fields | TOOL)
    assert runs(chunks) == runs(golden("reasoning_stream_tool_named.sse"))
    calls = [piece for chunk in chunks for each in chunk["choices"] for piece in calls_of(each)]
    arguments = "".join(piece["function"].get("arguments", "") for piece in calls)
    assert json.loads(arguments) == {"city": "Paris"}


def calls_of(choice: Any) -> list[Any]:
    found: list[Any] = choice["delta"].get("tool_calls", [])
    return found


@pytest.mark.parametrize("budget", [None, -1, 0, 1, 2, 30])
async def test_streamed_and_whole_answers_agree(client: Client, budget: int | None) -> None:
    body = HELLO | {"max_tokens": 400, "thinking_token_budget": budget}
    chunks = await client.stream(CHAT, body | STREAM)
    answer = await client.answer(CHAT, body)
    message = answer["choices"][0]["message"]
    assert (reasoning_of(chunks), content_of(chunks)) == (
        message["reasoning"] or "",
        message["content"] or "",
    )
    usage = chunks[-1]["usage"]
    assert usage["completion_tokens_details"] == answer["usage"]["completion_tokens_details"]
    reasoned = usage["completion_tokens_details"]["reasoning_tokens"]
    assert reasoned == len(reasoning_of(chunks).split())
    if budget is not None and budget >= 0:
        assert reasoned <= max(0, budget - 1)


async def test_an_effort_gives_way_to_the_variable_of_the_template(client: Client) -> None:
    on = {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"}
    chunks = await client.stream(CHAT, HELLO | STREAM | on)
    assert reasoning_of(chunks)
    prompts = [
        (await client.answer(CHAT, HELLO | fields))["usage"]["prompt_tokens"]
        for fields in (OFF, {})
    ]
    assert prompts[0] > prompts[1], "the template closes the tag"
    counted = await client.answer("/tokenize", {"messages": HELLO["messages"]})
    assert counted["count"] == prompts[1]


async def test_raw_prompts_have_no_reasoning(client: Client) -> None:
    answer = await client.answer(RAW, HELLO | {"prompt": "Hello"})
    assert answer["usage"]["completion_tokens_details"] is None


async def test_the_next_turn_finds_the_reasoning_in_the_prefix_cache(client: Client) -> None:
    body = HELLO | {"max_tokens": 600, "thinking_token_budget": 300}
    body |= {"messages": [{"role": "user", "content": "Hello " * 200}], "min_tokens": 400}
    first = await client.answer(CHAT, body)
    message = first["choices"][0]["message"]
    assert message["reasoning"]
    turn = {"role": "assistant", "content": message["content"], "reasoning": message["reasoning"]}
    messages = [*body["messages"], turn, {"role": "user", "content": "More"}]
    again = await client.answer(CHAT, body | {"messages": messages})
    generated = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] >= generated - 2 * 128


@pytest.mark.parametrize(
    ("name", "fields", "is_same_text"),
    [
        ("error_reasoning_budget.json", {"thinking_token_budget": -2}, True),
        ("error_reasoning_effort.json", {"reasoning_effort": "huge"}, False),
    ],
)
async def test_errors_are_those_of_the_real_one(
    client: Client, name: str, fields: dict[str, Any], is_same_text: bool
) -> None:
    status, answer, _ = await client.post(CHAT, HELLO | fields)
    real = golden(name)
    assert status == 400
    assert shape(answer) == shape(real)
    assert answer["error"]["param"] == real["error"]["param"]
    if is_same_text:
        assert answer == real


async def test_without_the_flag_nothing_is_told_apart() -> None:
    async with serving() as plain:
        chunks = await plain.stream(CHAT, HELLO | STREAM)
        assert not reasoning_of(chunks)
        assert text_of(chunks)
        assert "completion_tokens_details" not in chunks[-1]["usage"]
