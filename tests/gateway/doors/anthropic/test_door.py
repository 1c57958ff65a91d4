"""The door of the Messages API, called by the provider's own SDK, whose types judge each answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
from anthropic.types import (
    Message,
    MessageTokensCount,
    ModelInfo,
    RawMessageStreamEvent,
)
from pydantic import TypeAdapter

from gateway.config.gateway import KeyConfig
from gateway.config.limits import ElementLimitsConfig, KeyLimitsConfig, LimitsConfig
from gateway.config.resolve.api_keys import key_sha256
from moegate.simulated_vllm.server import SimulatedVllm, SimulatedVllmConfig, simulated_vllm
from tests import serving
from tests.http_serving import ServingHttp, serving_http
from tests.scripted import DONE, ROLE, Scripted, listening, word
from tests.serving import KEY, MODEL

CONTEXT_TOKENS = 8192
WEATHER: Any = {
    "name": "weather",
    "description": "Weather of a place.",
    "input_schema": {
        "type": "object",
        "properties": {"place": {"type": "string"}},
        "required": ["place"],
        "additionalProperties": False,
    },
}
VERSION = {"anthropic-version": "2023-06-01"}
_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedVllm]:
    settings = SimulatedVllmConfig(
        served_model_name=MODEL, speed=50.0, max_model_len=CONTEXT_TOKENS
    )
    async with simulated_vllm(settings) as running:
        yield running


@pytest.fixture
async def gateway(engine: SimulatedVllm) -> AsyncIterator[ServingHttp]:
    poor = KeyConfig(
        id="poor",
        sha256=key_sha256("mg-poor"),
        limits=KeyLimitsConfig(requests_per_minute=1, max_output_tokens=7),
    )
    settings = serving.config(
        pools=[serving.pool([engine.url])],
        keys=[poor],
        interactive=serving.PATIENT,
        limits=LimitsConfig(elements=ElementLimitsConfig(messages=20)),
    )
    async with serving_http(settings) as running:
        yield running


@pytest.fixture
async def client(gateway: ServingHttp) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=gateway.url, auth_token=KEY, api_key=None, max_retries=0
    ) as client:
        yield client


def user(text: str = "hi") -> Any:
    return [{"role": "user", "content": text}]


async def test_a_whole_message(client: anthropic.AsyncAnthropic) -> None:
    answer = await client.messages.create(model=MODEL, max_tokens=5, messages=user())
    Message.model_validate(answer.model_dump(), strict=True)
    [text] = answer.content
    assert text.type == "text"
    assert text.text
    assert (answer.stop_reason, answer.stop_sequence, answer.model) == ("max_tokens", None, MODEL)
    assert answer.usage.output_tokens == 5
    assert answer.usage.input_tokens > 0


async def test_a_stream_has_the_events_of_the_provider(gateway: ServingHttp) -> None:
    body = {"model": MODEL, "max_tokens": 6, "messages": user(), "stream": True}
    async with gateway.session.post(
        f"{gateway.url}/v1/messages", json=body, headers=VERSION
    ) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        assert response.headers["x-moegate-placement"] == "own/a"
        text = (await response.read()).decode()
    events = []
    for frame in text.strip().split("\n\n"):
        name, data = frame.split("\n")
        value = json.loads(data.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        if value["type"] != "ping":
            events.append(_EVENT.validate_python(value))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert events[0].message.usage.input_tokens > 0
    assert events[-2].usage.output_tokens == 6
    assert events[-2].delta.stop_reason == "max_tokens"


async def test_the_sdk_puts_a_streamed_tool_call_together(
    client: anthropic.AsyncAnthropic,
) -> None:
    messages = user("How is the weather in Rome?")
    async with client.messages.stream(
        model=MODEL,
        max_tokens=200,
        messages=messages,
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "weather"},
    ) as stream:
        async for _ in stream:
            pass
        answer = await stream.get_final_message()
    assert answer.stop_reason == "tool_use"
    [call] = [block for block in answer.content if block.type == "tool_use"]
    assert call.name == "weather"
    assert isinstance(call.input, dict)
    assert set(call.input) == {"place"}
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
    second = await client.messages.create(
        model=MODEL,
        max_tokens=5,
        messages=[
            *messages,
            {"role": "assistant", "content": answer.content},
            {"role": "user", "content": [result]},
        ],
        tools=[WEATHER],
    )
    assert second.content[0].type == "text"


async def test_an_answer_in_the_form_of_a_schema(gateway: ServingHttp) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    status, answer = await gateway.post(
        "/v1/messages",
        {
            "model": MODEL,
            "max_tokens": 100,
            "messages": user(),
            "output_config": {"format": {"type": "json_schema", "schema": schema}},
        },
    )
    assert status == 200
    assert json.loads(answer["content"][0]["text"])["ok"] in (True, False)


async def test_more_output_than_fits_is_lowered_to_what_fits(
    gateway: ServingHttp, client: anthropic.AsyncAnthropic
) -> None:
    answer = await client.messages.create(
        model=MODEL, max_tokens=128_000, messages=user("word " * 3000), timeout=60.0
    )
    assert answer.usage.input_tokens + answer.usage.output_tokens <= CONTEXT_TOKENS
    async with anthropic.AsyncAnthropic(base_url=gateway.url, auth_token="mg-poor") as poor:
        few = await poor.messages.create(model=MODEL, max_tokens=500, messages=user(), timeout=60.0)
    assert few.usage.output_tokens <= 7


async def test_a_prompt_that_is_too_long_says_so_in_the_words_that_clients_know(
    client: anthropic.AsyncAnthropic,
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        await client.messages.create(
            model=MODEL, max_tokens=100, messages=user("word " * CONTEXT_TOKENS)
        )
    error: Any = caught.value.body
    assert error["error"]["type"] == "invalid_request_error"
    assert error["error"]["message"].startswith("prompt is too long: ")
    assert caught.value.response.headers["x-should-retry"] == "false"


async def test_counts_and_models(client: anthropic.AsyncAnthropic, gateway: ServingHttp) -> None:
    counted = await client.messages.count_tokens(model=MODEL, messages=user("one two three"))
    MessageTokensCount.model_validate(counted.model_dump(), strict=True)
    assert counted.input_tokens > 0
    listed = [model async for model in client.models.list()]
    assert [model.id for model in listed] == [MODEL]
    ModelInfo.model_validate(listed[0].model_dump())
    assert (await client.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(anthropic.NotFoundError):
        await client.models.retrieve("other")
    async with gateway.session.get(f"{gateway.url}/v1/models") as response:
        assert (await response.json())["object"] == "list"  # without the provider's headers


async def test_errors_have_the_type_and_the_retry_words(
    gateway: ServingHttp, client: anthropic.AsyncAnthropic
) -> None:
    async with anthropic.AsyncAnthropic(base_url=gateway.url, api_key="wrong", max_retries=0) as w:
        with pytest.raises(anthropic.AuthenticationError) as unknown:
            await w.messages.create(model=MODEL, max_tokens=1, messages=user())
    assert unknown.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(anthropic.NotFoundError) as missing:
        await client.messages.create(model="other", max_tokens=1, messages=user())
    body: Any = missing.value.body
    assert body["type"] == "error"
    assert body["error"]["type"] == "not_found_error"
    assert body["request_id"] == missing.value.request_id
    async with anthropic.AsyncAnthropic(
        base_url=gateway.url, auth_token="mg-poor", max_retries=0
    ) as poor:
        await poor.messages.create(model=MODEL, max_tokens=1, messages=user())
        with pytest.raises(anthropic.RateLimitError) as full:
            await poor.messages.create(model=MODEL, max_tokens=1, messages=user())
    assert int(full.value.response.headers["retry-after"]) > 0
    limited: Any = full.value.body
    assert limited["error"]["type"] == "rate_limit_error"


async def test_every_fault_of_a_body_is_named(gateway: ServingHttp) -> None:
    status, body = await gateway.post(
        "/v1/messages",
        {"model": MODEL, "messages": [{"role": "robot", "content": "a"}], "temperature": 9},
        **VERSION,
    )
    assert (status, body["error"]["type"]) == (400, "invalid_request_error")
    for field in ("max_tokens", "messages[0].role", "temperature"):
        assert f"{field}: " in body["error"]["message"]
    many = {"model": MODEL, "max_tokens": 1, "messages": user() * 21}
    many["messages"] = [*user(), {"role": "assistant", "content": "b"}] * 11
    status, body = await gateway.post("/v1/messages", many, **VERSION)
    assert status == 400
    assert "limits.elements.messages" in body["error"]["message"]


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/v1/messages", b'"tools": [{"name": "f", "input_schema": {"type": "\x80"}}]'),
        ("/v1/messages", b'"system": "\x80"'),
        (
            "/v1/chat/completions",
            b'"tools": [{"type": "function",'
            b' "function": {"name": "f", "parameters": {"a": "\x80"}}}]',
        ),
    ],
)
async def test_a_body_of_another_encoding_is_refused(
    gateway: ServingHttp, path: str, part: bytes
) -> None:
    """Also where the parser keeps a part of it as it came."""
    start = b'{"model": "moe", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}], '
    url = gateway.url + path
    async with gateway.session.post(url, data=start + part + b"}", headers=VERSION) as response:
        assert response.status == 400
        assert "no UTF-8" in (await response.json())["error"]["message"]


async def test_a_stream_that_breaks_off_ends_with_an_error_event() -> None:
    script = Scripted(frames=[ROLE, word(1)], end="cut")
    async with listening(script):
        settings = serving.config(pools=[serving.pool([script.url])])
        body = {"model": MODEL, "max_tokens": 6, "messages": user(), "stream": True}
        async with (
            serving_http(settings) as gateway,
            gateway.session.post(f"{gateway.url}/v1/messages", json=body) as response,
        ):
            assert response.status == 200
            text = (await response.read()).decode()
    last = text.strip().split("\n\n")[-1]
    assert last.startswith("event: error\n")
    error = json.loads(last.partition("data: ")[2])
    assert error["error"]["type"] == "overloaded_error"
    assert "incomplete" in error["error"]["message"]


async def test_leaving_a_stream_frees_the_engine(
    engine: SimulatedVllm, client: anthropic.AsyncAnthropic
) -> None:
    async with client.messages.stream(model=MODEL, max_tokens=8000, messages=user()) as stream:
        async for _ in stream:
            break
    await serving.until(lambda: engine.open_requests == 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("told", "expected"),
    [(b'"END"', ("stop_sequence", "END")), (b"151645", ("end_turn", None)), (b'"eos"', None)],
)
async def test_the_text_that_ended_the_answer_is_told(
    stream: bool, told: bytes, expected: tuple[str, str | None] | None
) -> None:
    """Some servers have other words in its place."""
    last = b'{"index":0,"delta":{},"finish_reason":"stop","stop_reason":%s}' % told
    frames = [ROLE, word(1), b'data: {"model":"m","choices":[%s]}\n\n' % last, DONE]
    script = Scripted(frames=frames)
    async with listening(script):
        settings = serving.config(pools=[serving.pool([script.url])])
        async with (
            serving_http(settings) as gateway,
            anthropic.AsyncAnthropic(base_url=gateway.url, auth_token=KEY, api_key=None) as client,
        ):
            asked: Any = {"model": MODEL, "max_tokens": 6, "messages": user()}
            asked["stop_sequences"] = ["END", "FIN"]
            if stream:
                async with client.messages.stream(**asked) as events:
                    answer: Any = await events.get_final_message()
            else:
                answer = await client.messages.create(**asked)
    assert (answer.stop_reason, answer.stop_sequence) == (expected or ("end_turn", None))
