"""Log-probabilities as JSON: a list for a chat, parallel lists for a raw completion.

The values are invented but consistent: the generated token is the likeliest and comes first.
"""

from __future__ import annotations

from typing import Any

from moegate.simulated_vllm.wire import encode
from simulation.output import Output
from simulation.tokenizer import token_bytes


def chat_logprobs(output: Output, start: int, end: int, top: int) -> bytes:
    """Log-probabilities of the tokens `start` to `end`, with `top` candidates each."""
    content = []
    for position in range(start, end):
        candidates = [_entry(*one) for one in output.candidates(position, max(1, top))]
        content.append({**candidates[0], "top_logprobs": candidates[:top]})
    return encode({"content": content})


def completion_logprobs(
    output: Output, start: int, end: int, top: int, offset_chars: int
) -> tuple[bytes, int]:
    """The same in the older format, and the offset of the next token's text."""
    offsets: list[int] = []
    logprobs: list[float] = []
    tokens: list[str] = []
    alternatives: list[dict[str, float]] = []
    for position in range(start, end):
        candidates = output.candidates(position, max(1, top))
        named = [(_name(token_id), logprob) for token_id, logprob in candidates]
        offsets.append(offset_chars)
        tokens.append(named[0][0])
        logprobs.append(named[0][1])
        alternatives.append(dict(named))
        offset_chars += len(named[0][0])
    body = {
        "text_offset": offsets,
        "token_logprobs": logprobs,
        "tokens": tokens,
        "top_logprobs": alternatives,
    }
    return encode(body), offset_chars


def _entry(token_id: int, logprob: float) -> dict[str, Any]:
    return {
        "token": _name(token_id),
        "logprob": logprob,
        "bytes": list(token_bytes(token_id)),
    }


def _name(token_id: int) -> str:
    return token_bytes(token_id).decode(errors="replace")
