"""Requests for vectors and scores as JSON bodies to vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.domain.generation import Generation
from gateway.domain.pooling import EmbeddingInput, PoolingInput
from gateway.domain.slices import Steps
from gateway.upstream.json_body import encoded
from gateway.upstream.openai.pooling import EMBEDDINGS_PATH, embedding_fields

SCORE_PATH = "/score"


def vllm_pooling_path(pooling: PoolingInput) -> str:
    """Where to send it, behind /v1."""
    return EMBEDDINGS_PATH if isinstance(pooling, EmbeddingInput) else SCORE_PATH


def vllm_pooling_body(
    generation: Generation, pooling: PoolingInput, upstream_model: str, extra: Mapping[str, Any]
) -> Steps[bytes]:
    """Body for `vllm_pooling_path`. `extra`: fields that every body gets, unless the request sets
    them."""
    body: dict[str, Any] = {**extra, "model": upstream_model}
    if isinstance(pooling, EmbeddingInput):
        body |= embedding_fields(pooling)
    else:
        body |= {"text_1": pooling.query, "text_2": pooling.documents}
    if pooling.truncate_tokens is not None:
        body["truncate_prompt_tokens"] = pooling.truncate_tokens
    hints = generation.hints
    if hints.cache_salt:
        body["cache_salt"] = hints.cache_salt
    if hints.priority:
        body["priority"] = hints.priority
    return (yield from encoded(body, generation))
