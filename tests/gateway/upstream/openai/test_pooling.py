"""Answers of vectors and scores: what servers send, what is believed, and what is refused."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import msgspec
import pytest

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk, DeviationKind, Generation
from gateway.domain.pooling import EmbeddingInput, PoolingInput, Scores, ScoringInput, Vectors
from gateway.domain.slices import finish
from gateway.upstream.openai.pooling import pooled_chunk, pooling_body
from gateway.upstream.vllm.pooling import vllm_pooling_body
from scheduler.contract import Usage

TWO = EmbeddingInput(inputs=("a fox in the forest", "the capital of France"))
DOCUMENTS = ScoringInput(query="a fox", documents=("a fox in the forest", "the capital of France"))
USAGE = {"prompt_tokens": 11, "total_tokens": 11}


def generation(pooling: PoolingInput) -> Generation:
    return Generation(request_id="r", model="m", input=pooling, max_output_tokens=0)


def packed(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def coded(*numbers: float) -> str:
    return base64.b64encode(packed(*numbers)).decode()


def chunk(pooling: PoolingInput, **answer: Any) -> Chunk:
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return finish(pooled_chunk(generation(pooling), pooling, data))


def item(embedding: object, **fields: Any) -> dict[str, Any]:
    return {"object": "embedding", "embedding": embedding, **fields}


def refused(pooling: PoolingInput, **answer: Any) -> str:
    with pytest.raises(UpstreamFailure) as caught:
        chunk(pooling, **answer)
    assert caught.value.kind is FailureKind.PROTOCOL
    return caught.value.message


@pytest.mark.parametrize("one", [coded(1.0, 0.5), [1.0, 0.5], [1, 0.5]])
def test_vectors_come_in_base64_or_as_numbers_and_in_any_order(one: object) -> None:
    items = [item([-2, 3e-3], index=1), item(one, index=0)]
    answer = chunk(TWO, id="e-1", model="m-1", data=items, usage=USAGE)
    assert answer.pooled == Vectors((packed(1.0, 0.5), packed(-2.0, 3e-3)))
    assert answer.usage == Usage(prompt_tokens=11, completion_tokens=0)
    assert (answer.model, answer.response_id, answer.output_tokens) == ("m-1", "e-1", 1)


def test_without_indexes_the_order_counts_and_escaped_base64_is_understood() -> None:
    escaped = f'"{coded(1.7014e38, 2.5)}"'.replace("/", "\\/")
    assert "\\/" in escaped
    answer = b'{"data": [{"embedding": %b}, {"embedding": [1, 2]}]}' % escaped.encode()
    found = finish(pooled_chunk(generation(TWO), TWO, answer))
    assert found.pooled == Vectors((packed(1.7014e38, 2.5), packed(1.0, 2.0)))
    assert found.usage is not None
    assert found.usage.estimated
    assert found.usage.completion_tokens == 0


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "0 vectors of 2 inputs"),
        ([item([1.0], index=0)], "1 vectors of 2 inputs"),
        ([item([1.0], index=0), item([1.0], index=0)], "1 vectors of 2 inputs"),
        ([item([1.0], index=0), item([1.0], index=7)], "1 vectors of 2 inputs"),
        ([item([1.0]), item([1.0]), item([1.0])], "2 vectors of 2 inputs"),
        ([item([1.0]), item([1.0, 2.0])], "vectors of 1, 2 numbers, not of one length"),
        ([item([]), item([])], "a vector of 0 bytes"),
        ([item("AAA="), item("AAA=")], "a vector of 2 bytes"),
        ([item("?"), item("?")], "a vector that is no base64"),
        ([item([1e300]), item([1.0])], "values that are no numbers"),
        ([item(coded(float("nan"))), item(coded(1.0))], "values that are no numbers"),
        ([item(coded(float("inf"))), item(coded(1.0))], "values that are no numbers"),
        ([item([0.0] * 16_385), item([0.0] * 16_385)], "a vector of 65540 bytes"),
    ],
)
def test_vectors_that_cannot_be_the_answer_are_refused(items: list[Any], message: str) -> None:
    assert message in refused(TWO, data=items, usage=USAGE)


def test_vectors_of_another_length_than_was_asked_for_are_refused() -> None:
    asked = msgspec.structs.replace(TWO, dimensions=3)
    items = [item([1.0, 2.0]), item([1.0, 2.0])]
    assert "vectors of 2 numbers, not of 3 numbers" in refused(asked, data=items)


@pytest.mark.parametrize("name", ["data", "results"])
@pytest.mark.parametrize("score", ["score", "relevance_score"])
def test_scores_are_put_into_the_order_of_the_documents(name: str, score: str) -> None:
    items = [{"index": 1, score: 0.9}, {"index": 0, score: -1.5}]
    answer = chunk(DOCUMENTS, **{name: items}, usage={"total_tokens": 20})
    assert answer.pooled == Scores((-1.5, 0.9))
    assert answer.usage == Usage(prompt_tokens=20, completion_tokens=0)


@pytest.mark.parametrize(
    "items",
    [
        [],
        [{"index": 0, "score": 1.0}],
        [{"index": 0, "score": 1.0}, {"index": 0, "score": 1.0}],
        [{"index": 0, "score": 1.0}, {"index": 1}],
        [{"index": 0, "score": 1.0}, {"index": 1, "score": 1.0}, {"index": 2, "score": 1.0}],
    ],
)
def test_scores_that_cannot_be_the_answer_are_refused(items: list[Any]) -> None:
    assert "of 2 documents" in refused(DOCUMENTS, data=items, usage=USAGE)


def test_counts_that_cannot_be_true_are_not_believed() -> None:
    items = [item([1.0]), item([1.0])]
    answer = chunk(TWO, data=items, usage={"prompt_tokens": 10**9, "completion_tokens": 500})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0
    assert answer.usage.prompt_tokens < 200
    assert answer.usage.estimated
    assert [each.kind for each in answer.deviations] == [DeviationKind.USAGE_TOO_MANY_PROMPT]
    few = chunk(EmbeddingInput(inputs=("x" * 10_000,)), data=[item([1.0])], usage=USAGE)
    assert [each.kind for each in few.deviations] == [DeviationKind.USAGE_TOO_FEW_PROMPT]
    cut = EmbeddingInput(inputs=("x" * 10_000,), truncate_tokens=11)
    assert not chunk(cut, data=[item([1.0])], usage=USAGE).deviations


def test_bodies_are_those_of_each_server() -> None:
    def body(encoded: Any) -> dict[str, Any]:
        return msgspec.json.decode(finish(encoded), type=dict[str, Any])

    embedding = EmbeddingInput(inputs=((1, 2), (3,)), dimensions=8, truncate_tokens=-1)
    expected = {
        "model": "up",
        "input": [[1, 2], [3]],
        "encoding_format": "base64",
        "dimensions": 8,
        "truncate_prompt_tokens": -1,
    }
    request = generation(embedding)
    hinted = msgspec.structs.replace(
        request, hints=msgspec.structs.replace(request.hints, cache_salt="s", priority=100)
    )
    assert body(pooling_body(hinted, embedding, "up", {})) == expected
    own = body(vllm_pooling_body(hinted, embedding, "up", {"user": "u", "model": "no"}))
    assert own == expected | {"user": "u", "cache_salt": "s", "priority": 100}

    request = generation(DOCUMENTS)
    assert body(pooling_body(request, DOCUMENTS, "up", {})) == {
        "model": "up",
        "query": DOCUMENTS.query,
        "documents": list(DOCUMENTS.documents),
        "return_documents": False,
    }
    assert body(vllm_pooling_body(request, DOCUMENTS, "up", {})) == {
        "model": "up",
        "text_1": DOCUMENTS.query,
        "text_2": list(DOCUMENTS.documents),
    }


def test_a_large_body_is_the_same_as_a_small_one_encoded_in_steps() -> None:
    many = EmbeddingInput(inputs=tuple(f"text {i} é" for i in range(1000)))
    steps = pooling_body(generation(many), many, "up", {})
    assert sum(1 for _ in steps) > 100
    whole = finish(pooling_body(generation(many), many, "up", {}))
    assert json.loads(whole)["input"] == list(many.inputs)
