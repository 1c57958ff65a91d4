"""Vectors and scores through both clients, against a gateway on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from gateway.config.tasks import Task
from moegate.client import AsyncClient, Client, MoegateError
from moegate.client.pooling import embed_request, score_request
from moegate.simulated_vllm.config import ModelTask, SimulatedVllmConfig
from moegate.simulated_vllm.server import simulated_vllm
from tests import serving
from tests.serving import KEY, MODEL, Serving

TEXTS = ["a fox in the forest", "the capital of France", "a fox in the woods"]
ENGINE = SimulatedVllmConfig(
    served_model_name=MODEL, speed=20.0, task=ModelTask.EMBED, matryoshka=True
)


@pytest.fixture
async def embedding_gateway() -> AsyncIterator[Serving]:
    async with simulated_vllm(replace(ENGINE)) as engine:
        own = msgspec.structs.replace(serving.pool([engine.url]), task=Task.EMBED)
        settings = serving.config(pools=[own], interactive=serving.PATIENT)
        async with serving.serving(settings) as running:
            yield running


async def test_both_clients_return_the_vectors_and_what_they_cost(
    embedding_gateway: Serving,
) -> None:
    address = embedding_gateway.gateway.address
    async with AsyncClient(address, key=KEY) as client:
        found = await client.embed(MODEL, TEXTS, dimensions=16, request_id="r-1", local_only=True)
        of_tokens = await client.embed(MODEL, [[300, 301], [302]], truncate_tokens=-1)
        scores = await client.score(MODEL, TEXTS[0], TEXTS[1:], slo_class="batch")
        (model,) = await client.models()
        with pytest.raises(MoegateError) as caught:
            await client.chat(MODEL, "Hello")
    assert [len(vector) for vector in found.vectors] == [16, 16, 16]
    assert found.account.request_id == "r-1"
    assert found.account.usage.completion_tokens == 0
    assert found.account.cost is not None
    assert found.account.route.placement == "own/a"
    assert of_tokens.account.usage.prompt_tokens == 3
    assert scores.best_first == (1, 0)
    assert model.tasks == ("embed", "score")
    assert "call Embed or Score" in str(caught.value)

    def synchronous() -> tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]:
        with Client(address, key=KEY) as client:
            vectors = client.embed(MODEL, TEXTS, dimensions=16).vectors
            return vectors, client.score(MODEL, TEXTS[0], TEXTS[1:]).scores

    assert await asyncio.to_thread(synchronous) == (found.vectors, scores.scores)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ("one text", {}, "inputs: give a list of texts"),
        (["a", [1]], {}, "inputs: give texts or token ids, not both"),
        (["a"], {"dimension": 3}, "dimension: no such option"),
        (["a"], {"priority": "high"}, "priority: 'high'"),
        (["a"], {"slo_class": "fast"}, "slo_class: 'fast' is none of"),
    ],
)
def test_what_cannot_be_sent_is_named(inputs: Any, options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        embed_request(MODEL, inputs, options)


def test_scores_take_no_dimensions() -> None:
    with pytest.raises(TypeError, match="dimensions: scores have none"):
        score_request(MODEL, "q", ["d"], {"dimensions": 3})
