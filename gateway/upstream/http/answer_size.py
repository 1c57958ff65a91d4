"""Longest answer of an upstream in bytes, by what its request allows.

A piece of a stream is some 300 bytes around one token, at the most verbose servers some 2,000. What
comes beyond the bound can be no answer to the request, and is not read.
"""

from __future__ import annotations

from gateway.domain.generation import Generation
from gateway.domain.pooling import EmbeddingInput, ScoringInput
from gateway.upstream.pooled import MOST_DIMENSIONS

BYTES_PER_TOKEN = 2048
"""Bytes of a stream for one output token, everything around it included."""
BYTES_PER_LOGPROB = 512
"""Bytes of a stream for one log-probability, its token included."""
BYTES_PER_NUMBER = 24
"""Bytes of a number of a vector, at the most digits; in base64 it has 5.4."""
BYTES_PER_SCORE = 4096
"""Bytes of a score, with what servers repeat of its document."""
MAX_POOLED_BYTES = 24 * 1024 * 1024
"""Longest answer to a request for vectors: 2,048 of 2,048 numbers in base64 fit. A larger one would
hold the event loop for more than 50 ms, when it is read and when it is sent on."""
OVERHEAD_BYTES = 2 * 1024 * 1024
"""Bytes that do not depend on the output's length: heads, pings, signatures, citations.
Room for one event of the longest kind (`SseReader`) and as much again."""


def max_answer_bytes(generation: Generation) -> int:
    """Bytes of the longest answer to the request."""
    match generation.input:
        case EmbeddingInput() as embedding:
            numbers = len(embedding.inputs) * (embedding.dimensions or MOST_DIMENSIONS)
            return min(MAX_POOLED_BYTES, OVERHEAD_BYTES + numbers * BYTES_PER_NUMBER)
        case ScoringInput() as scoring:
            return OVERHEAD_BYTES + len(scoring.documents) * BYTES_PER_SCORE
    token_bytes = BYTES_PER_TOKEN
    if generation.logprobs is not None:
        token_bytes += BYTES_PER_LOGPROB * (generation.logprobs + 1)
    return OVERHEAD_BYTES + generation.choices * generation.max_output_tokens * token_bytes
