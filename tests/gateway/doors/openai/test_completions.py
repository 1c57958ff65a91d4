"""/v1/completions and /v1/embeddings, by OpenAI's own types."""

from __future__ import annotations

import base64
import struct
from typing import Any

import openai
import pytest
from openai.types import Completion, CreateEmbeddingResponse
from pydantic import TypeAdapter

from moegate.simulated_vllm.server import SimulatedVllmConfig, simulated_vllm
from tests import serving
from tests.gateway.doors.openai.rig import MODEL
from tests.http_serving import ServingHttp, serving_http
from tests.integration.engines.test_pooling import embedding_settings

COMPLETIONS, EMBEDDINGS = "/v1/completions", "/v1/embeddings"


@pytest.fixture
async def http() -> Any:
    config = SimulatedVllmConfig(served_model_name=MODEL, speed=100.0)
    async with simulated_vllm(config) as engine:
        settings = serving.config(pools=[serving.pool([engine.url])], interactive=serving.PATIENT)
        async with serving_http(settings) as running:
            yield running


async def test_a_completion_whole_and_streamed(http: ServingHttp) -> None:
    body = {"model": MODEL, "prompt": "Once upon", "max_tokens": 5, "logprobs": 1, "n": 2}
    status, answer = await http.post(COMPLETIONS, body)
    assert status == 200, answer
    found = TypeAdapter(Completion).validate_python(answer, strict=True)
    assert [choice.index for choice in found.choices] == [0, 1]
    assert found.usage is not None
    assert found.usage.completion_tokens == 10
    logprobs = found.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or ()) == found.choices[0].text
    async with openai.AsyncOpenAI(base_url=f"{http.url}/v1", api_key=serving.KEY) as client:
        stream = await client.completions.create(
            model=MODEL,
            prompt=[[1, 2, 3]],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 16
    assert chunks[-1].usage.prompt_tokens == 3


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "b"]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": "a", "echo": True}, "echo"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "logprobs": 50}, "logprobs"),
    ],
)
async def test_a_fault_names_its_field(http: ServingHttp, body: dict[str, Any], param: str) -> None:
    status, answer = await http.post(COMPLETIONS, {"model": MODEL, **body})
    assert (status, answer["error"]["param"]) == (400, param)


async def test_embeddings_as_numbers_and_as_base64() -> None:
    async with embedding_settings() as (settings, _), serving_http(settings) as http:
        body = {"model": MODEL, "input": ["a fox", "a wood"]}
        status, answer = await http.post(EMBEDDINGS, body)
        assert status == 200, answer
        found = TypeAdapter(CreateEmbeddingResponse).validate_python(answer, strict=True)
        assert [each.index for each in found.data] == [0, 1]
        assert found.usage.prompt_tokens == found.usage.total_tokens > 0
        _, packed = await http.post(EMBEDDINGS, body | {"encoding_format": "base64"})
        data = base64.b64decode(packed["data"][0]["embedding"])
        assert list(struct.unpack(f"<{len(data) // 4}f", data)) == found.data[0].embedding
        async with openai.AsyncOpenAI(base_url=f"{http.url}/v1", api_key=serving.KEY) as client:
            made = await client.embeddings.create(model=MODEL, input="a fox")
        assert made.data[0].embedding == pytest.approx(found.data[0].embedding)
        for wrong in ({"input": ""}, {"dimensions": 0}, {"encoding_format": "int8"}):
            status, answer = await http.post(EMBEDDINGS, body | wrong)
            assert (status, answer["error"]["param"]) == (400, next(iter(wrong)))
