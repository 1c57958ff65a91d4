"""Checks of answers of vectors and scores, whatever the dialect."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.pooling import EmbeddingInput, Scores, Vectors

MOST_DIMENSIONS = 16_384
"""Most numbers of a vector; the longest of open models have 8,192."""


def checked_vector(vector: bytes) -> bytes:
    """The vector. Raises UpstreamFailure if it is empty or too long, or holds what is no number."""
    if not vector or len(vector) % 4 or len(vector) > 4 * MOST_DIMENSIONS:
        raise unexpected(f"a vector of {len(vector)} bytes")
    if not np.isfinite(np.frombuffer(vector, "<f4")).all():
        raise unexpected("a vector with values that are no numbers")
    return vector


def whole_vectors(vectors: Sequence[bytes], embedding: EmbeddingInput) -> Vectors:
    """The vectors of an answer. Raises UpstreamFailure unless there is one for each input, and all
    have one length: that which was asked for."""
    count, asked = len(embedding.inputs), embedding.dimensions
    if len(vectors) != count:
        raise unexpected(f"{len(vectors)} vectors of {count} inputs")
    lengths = {len(vector) // 4 for vector in vectors}
    if len(lengths) != 1 or (asked is not None and lengths != {asked}):
        shown = ", ".join(str(each) for each in sorted(lengths)[:5])
        wanted = "one length" if asked is None else f"{asked} numbers"
        raise unexpected(f"vectors of {shown} numbers, not of {wanted}")
    return Vectors(tuple(vectors))


def checked_scores(scores: Sequence[float], count: int) -> Scores:
    """The scores. Raises UpstreamFailure unless there are as many as documents, all finite."""
    if len(scores) != count:
        raise unexpected(f"{len(scores)} scores of {count} documents")
    if not all(map(math.isfinite, scores)):
        raise unexpected("a score that is no number")
    return Scores(tuple(scores))


def unexpected(what: str) -> UpstreamFailure:
    """The failure of an answer that does not fit its request."""
    return UpstreamFailure(FailureKind.PROTOCOL, f"the answer has {what}")
