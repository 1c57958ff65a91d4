"""Requests for vectors and scores as messages of another moegate, and its answers: no I/O."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import numpy as np
from msgspec import structs

from gateway.domain.generation import MAX_ID_CHARACTERS, Chunk, Generation
from gateway.domain.pooling import EmbeddingInput, PoolingInput, Scores, Vectors, input_count
from gateway.domain.slices import Steps
from gateway.upstream.answer_bounds import bounds_of
from gateway.upstream.moegate.messages import claim_of, write_terms
from gateway.upstream.pooled import checked_scores, checked_vector, whole_vectors
from gateway.upstream.token_estimate import estimated_prompt_tokens
from gateway.upstream.usage_claims import Claim, Seen, judged
from moegate.v1 import pooling_pb2

Request = pooling_pb2.EmbedRequest | pooling_pb2.ScoreRequest
Response = pooling_pb2.EmbedResponse | pooling_pb2.ScoreResponse
_NO_OUTPUT = Seen(size_bytes=0, least_tokens=0)


def pooling_request(
    generation: Generation,
    pooling: PoolingInput,
    upstream_model: str,
    *,
    local_only: bool = False,
    shared_classes: Collection[str] = (),
    tell_slo: bool = True,
    max_priority: int = 0,
) -> Steps[Request]:
    """The request to another gateway; the terms are as in `generate_request`."""
    request: Request
    if isinstance(pooling, EmbeddingInput):
        request = pooling_pb2.EmbedRequest(model=upstream_model)
        for each in pooling.inputs:
            if isinstance(each, str):
                request.texts.texts.append(each)
            else:
                request.tokens.inputs.add().token_ids.extend(each)
            yield
        if pooling.dimensions is not None:
            request.dimensions = pooling.dimensions
    else:
        request = pooling_pb2.ScoreRequest(model=upstream_model, query=pooling.query)
        for document in pooling.documents:
            request.documents.append(document)
            yield
    if pooling.truncate_tokens is not None:
        request.truncate_tokens = pooling.truncate_tokens
    write_terms(
        request,
        generation,
        local_only=local_only,
        shared_classes=shared_classes,
        tell_slo=tell_slo,
        max_priority=max_priority,
    )
    return request


def pooled_chunk(generation: Generation, pooling: PoolingInput, response: Response) -> Steps[Chunk]:
    """The answer of another gateway. Raises UpstreamFailure."""
    pooled: Vectors | Scores
    if isinstance(response, pooling_pb2.EmbedResponse) and isinstance(pooling, EmbeddingInput):
        vectors = []
        for embedding in response.embeddings[: len(pooling.inputs) + 1]:
            vectors.append(checked_vector(np.array(embedding.values, "<f4").tobytes()))
            yield
        pooled = whole_vectors(vectors, pooling)
    else:
        assert isinstance(response, pooling_pb2.ScoreResponse)
        count = input_count(pooling)
        pooled = checked_scores(response.scores[: count + 1], count)
    done = response.done
    claim = claim_of(done.usage) if done.HasField("usage") else Claim()
    claim.completion_tokens = 0
    usage, refused = judged(
        claim, _NO_OUTPUT, bounds_of(generation), partial(estimated_prompt_tokens, generation)
    )
    if done.usage.estimated:
        usage = structs.replace(usage, estimated=True)
    return Chunk(
        deltas=(),
        output_tokens=1,
        usage=usage,
        model=done.model,
        response_id=done.request_id[:MAX_ID_CHARACTERS],
        deviations=refused,
        pooled=pooled,
    )
