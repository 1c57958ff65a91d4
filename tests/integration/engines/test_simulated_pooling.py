"""The simulated vLLM that embeds or scores, over real HTTP: answers, errors and routes of a real
vLLM 0.32 with `--runner pooling`, whose texts stand here as it sent them."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import aiohttp
import pytest

from moegate.simulated_vllm.config import ModelTask, SimulatedVllmConfig
from moegate.simulated_vllm.server import SimulatedVllm, simulated_vllm

NAME = "tiny-moe"
EMBEDS = SimulatedVllmConfig(
    served_model_name=NAME, max_model_len=1024, task=ModelTask.EMBED, speed=20.0
)
SCORES = SimulatedVllmConfig(served_model_name=NAME, task=ModelTask.SCORE, speed=20.0)
LONG = "word " * 3000
USAGE_KEYS = [
    *("prompt_tokens", "total_tokens", "completion_tokens"),
    *("prompt_tokens_details", "completion_tokens_details"),
]


async def post(
    server: SimulatedVllm, path: str, body: dict[str, Any], **headers: str
) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as http,
        http.post(server.url + path, json={"model": NAME, **body}, headers=headers) as response,
    ):
        return response.status, json.loads(await response.read())


async def test_vectors_have_the_shape_of_vllm_as_numbers_and_in_base64() -> None:
    body = {"input": ["a fox is an animal", "the capital is Paris"]}
    async with simulated_vllm(EMBEDS) as server:
        status, plain = await post(server, "/v1/embeddings", body, **{"X-Request-Id": "abc"})
        coded = body | {"encoding_format": "base64"}
        _, packed = await post(server, "/v1/embeddings", coded)
    assert (status, plain["id"]) == (200, "embd-abc")
    assert list(plain) == ["id", "object", "created", "model", "data", "usage"]
    assert [list(each) for each in plain["data"]] == [["index", "object", "embedding"]] * 2
    assert list(plain["usage"]) == USAGE_KEYS
    assert plain["usage"]["completion_tokens"] == 0
    for numbers, text in zip(plain["data"], packed["data"], strict=True):
        raw = base64.b64decode(text["embedding"])
        unpacked = struct.unpack(f"<{len(raw) // 4}f", raw)
        assert list(unpacked) == numbers["embedding"]


@pytest.mark.parametrize("config", [EMBEDS, SCORES])
async def test_scores_have_the_shape_of_vllm_and_rerank_puts_the_best_first(
    config: SimulatedVllmConfig,
) -> None:
    documents = ["the capital is Paris", "a fox is an animal"]
    async with simulated_vllm(config) as server:
        asked = {"text_1": "what is a fox", "text_2": documents}
        status, scores = await post(server, "/v1/score", asked)
        asked = {"query": "what is a fox", "documents": documents}
        _, ranked = await post(server, "/rerank", asked)
        _, best = await post(server, "/rerank", asked | {"top_n": 1})
    assert (status, scores["id"][:6]) == (200, "score-")
    assert [list(each) for each in scores["data"]] == [["index", "object", "score"]] * 2
    assert list(ranked) == ["id", "model", "usage", "results"]
    assert list(ranked["usage"]) == ["prompt_tokens", "total_tokens"]
    first, second = ranked["results"]
    assert first["document"] == {"text": documents[1], "multi_modal": None}
    assert [first["relevance_score"], second["relevance_score"]] == [
        scores["data"][1]["score"],
        scores["data"][0]["score"],
    ]
    assert best["results"] == [first]


@pytest.mark.parametrize(
    ("path", "body", "status", "message", "param"),
    [
        (
            "/v1/embeddings",
            {"input": "hello", "dimensions": 32},
            400,
            "Model 'tiny-moe' does not support Matryoshka embeddings; dimensions must be unset"
            " (received dimensions=32).",
            None,
        ),
        ("/v1/embeddings", {"input": ""}, 400, "The decoder prompt cannot be empty", None),
        ("/v1/embeddings", {"input": [[]]}, 400, "The decoder prompt cannot be empty", None),
        ("/v1/embeddings", {"input": []}, 400, "You must pass at least one prompt", None),
        (
            "/v1/embeddings",
            {"input": [[2_000_000_000]]},
            400,
            "Token id 2000000000 is out of vocabulary",
            None,
        ),
        (
            "/v1/embeddings",
            {"input": ["ok", LONG]},
            400,
            "This model's maximum context length is 1024 tokens. However, your prompt contains at"
            " least 1025 input tokens, which exceeds this limit even without any output tokens."
            " Please reduce the length of the input prompt. (parameter=input_tokens, value=1025)",
            "input_tokens",
        ),
        (
            "/v1/embeddings",
            {"input": [[300] * 1995]},
            400,
            "This model's maximum context length is 1024 tokens. However, your prompt contains"
            " 1995 input tokens, which exceeds this limit even without any output tokens. Please"
            " reduce the length of the input prompt. (parameter=input_tokens, value=1995)",
            "input_tokens",
        ),
        (
            "/v1/embeddings",
            {"input": "hello", "truncate_prompt_tokens": 100_000},
            400,
            "truncate_prompt_tokens value is greater than max_model_len. Please request a smaller"
            " truncation size.",
            None,
        ),
        (
            "/v1/embeddings",
            {"input": "hello", "model": "nope"},
            404,
            "The model `nope` does not exist.",
            None,
        ),
        (
            "/v1/score",
            {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]},
            400,
            "Input lengths must be either 1:1, 1:N or N:N",
            None,
        ),
    ],
)
async def test_refusals_are_those_of_vllm(
    path: str, body: dict[str, Any], status: int, message: str, param: str | None
) -> None:
    async with simulated_vllm(EMBEDS) as server:
        found, answer = await post(server, path, body)
    kind = "NotFoundError" if status == 404 else "BadRequestError"
    expected = {"message": message, "type": kind, "param": param, "code": status}
    assert (found, answer) == (status, {"error": expected})


async def test_a_route_that_the_model_has_no_use_for_does_not_exist() -> None:
    generates = SimulatedVllmConfig(served_model_name=NAME)
    for config, paths in (
        (generates, ("/v1/embeddings", "/score", "/v1/score", "/rerank", "/v1/rerank")),
        (EMBEDS, ("/v1/chat/completions", "/v1/completions")),
        (SCORES, ("/v1/chat/completions", "/v1/embeddings")),
    ):
        async with simulated_vllm(config) as server:
            for path in paths:
                assert await post(server, path, {}) == (404, {"detail": "Not Found"})


async def test_what_is_cut_and_what_is_computed_are_counted() -> None:
    async with simulated_vllm(EMBEDS) as server:
        _, cut = await post(server, "/v1/embeddings", {"input": LONG, "truncate_prompt_tokens": 16})
        _, whole = await post(
            server, "/v1/embeddings", {"input": LONG, "truncate_prompt_tokens": -1}
        )
        async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as response:
            metrics = await response.text()
    assert cut["usage"]["prompt_tokens"] == 16
    assert whole["usage"]["prompt_tokens"] == 1024
    counted = {
        name: float(line.split()[-1])
        for line in metrics.splitlines()
        for name in ("prompt_tokens_total", "generation_tokens_total")
        if line.startswith(f"vllm:{name}{{")
    }
    assert counted == {"prompt_tokens_total": 1040.0, "generation_tokens_total": 0.0}
