"""Vectors and scores of token ids: invented, but alike for texts that share tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

DIMENSIONS = 64
Vector = npt.NDArray[np.float32]


@lru_cache(65_536)
def _of_token(token_id: int) -> npt.NDArray[np.float64]:
    return np.random.Generator(np.random.Philox(token_id)).standard_normal(DIMENSIONS)


def vector_of(token_ids: Sequence[int], dimensions: int = DIMENSIONS) -> Vector:
    """The vector of a text, of length 1: the mean of those of its tokens."""
    whole = np.sum([_of_token(token_id) for token_id in token_ids], axis=0)[:dimensions]
    unit: Vector = (whole / (np.linalg.norm(whole) or 1.0)).astype("<f4")
    return unit


def similarity(one: Sequence[int], other: Sequence[int]) -> float:
    """The score of a model that embeds: the cosine of both vectors."""
    return float(np.dot(vector_of(one), vector_of(other)))


def relevance(query: Sequence[int], document: Sequence[int]) -> float:
    """The score of a model that scores, from 0 to 1."""
    return 1.0 / (1.0 + math.exp(-4.0 * similarity(query, document)))
