"""Converts vectors and scores into response messages."""

from __future__ import annotations

from gateway.domain.pooling import Vectors
from gateway.domain.slices import Steps
from moegate.v1 import pooling_pb2

_VALUES_TAG = bytes([pooling_pb2.Embedding.VALUES_FIELD_NUMBER << 3 | 2])


def write_vectors(response: pooling_pb2.EmbedResponse, vectors: Vectors) -> Steps[None]:
    """Appends the vectors. The wire format of packed floats is that of the vectors themselves, and
    parsing it is a hundred times as fast as appending numbers."""
    for vector in vectors.vectors:
        response.embeddings.add().MergeFromString(_VALUES_TAG + _varint(len(vector)) + vector)
        yield


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
