"""Vectors and scores of a real vLLM, through the gateway and beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import grpc
import pytest
from msgspec import structs

from gateway.config.tasks import Task
from moegate.v1 import chat_pb2, generation_pb2, pooling_pb2
from tests import serving
from tests.serving import METADATA, MODEL, Serving
from tests.vllm.launch import (
    EMBEDDING_FLAGS,
    SCORING_FLAGS,
    VllmProcess,
    running_vllm,
    unsupported_cpu,
)

TEXTS = [f"The {i}th text is about number {i * 7}, as every text here is." for i in range(40)]
"""More than the server runs at once."""


@pytest.fixture(scope="module")
def embedding_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmProcess]:
    if reason := unsupported_cpu():
        pytest.skip(reason)
    with running_vllm(tmp_path_factory.mktemp("embed"), pooling=EMBEDDING_FLAGS) as server:
        yield server


@pytest.fixture
async def gateway(embedding_server: VllmProcess) -> AsyncIterator[Serving]:
    own = serving.pool([embedding_server.base_url], upstream_model=embedding_server.model)
    settings = serving.config(
        pools=[structs.replace(own, task=Task.EMBED)], interactive=serving.PATIENT
    )
    async with serving.serving(settings) as running:
        yield running


async def asked(server: VllmProcess, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """The answer without the gateway."""
    async with (
        aiohttp.ClientSession() as http,
        http.post(server.base_url + path, json={"model": server.model, **body}) as response,
    ):
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
        return answer


async def test_vectors_are_those_of_the_server_whatever_the_batch(
    embedding_server: VllmProcess, gateway: Serving
) -> None:
    direct = await asked(embedding_server, "/v1/embeddings", {"input": TEXTS})
    request = pooling_pb2.EmbedRequest(model=MODEL, texts=pooling_pb2.TextInputs(texts=TEXTS))
    response = await gateway.stub.Embed(request, metadata=METADATA)
    assert len(response.embeddings) == len(TEXTS)
    for through, beside in zip(response.embeddings, direct["data"], strict=True):
        assert list(through.values) == pytest.approx(beside["embedding"], abs=0.02)
    usage, cost = response.done.usage, response.done.cost
    assert usage.prompt_tokens == direct["usage"]["prompt_tokens"]
    assert (usage.completion_tokens, usage.estimated) == (0, False)
    assert cost.basis == generation_pb2.COST_BASIS_METERED
    assert cost.metered_nano_usd > 0
    assert [part.kind for part in cost.parts] == [generation_pb2.TOKEN_KIND_UNCACHED_INPUT]


async def test_token_ids_truncation_and_errors_are_the_servers_own(
    embedding_server: VllmProcess, gateway: Serving
) -> None:
    ids = [list(range(300, 320)), list(range(400, 450))]
    direct = await asked(embedding_server, "/v1/embeddings", {"input": ids})
    tokens = pooling_pb2.TokenInputs(inputs=[chat_pb2.TokenInput(token_ids=each) for each in ids])
    request = pooling_pb2.EmbedRequest(model=MODEL, tokens=tokens)
    response = await gateway.stub.Embed(request, metadata=METADATA)
    assert response.done.usage.prompt_tokens == 70
    for through, beside in zip(response.embeddings, direct["data"], strict=True):
        assert list(through.values) == pytest.approx(beside["embedding"], abs=0.02)

    long = pooling_pb2.TextInputs(texts=["word " * 9000])
    request = pooling_pb2.EmbedRequest(model=MODEL, texts=long, truncate_tokens=16)
    response = await gateway.stub.Embed(request, metadata=METADATA)
    assert response.done.usage.prompt_tokens == 16
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.stub.Embed(
            pooling_pb2.EmbedRequest(model=MODEL, texts=long), metadata=METADATA
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "maximum context length" in (caught.value.details() or "")


async def test_scores_by_vectors_are_those_of_the_server(
    embedding_server: VllmProcess, gateway: Serving
) -> None:
    body = {"text_1": TEXTS[0], "text_2": TEXTS[1:]}
    direct = await asked(embedding_server, "/v1/score", body)
    request = pooling_pb2.ScoreRequest(model=MODEL, query=TEXTS[0], documents=TEXTS[1:])
    response = await gateway.stub.Score(request, metadata=METADATA)
    expected = [each["score"] for each in direct["data"]]
    assert list(response.scores) == pytest.approx(expected, abs=0.02)
    assert response.done.usage.prompt_tokens == direct["usage"]["prompt_tokens"]


async def test_a_server_that_scores_pairs_is_probed_and_asked_for_scores(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if reason := unsupported_cpu():
        pytest.skip(reason)
    with running_vllm(tmp_path_factory.mktemp("score"), pooling=SCORING_FLAGS) as server:
        own = serving.pool([server.base_url], upstream_model=server.model)
        settings = serving.config(
            pools=[structs.replace(own, task=Task.SCORE)], interactive=serving.PATIENT
        )
        direct = await asked(server, "/v1/score", {"text_1": TEXTS[0], "text_2": TEXTS[1:9]})
        async with serving.serving(settings) as running:
            request = pooling_pb2.ScoreRequest(model=MODEL, query=TEXTS[0], documents=TEXTS[1:9])
            response = await running.stub.Score(request, metadata=METADATA)
    expected = [each["score"] for each in direct["data"]]
    assert list(response.scores) == pytest.approx(expected, abs=0.02)
    assert response.done.usage.prompt_tokens == direct["usage"]["prompt_tokens"]
