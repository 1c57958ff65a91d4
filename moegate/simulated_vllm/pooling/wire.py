"""JSON of /v1/embeddings, /score and /rerank, with the order of keys of vLLM."""

from __future__ import annotations

from typing import Any

import msgspec


class EmbeddingBody(msgspec.Struct):
    """Body of /v1/embeddings."""

    input: str | list[Any]
    model: str | None = None
    encoding_format: str = "float"
    dimensions: int | None = None
    truncate_prompt_tokens: int | None = None
    cache_salt: str | None = None


class ScoreBody(msgspec.Struct):
    """Body of /score. Each side is a text or several."""

    text_1: str | list[str]
    text_2: str | list[str]
    model: str | None = None
    truncate_prompt_tokens: int | None = None
    cache_salt: str | None = None


class RerankBody(msgspec.Struct):
    """Body of /rerank. `top_n`: most results; 0: all."""

    query: str
    documents: str | list[str]
    model: str | None = None
    top_n: int = 0
    truncate_prompt_tokens: int | None = None
    cache_salt: str | None = None


class Usage(msgspec.Struct):
    """Usage: nothing is generated."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None
    completion_tokens_details: None = None


class Embedding(msgspec.Struct):
    """A vector, as numbers or in base64."""

    index: int
    object: str
    embedding: list[float] | str


class Score(msgspec.Struct):
    """A score of a pair."""

    index: int
    object: str
    score: float


class Answer(msgspec.Struct):
    """Answer of /v1/embeddings and /score."""

    id: str
    object: str
    created: int
    model: str
    data: list[Embedding] | list[Score]
    usage: Usage


class Document(msgspec.Struct):
    """A document that was rated."""

    text: str
    multi_modal: None = None


class RerankResult(msgspec.Struct):
    """A score of a document."""

    index: int
    document: Document
    relevance_score: float


class RerankUsage(msgspec.Struct):
    """Usage of /rerank."""

    prompt_tokens: int
    total_tokens: int


class RerankAnswer(msgspec.Struct):
    """Answer of /rerank."""

    id: str
    model: str
    usage: RerankUsage
    results: list[RerankResult]


decode_embedding = msgspec.json.Decoder(EmbeddingBody, strict=False).decode
decode_score = msgspec.json.Decoder(ScoreBody, strict=False).decode
decode_rerank = msgspec.json.Decoder(RerankBody, strict=False).decode
encode = msgspec.json.Encoder().encode
