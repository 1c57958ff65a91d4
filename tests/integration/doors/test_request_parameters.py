"""Forms of the answer, tool calls and rules for tokens, through the gateway to a simulated vLLM."""

from __future__ import annotations

import json

import grpc
import msgspec
import pytest

from moegate.v1 import chat_pb2, generation_pb2, inference_pb2
from tests import serving
from tests.integration.doors.test_gateway import UPSTREAM, engine, failure, gateway, sim
from tests.serving import METADATA, Serving, chat_request, details, read_stream

__all__ = ["gateway", "sim"]
SCHEMA = json.dumps(
    {"type": "object", "properties": {"city": {"enum": ["Rome"]}}, "required": ["city"]}
)
BIASED = 900
"""A token that is no word."""


async def answered(
    gateway: Serving, request: generation_pb2.GenerateRequest
) -> tuple[str, int, int]:
    """Text, finish reason and completion tokens of a stream."""
    seen = await read_stream(gateway.stub.Generate(request, metadata=METADATA))
    assert seen.done is not None
    return seen.texts[0], seen.finish_reasons[0], seen.done.usage.completion_tokens


@pytest.mark.parametrize(
    ("response_format", "text"),
    [
        (chat_pb2.ResponseFormat(regex="(ab){3}"), "ababab"),
        (chat_pb2.ResponseFormat(choice=chat_pb2.ChoiceFormat(texts=["Rome"])), "Rome"),
        (chat_pb2.ResponseFormat(grammar='root ::= "yes"'), "yes"),
        (
            chat_pb2.ResponseFormat(
                json_schema=chat_pb2.JsonSchemaFormat(name="a", schema_json=SCHEMA)
            ),
            '{"city": "Rome"}',
        ),
    ],
)
async def test_the_answer_has_its_form(
    gateway: Serving, response_format: chat_pb2.ResponseFormat, text: str
) -> None:
    request = chat_request(max_output_tokens=40)
    request.chat.response_format.CopyFrom(response_format)
    said, reason, _ = await answered(gateway, request)
    assert (said, reason) == (text, generation_pb2.FINISH_REASON_STOP)


async def test_a_forced_tool_call_arrives_whole(gateway: Serving) -> None:
    request = chat_request(max_output_tokens=60)
    request.chat.tools.add(name="weather", parameters_json_schema=SCHEMA)
    request.chat.tool_choice.mode = chat_pb2.TOOL_CHOICE_MODE_REQUIRED
    request.chat.parallel_tool_calls = False
    response = await gateway.stub.GenerateOnce(
        inference_pb2.GenerateOnceRequest(request=request), metadata=METADATA
    )
    [choice] = response.choices
    [call] = choice.tool_calls
    assert (call.name, call.arguments_json) == ("weather", '{"city": "Rome"}')
    assert choice.finish_reason == generation_pb2.FINISH_REASON_TOOL_CALLS


async def test_rules_for_tokens_reach_the_engine(gateway: Serving) -> None:
    request = chat_request(logit_bias={BIASED: 100.0}, stop_token_ids=[BIASED], min_tokens=5)
    _, reason, tokens = await answered(gateway, request)
    assert (reason, tokens) == (generation_pb2.FINISH_REASON_STOP, 6)


async def test_what_the_engine_refuses_reaches_the_client(gateway: Serving) -> None:
    request = chat_request()
    request.chat.reasoning.budget_tokens = 5
    error = await failure(gateway, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "--reasoning-parser" in (error.details() or "")
    request = chat_request(min_tokens=17)
    error = await failure(gateway, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)


async def test_a_pool_adds_fields_that_a_request_may_replace() -> None:
    extra = json.dumps({"structured_outputs": {"choice": ["Paris"]}})
    async with engine() as sim:
        pool = serving.pool([sim.url], upstream_model=UPSTREAM)
        pool = msgspec.structs.replace(pool, extra_body_json=extra)
        async with serving.serving(serving.config(pools=[pool])) as gateway:
            assert (await answered(gateway, chat_request()))[0] == "Paris"
            request = chat_request()
            request.chat.response_format.choice.texts.append("Rome")
            assert (await answered(gateway, request))[0] == "Rome"
