"""The providers' own SDKs, unchanged, through the gateway on a real vLLM: each has a tool called,
sends its result, and streams the end of the conversation. The model's weights are random, so that
only the name of a forced call is certain, and its arguments may not end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import msgspec
import openai
import pytest

from tests import serving
from tests.http_serving import ServingHttp, serving_http
from tests.serving import KEY, MODEL
from tests.vllm.launch import VllmProcess

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"unit": {"type": "string", "enum": ["C", "F"]}},
    "required": ["unit"],
    "additionalProperties": False,
}
ASKED: Any = {"role": "user", "content": "How warm is it?"}


@pytest.fixture
async def http(vllm_server: VllmProcess) -> AsyncIterator[ServingHttp]:
    own = serving.pool([vllm_server.base_url], upstream_model=vllm_server.model, max_num_seqs=32)
    own = msgspec.structs.replace(own, grpc_port=vllm_server.grpc_port)
    settings = serving.config(pools=[own], interactive=serving.PATIENT)
    async with serving_http(settings) as running:
        yield running


async def test_the_sdk_of_openai(http: ServingHttp) -> None:
    async with openai.AsyncOpenAI(base_url=f"{http.url}/v1", api_key=KEY) as client:
        function = {"name": "weather", "description": "Weather", "parameters": SCHEMA}
        tools: Any = [{"type": "function", "function": function}]
        choice: Any = {"type": "function", "function": {"name": "weather"}}
        first = await client.chat.completions.create(
            model=MODEL, messages=[ASKED], tools=tools, tool_choice=choice, max_tokens=200
        )
        [call] = first.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert call.function.name == "weather"
        call.function.arguments = json.dumps({"unit": "C"})
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "21"}
        answered: Any = first.choices[0].message.model_dump(exclude_none=True)
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[ASKED, answered, result],
            tools=tools,
            tool_choice="none",
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        usage = chunks[-1].usage
        assert usage is not None
        assert usage.completion_tokens == 8
        assert usage.prompt_tokens > (first.usage.prompt_tokens if first.usage else 0)


async def test_the_sdk_of_anthropic(http: ServingHttp) -> None:
    async with anthropic.AsyncAnthropic(base_url=http.url, auth_token=KEY, api_key=None) as client:
        tools: Any = [{"name": "weather", "description": "Weather", "input_schema": SCHEMA}]
        first = await client.messages.create(
            model=MODEL,
            messages=[ASKED],
            tools=tools,
            tool_choice={"type": "tool", "name": "weather"},
            max_tokens=200,
        )
        assert first.stop_reason in ("tool_use", "max_tokens")
        [call] = [block for block in first.content if block.type == "tool_use"]
        assert call.name == "weather"
        call.input = {"unit": "C"}
        block: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "21"}
        async with client.messages.stream(
            model=MODEL,
            messages=[
                ASKED,
                {"role": "assistant", "content": first.content},
                {"role": "user", "content": [block]},
            ],
            tools=tools,
            tool_choice={"type": "none"},
            max_tokens=8,
        ) as stream:
            answer = await stream.get_final_message()
        assert answer.usage.output_tokens == 8
        assert answer.stop_reason == "max_tokens"
        counted = await client.messages.count_tokens(model=MODEL, messages=[ASKED], tools=tools)
        assert counted.input_tokens == first.usage.input_tokens + (
            first.usage.cache_read_input_tokens or 0
        )


async def test_leaving_a_stream_frees_the_engine(http: ServingHttp) -> None:
    async with openai.AsyncOpenAI(base_url=f"{http.url}/v1", api_key=KEY) as client:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[ASKED],
            max_tokens=400,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async for _ in stream:
            break
        await stream.close()
        pipeline = http.gateway.front.parts.pipeline
        await serving.until(lambda: pipeline.active_requests == 0)
        states = http.gateway.scheduler.core.placements
        await serving.until(lambda: not any(state.sequences for state in states))
