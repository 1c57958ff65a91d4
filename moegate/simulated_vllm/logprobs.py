"""Log-probabilities as JSON: the list of a chat, the parallel lists of a raw completion.

They are made up, but consistent: the token that is said is the likeliest, and is first.
"""

from __future__ import annotations

from typing import Any

from moegate.simulated_vllm.wire import encode
from simulation.output import Output
from simulation.tokenizer import token_bytes


def chat_logprobs(output: Output, start: int, end: int, top: int) -> bytes:
    """Of the tokens `start` to `end`, with `top` candidates each."""
    content = []
    for position in range(start, end):
        candidates = [_entry(*one) for one in output.candidates(position, max(1, top))]
        content.append({**candidates[0], "top_logprobs": candidates[:top]})
    return encode({"content": content})


def completion_logprobs(
    output: Output, start: int, end: int, top: int, offset_chars: int
) -> tuple[bytes, int]:
    """The same in the older shape; and where the next token's text begins."""
    offsets: list[int] = []
    said: list[float] = []
    tokens: list[str] = []
    rivals: list[dict[str, float]] = []
    for position in range(start, end):
        candidates = output.candidates(position, max(1, top))
        named = [(_name(token_id), logprob) for token_id, logprob in candidates]
        offsets.append(offset_chars)
        tokens.append(named[0][0])
        said.append(named[0][1])
        rivals.append(dict(named))
        offset_chars += len(named[0][0])
    body = {
        "text_offset": offsets,
        "token_logprobs": said,
        "tokens": tokens,
        "top_logprobs": rivals,
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
