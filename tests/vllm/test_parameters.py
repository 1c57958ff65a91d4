"""Forms of the answer, rules for tokens and reasoning, as a real vLLM honours them."""

from __future__ import annotations

import re

import grpc
import pytest

from moegate.v1 import chat_pb2, generation_pb2
from tests.serving import GREEDY, Serving, chat_request
from tests.vllm.test_dialect import PROMPT, REQUIRED, hear, shaped_chat

TOKEN = 100
"""Any token of the vocabulary of 2048."""
END_OF_SEQUENCE = 2
ALWAYS = 100.0
"""A bias beside which no other token is drawn."""


def asked(**fields: object) -> generation_pb2.GenerateRequest:
    return chat_request(PROMPT, **{"sampling": GREEDY, "max_output_tokens": 12} | fields)


@pytest.mark.parametrize(
    ("response_format", "pattern"),
    [
        pytest.param(chat_pb2.ResponseFormat(regex="(ab|cd){3}"), "(ab|cd){3}", id="regex"),
        pytest.param(
            chat_pb2.ResponseFormat(choice=chat_pb2.ChoiceFormat(texts=["Paris", "Rome (Lazio)"])),
            r"Paris|Rome \(Lazio\)",
            id="choice",
        ),
        pytest.param(
            chat_pb2.ResponseFormat(grammar='root ::= "yes" | "no" digit\ndigit ::= [0-9]'),
            r"yes|no\d",
            id="grammar",
        ),
    ],
)
async def test_the_answer_has_its_form(
    gateway: Serving, response_format: chat_pb2.ResponseFormat, pattern: str
) -> None:
    request = shaped_chat(response_format=response_format, max_output_tokens=40)
    choices, _ = await hear(gateway, request)
    assert choices[0].finish_reason == generation_pb2.FINISH_REASON_STOP
    assert re.fullmatch(pattern, choices[0].text), choices[0].text


async def test_a_grammar_that_is_none_is_refused(gateway: Serving) -> None:
    broken = chat_pb2.ResponseFormat(grammar='root ::= "a')
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await hear(gateway, shaped_chat(response_format=broken))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_bias_decides_the_tokens(gateway: Serving) -> None:
    request = asked(logit_bias={TOKEN: ALWAYS}, logprobs=0)
    choices, done = await hear(gateway, request)
    assert done.usage.completion_tokens == 12
    assert len({entry.token for entry in choices[0].logprobs}) == 1


async def test_a_stop_token_ends_the_answer(gateway: Serving) -> None:
    request = asked(logit_bias={TOKEN: ALWAYS}, stop_token_ids=[TOKEN])
    choices, done = await hear(gateway, request)
    assert choices[0].finish_reason == generation_pb2.FINISH_REASON_STOP
    assert done.usage.completion_tokens == 1


@pytest.mark.parametrize("token", [TOKEN, END_OF_SEQUENCE])
async def test_nothing_ends_the_answer_before_its_least_tokens(
    gateway: Serving, token: int
) -> None:
    request = asked(logit_bias={token: ALWAYS}, stop_token_ids=[TOKEN], min_tokens=5)
    choices, done = await hear(gateway, request)
    assert choices[0].finish_reason == generation_pb2.FINISH_REASON_STOP
    assert done.usage.completion_tokens == 6


async def test_a_token_beyond_the_vocabulary_is_refused(gateway: Serving) -> None:
    for request in (asked(stop_token_ids=[10_000]), asked(logit_bias={10_000: 1.0})):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await hear(gateway, request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_one_tool_call_at_most(gateway: Serving) -> None:
    request = shaped_chat(tool_choice=REQUIRED)
    request.chat.parallel_tool_calls = False
    choices, _ = await hear(gateway, request)
    assert list(choices[0].calls) == [0]


async def test_reasoning_and_variables_of_the_template_are_taken(gateway: Serving) -> None:
    request = asked(max_output_tokens=4)
    request.chat.reasoning.thinking = True
    request.chat.reasoning.effort = chat_pb2.REASONING_EFFORT_LOW
    request.chat.chat_template_kwargs_json = '{"deep": true}'
    _, done = await hear(gateway, request)
    assert done.usage.completion_tokens > 0
    request.chat.ClearField("reasoning")
    request.chat.reasoning.effort = chat_pb2.REASONING_EFFORT_NONE
    _, done = await hear(gateway, request)
    assert done.usage.completion_tokens > 0


async def test_a_budget_needs_a_reasoning_parser(gateway: Serving) -> None:
    request = asked()
    request.chat.reasoning.budget_tokens = 5
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await hear(gateway, request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "--reasoning-parser" in (caught.value.details() or "")
