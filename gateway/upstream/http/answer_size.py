"""Longest answer of an upstream in bytes, by what its request allows.

A piece of a stream is some 300 bytes around one token, at the most verbose servers some 2,000. What
comes beyond the bound can be no answer to the request, and is not read.
"""

from __future__ import annotations

from gateway.domain.generation import Generation

BYTES_PER_TOKEN = 2048
"""Bytes of a stream for one output token, everything around it included."""
BYTES_PER_LOGPROB = 512
"""Bytes of a stream for one log-probability, its token included."""
OVERHEAD_BYTES = 2 * 1024 * 1024
"""Bytes that do not depend on the output's length: heads, pings, signatures, citations.
Room for one event of the longest kind (`SseReader`) and as much again."""


def max_answer_bytes(generation: Generation) -> int:
    """Bytes of the longest stream that can answer the generation."""
    token_bytes = BYTES_PER_TOKEN
    if generation.logprobs is not None:
        token_bytes += BYTES_PER_LOGPROB * (generation.logprobs + 1)
    return OVERHEAD_BYTES + generation.choices * generation.max_output_tokens * token_bytes
