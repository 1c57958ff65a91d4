"""Log-probabilities in the words of OpenAI."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from gateway.domain.generation import TokenLogprob

LEAST = -9999.0
"""OpenAI's word for a probability of 0, whose logarithm JSON cannot hold."""


def token_logprobs(entries: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """The tokens with their most likely alternatives."""
    return [
        {
            **_entry(entry.token, entry.logprob),
            "top_logprobs": [_entry(token, logprob) for token, logprob in entry.top],
        }
        for entry in entries
    ]


def json_logprob(value: float) -> float:
    """The value, or `LEAST` for what JSON cannot hold."""
    return value if math.isfinite(value) else LEAST


def _entry(token: str, logprob: float) -> dict[str, Any]:
    data = token.encode(errors="replace")
    return {"token": token, "logprob": json_logprob(logprob), "bytes": list(data)}
