"""Requests for vectors or scores in place of text, and their answers.

vLLM calls them pooling: the engine computes each input like a prompt, and generates nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

WHOLE_CONTEXT = -1
"""`truncate_tokens` of a request of which every input is cut to what the model takes."""


class EmbeddingInput(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Inputs of which the model makes one vector each, all of them texts or all of them token ids.

    `dimensions`: numbers of a vector; None: the model's own. `truncate_tokens`: most tokens of an
    input, `WHOLE_CONTEXT` or more than 0; None: an input that is too long is an error.
    """

    inputs: tuple[str, ...] | tuple[tuple[int, ...], ...]
    dimensions: int | None = None
    truncate_tokens: int | None = None


class ScoringInput(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Documents that the model rates by how well they answer a query. `truncate_tokens`: as above,
    of each pair."""

    query: str
    documents: tuple[str, ...]
    truncate_tokens: int | None = None


PoolingInput = EmbeddingInput | ScoringInput


class Vectors(msgspec.Struct, frozen=True):
    """One vector per input, all of one length: float32 numbers, little-endian, all finite."""

    vectors: tuple[bytes, ...]


class Scores(msgspec.Struct, frozen=True):
    """One score per document."""

    scores: tuple[float, ...]


def input_texts(pooling: PoolingInput) -> Iterator[str]:
    """The texts that an engine reads at most: the query once for each document. Inputs of token ids
    have none."""
    if isinstance(pooling, EmbeddingInput):
        yield from (each for each in pooling.inputs if isinstance(each, str))
        return
    for document in pooling.documents:
        yield pooling.query
        yield document


def input_token_ids(pooling: PoolingInput) -> int:
    """Number of token ids of inputs that are given as such."""
    if isinstance(pooling, ScoringInput):
        return 0
    return sum(len(each) for each in pooling.inputs if not isinstance(each, str))


def input_count(pooling: PoolingInput) -> int:
    """Number of inputs, each of which has a vector or a score in the answer."""
    return len(pooling.inputs if isinstance(pooling, EmbeddingInput) else pooling.documents)
