"""Requests for vectors and scores to OpenAI-shaped servers, and their answers.

Vectors are asked for as OpenAI does, in base64; lists of numbers are read as well. OpenAI has no
scores: vLLM has /score, and most remotes have /rerank in the shape of Cohere and Jina.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np

from gateway.domain.generation import MAX_ID_CHARACTERS, Chunk, Generation
from gateway.domain.pooling import EmbeddingInput, PoolingInput, Scores, Vectors, input_count
from gateway.domain.slices import Steps
from gateway.upstream.answer_bounds import bounds_of
from gateway.upstream.json_body import encoded
from gateway.upstream.openai import wire
from gateway.upstream.openai.usage import claim_of
from gateway.upstream.pooled import checked_scores, checked_vector, unexpected, whole_vectors
from gateway.upstream.token_estimate import estimated_prompt_tokens
from gateway.upstream.usage_claims import Claim, Seen, judged

EMBEDDINGS_PATH = "/embeddings"
RERANK_PATH = "/rerank"
_NO_OUTPUT = Seen(size_bytes=0, least_tokens=0)


class _Embedding(msgspec.Struct, gc=False):
    embedding: msgspec.Raw
    index: int | None = None


class _Embeddings(msgspec.Struct, gc=False):
    data: list[_Embedding]
    id: str | int | None = None
    model: str | None = None
    usage: wire.Usage | None = None


class _Scored(msgspec.Struct, gc=False):
    index: int | None = None
    score: float | None = None
    relevance_score: float | None = None


class _Scores(msgspec.Struct, gc=False):
    data: list[_Scored] | None = None
    results: list[_Scored] | None = None
    id: str | int | None = None
    model: str | None = None
    usage: wire.Usage | None = None


_decode_embeddings = msgspec.json.Decoder(_Embeddings).decode
_decode_scores = msgspec.json.Decoder(_Scores).decode


def pooling_path(pooling: PoolingInput) -> str:
    """Where to send it, behind the server's prefix."""
    return EMBEDDINGS_PATH if isinstance(pooling, EmbeddingInput) else RERANK_PATH


def pooling_body(
    generation: Generation, pooling: PoolingInput, upstream_model: str, extra: Mapping[str, Any]
) -> Steps[bytes]:
    """Body for `pooling_path`. `extra`: fields that every body gets, unless the request sets them.
    What can truncate is taken to do so like vLLM."""
    body: dict[str, Any] = {**extra, "model": upstream_model}
    if isinstance(pooling, EmbeddingInput):
        body |= embedding_fields(pooling)
    else:
        body |= {"query": pooling.query, "documents": pooling.documents, "return_documents": False}
    if pooling.truncate_tokens is not None:
        body["truncate_prompt_tokens"] = pooling.truncate_tokens
    return (yield from encoded(body, generation))


def embedding_fields(embedding: EmbeddingInput) -> dict[str, Any]:
    """What is embedded, and how the vectors shall come."""
    fields: dict[str, Any] = {"input": embedding.inputs, "encoding_format": "base64"}
    if embedding.dimensions is not None:
        fields["dimensions"] = embedding.dimensions
    return fields


def pooled_chunk(generation: Generation, pooling: PoolingInput, answer: bytes) -> Steps[Chunk]:
    """The answer to a request for vectors or scores. Raises UpstreamFailure, or what msgspec
    raises."""
    head: _Embeddings | _Scores
    pooled: Vectors | Scores
    if isinstance(pooling, EmbeddingInput):
        head = _decode_embeddings(answer)
        yield
        pooled = yield from _vectors(head.data, pooling)
    else:
        head = _decode_scores(answer)
        pooled = _scores(head.data or head.results or [], input_count(pooling))
    usage, refused = judged(
        _claim(head.usage),
        _NO_OUTPUT,
        bounds_of(generation),
        partial(estimated_prompt_tokens, generation),
    )
    return Chunk(
        deltas=(),
        output_tokens=1,
        usage=usage,
        model=head.model or "",
        response_id=str(head.id or "")[:MAX_ID_CHARACTERS],
        deviations=refused,
        pooled=pooled,
    )


def _vectors(items: Sequence[_Embedding], pooling: EmbeddingInput) -> Steps[Vectors]:
    count = len(pooling.inputs)
    found: dict[int, bytes] = {}
    for position, item in enumerate(items):
        index = position if item.index is None else item.index
        if 0 <= index < count:
            found[index] = checked_vector(_vector(item.embedding))
        yield
    if len(items) != count or len(found) != count:
        raise unexpected(f"{len(found)} vectors of {count} inputs")
    return whole_vectors([found[i] for i in range(count)], pooling)


def _vector(raw: msgspec.Raw) -> bytes:
    """A vector that came as base64 or as a list of numbers."""
    text = bytes(raw)
    if not text.startswith(b'"'):
        numbers = msgspec.json.decode(text, type=list[float])
        with np.errstate(over="ignore"):  # what is too large is infinite, and refused for that
            return np.asarray(numbers, "<f4").tobytes()
    coded = text[1:-1] if b"\\" not in text else msgspec.json.decode(text, type=str)
    try:
        return base64.b64decode(coded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise unexpected("a vector that is no base64") from error


def _scores(items: Sequence[_Scored], count: int) -> Scores:
    found: dict[int, float] = {}
    for position, item in enumerate(items):
        index = position if item.index is None else item.index
        score = item.score if item.relevance_score is None else item.relevance_score
        if score is not None and 0 <= index < count:
            found[index] = score
    if len(items) != count or len(found) != count:
        raise unexpected(f"{len(found)} scores of {count} documents")
    return checked_scores([found[i] for i in range(count)], count)


def _claim(usage: wire.Usage | None) -> Claim:
    """The counts as the server reports them. Nothing is generated, so that a total without parts is
    the prompt."""
    if usage is None:
        return Claim(completion_tokens=0)
    claim = claim_of(usage)
    if claim.prompt_tokens is None:
        claim.prompt_tokens = usage.total_tokens
    claim.completion_tokens = 0
    return claim
