"""The same conversation through each door: the same request to the engine, the same usage, cost and
decision."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config.gateway import GatewayConfig
from gateway.config.money import usd_text
from gateway.config.prices import PricesConfig
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2
from scheduler.metering.settlement import SettledAttempt
from tests import serving
from tests.gateway.doors.openai.rig import call_frames
from tests.http_serving import ServingHttp, serving_http
from tests.scripted import Scripted, listening
from tests.serving import METADATA, MODEL, read_stream

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
ARGUMENTS = '{"city": "Oslo"}'
PNG = b"\x89PNG"
IMAGE = "data:image/png;base64,iVBORw=="


def part(text: str) -> chat_pb2.ContentPart:
    return chat_pb2.ContentPart(text=text)


def grpc_request() -> generation_pb2.GenerateRequest:
    call = chat_pb2.ToolCall(id="c1", name="weather", arguments_json=ARGUMENTS)
    image = chat_pb2.ContentPart(image=chat_pb2.ImagePart(data=PNG, media_type="image/png"))
    messages = [
        chat_pb2.ChatMessage(role=chat_pb2.ROLE_SYSTEM, parts=[part("Be brief.")]),
        chat_pb2.ChatMessage(role=chat_pb2.ROLE_USER, parts=[part("Where?"), image]),
        chat_pb2.ChatMessage(
            role=chat_pb2.ROLE_ASSISTANT, reasoning_text="Ask.", tool_calls=[call]
        ),
        chat_pb2.ChatMessage(role=chat_pb2.ROLE_TOOL, parts=[part("rain")], tool_call_id="c1"),
        chat_pb2.ChatMessage(role=chat_pb2.ROLE_USER, parts=[part("And now?")]),
    ]
    tool = chat_pb2.ToolDefinition(
        name="weather", description="Weather", parameters_json_schema=json.dumps(SCHEMA)
    )
    return generation_pb2.GenerateRequest(
        model=MODEL,
        chat=chat_pb2.ChatInput(
            messages=messages,
            tools=[tool],
            tool_choice=chat_pb2.ToolChoice(mode=chat_pb2.TOOL_CHOICE_MODE_AUTO),
            reasoning=chat_pb2.Reasoning(effort=chat_pb2.REASONING_EFFORT_LOW),
        ),
        max_output_tokens=50,
        sampling=generation_pb2.Sampling(temperature=0.5, top_p=0.9),
        session_id="s1",
        labels={"team": "a"},
        end_user="u1",
    )


CHAT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Where?"},
                {"type": "image_url", "image_url": {"url": IMAGE}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Ask.",
            "tool_calls": [
                {
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": ARGUMENTS},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {"name": "weather", "description": "Weather", "parameters": SCHEMA},
        }
    ],
    "tool_choice": "auto",
    "reasoning_effort": "low",
    "max_completion_tokens": 50,
    "temperature": 0.5,
    "top_p": 0.9,
    "stream_options": {"include_usage": True},
    "user": "u1",
}
RESPONSES: dict[str, Any] = {
    "instructions": "Be brief.",
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Where?"},
                {"type": "input_image", "image_url": IMAGE},
            ],
        },
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Ask."}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": ARGUMENTS},
        {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [
        {"type": "function", "name": "weather", "description": "Weather", "parameters": SCHEMA}
    ],
    "tool_choice": "auto",
    "reasoning": {"effort": "low"},
    "safety_identifier": "u1",
    "max_output_tokens": 50,
    "temperature": 0.5,
    "top_p": 0.9,
}


MESSAGES: dict[str, Any] = {
    "system": "Be brief.",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Where?"},
                {
                    "type": "image",
                    "source": {
                        "type": "base64",
                        "media_type": "image/png",
                        "data": IMAGE.rpartition(",")[2],
                    },
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Ask.", "signature": ""},
                {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "rain"},
                {"type": "text", "text": "And now?"},
            ],
        },
    ],
    "tools": [{"name": "weather", "description": "Weather", "input_schema": SCHEMA}],
    "tool_choice": {"type": "auto"},
    "output_config": {"effort": "low"},
    "metadata": {"user_id": "u1"},
    "max_tokens": 50,
    "temperature": 0.5,
    "top_p": 0.9,
}


BODIES = {
    "chat": ("/v1/chat/completions", CHAT),
    "responses": ("/v1/responses", RESPONSES),
    "messages": ("/v1/messages", MESSAGES),
}
DOORS = tuple(f"{name}{how}" for name in BODIES for how in ("", "-streamed"))
FIELDS = (
    *("usage", "placement", "tenant", "key_id", "session_id", "basis", "outcome"),
    *("end_user", "labels_json"),
    *("charged_nano_usd", "price_row_id", "slo_class"),
)
CATALOG = """
showback:
  - id: own-2026
    pool: own
    usd_per_mtok: {input: "2.00", output: "8.00"}
    valid_from: 2026-01-01
    source: test
    checked_at: 2026-01-01
"""


@dataclass(frozen=True, slots=True)
class Told:
    """What a client was told. `usd`: the cost; None: the dialect has no place for it."""

    request_id: str
    usd: str | None


async def through(door: str, http: ServingHttp) -> Told:
    """Sends the conversation, and reads the answer."""
    if door == "grpc":
        call = http.serving.stub.Generate(grpc_request(), metadata=METADATA)
        done = (await read_stream(call)).done
        assert done is not None
        return Told(done.request_id, usd_text(done.cost.charged_nano_usd))
    name, _, streamed = door.partition("-")
    path, body = BODIES[name]
    sent = {"model": MODEL, "stream": bool(streamed), **body}
    headers = {"x-moegate-session-id": "s1", "x-moegate-labels": "team=a"}
    async with http.session.post(http.url + path, json=sent, headers=headers) as response:
        assert response.status == 200, await response.text()
        costs = re.findall(r'"cost":([0-9.]+)', await response.text())
        if not streamed:
            costs.append(response.headers["x-moegate-cost-usd"])
        assert len(set(costs)) < 2
        return Told(response.headers["x-request-id"], costs[-1] if costs else None)


async def decision(told: Told, http: ServingHttp) -> inference_pb2.ExplainResponse:
    """The decision for the request, without its id and times."""
    request = inference_pb2.ExplainRequest(request_id=told.request_id)
    found = await http.serving.stub.Explain(request, metadata=METADATA)
    return inference_pb2.ExplainResponse(
        model=found.model,
        attempt=found.attempt,
        tier=found.tier,
        placement=found.placement,
        # The time to the first token is learnt, and longer where the computer is busy.
        reason=re.sub(r"[0-9.]+ m?s\b", "a time", found.reason),
    )


def settings(url: str, folder: Path) -> GatewayConfig:
    (folder / "prices.yaml").write_text(CATALOG)
    made = serving.config(pools=[serving.pool([url])], interactive=serving.PATIENT)
    return msgspec.structs.replace(made, prices=PricesConfig(catalog=str(folder / "prices.yaml")))


@pytest.mark.parametrize("door", DOORS)
async def test_each_door_says_the_same_as_grpc(door: str, tmp_path: Path) -> None:
    script = Scripted(frames=call_frames(("weather", ARGUMENTS)))
    settled: list[SettledAttempt] = []
    found: list[tuple[dict[str, Any], SettledAttempt, Told]] = []
    decisions = []
    async with listening(script):
        config = settings(script.url, tmp_path)
        async with serving_http(config, sinks=(settled.append,)) as http:
            for each in ("grpc", door):
                told = await through(each, http)
                await serving.until(lambda: len(settled) > len(found))
                found.append((script.body, settled[-1], told))
                decisions.append(await decision(told, http))
    (engine_grpc, account_grpc, told_grpc), (engine_http, account_http, told_http) = found
    # The interval follows the load of this process, which a busy computer makes.
    for name in ("request_id", "priority", "stream_interval"):
        engine_grpc.pop(name, None)
        engine_http.pop(name, None)
    assert engine_http == engine_grpc
    for name in FIELDS:
        assert getattr(account_http, name) == getattr(account_grpc, name), name
    assert decisions[0] == decisions[1]
    assert decisions[0].placement == "own/a"
    assert told_grpc.usd == usd_text(12 * 2_000 + 7 * 8_000)
    assert told_http.usd == (None if door == "messages-streamed" else told_grpc.usd)
