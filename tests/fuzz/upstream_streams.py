"""Streams of upstreams in both dialects, by mutation of the table of streams."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from gateway.domain.failures import UpstreamFailure
from gateway.translation.responses import delta_message, usage_message
from gateway.upstream.answer_bounds import AnswerBounds
from gateway.upstream.anthropic.stream import MessageDecoder
from gateway.upstream.http.sse import SseReader
from gateway.upstream.openai.stream import StreamDecoder
from gateway.upstream.usage_claims import UNSEEN_PROMPT_TOKENS
from tests.fuzz.mutations import changed, cut, dumped, odd_values, scratched
from tests.gateway.upstream.call_cases import TOOL_CALLS
from tests.gateway.upstream.end_cases import FAILURES, FINISH
from tests.gateway.upstream.stream_cases import recorded
from tests.gateway.upstream.text_cases import TEXT
from tests.gateway.upstream.usage_cases import USAGE

PROMPT_BOUND = 300
BOUNDS = AnswerBounds(max_output_tokens=16, choices=2, prompt_token_bound=lambda: PROMPT_BOUND)
MOST_PAYLOADS = 12


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes of a stream in pieces. `vllm`: read as an own engine's."""

    dialect: str
    pieces: list[bytes]
    vllm: bool


@functools.cache
def seeds() -> tuple[tuple[str, tuple[bytes, ...]], ...]:
    """Dialect and payloads of each stream of the table, the middle of long ones left out."""
    found = []
    for case in (*recorded(), *TOOL_CALLS, *TEXT, *FINISH, *USAGE, *FAILURES):
        payloads = SseReader().feed(b"".join(case.pieces()))
        if payloads:
            kept = payloads[:MOST_PAYLOADS] + payloads[MOST_PAYLOADS:][-4:]
            found.append((case.dialect, tuple(kept)))
    return tuple(found)


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    """A stream of the table with some of its events changed, lost, repeated or of another one."""
    dialect, seed = draw(st.sampled_from(seeds()))
    payloads = list(seed)
    for _ in range(draw(st.integers(0, 4))):
        i = draw(st.integers(0, len(payloads) - 1))
        match draw(st.sampled_from(["change", "change", "scratch", "lose", "repeat", "other"])):
            case "change" if (value := _loaded(payloads[i])) is not None:
                payloads[i] = dumped(draw(changed(value)))
            case "scratch":
                payloads[i] = draw(
                    scratched(payloads[i], (b"\xff", b'"', b"{", b"\\ud83d", b"NaN"))
                )
            case "lose" if len(payloads) > 1:
                del payloads[i]
            case "repeat":
                payloads[i:i] = [payloads[i]] * draw(st.sampled_from([1, 2, 300]))
            case "other":
                _, others = draw(st.sampled_from(seeds()))
                payloads.insert(i, draw(st.sampled_from(others)))
            case _:
                payloads[i] = dumped(draw(odd_values()))
    body = b"".join(b"data: " + payload + b"\n\n" for payload in payloads)
    return Body(dialect, draw(cut(body)), draw(st.booleans()))


def _loaded(payload: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def check_body(body: Body) -> None:
    """Messages that can be sent, of bounded size, then a plausible account or an
    UpstreamFailure."""
    decoder: StreamDecoder | MessageDecoder
    if body.dialect == "openai":
        decoder = StreamDecoder(
            2, prompt_tokens=lambda: 77, usage_by_choice=body.vllm, bounds=BOUNDS
        )
    else:
        decoder = MessageDecoder(lambda: 77, bounds=BOUNDS)
    reader = SseReader()
    ended: dict[int, bool] = {}
    sizes: dict[int, int] = {}
    tokens = 0
    for piece in body.pieces:
        if decoder.ended:
            break
        chunk = decoder.feed(reader.feed(piece))
        if chunk is None:
            continue
        delta_message(chunk).SerializeToString()
        assert chunk.output_tokens >= tokens, "output_tokens falls"
        tokens = chunk.output_tokens
        for delta in chunk.deltas:
            size = len(delta.text.encode()) + len(delta.reasoning_text.encode())
            sizes[delta.index] = sizes.get(delta.index, 0) + size
            if delta.finish_reason is not None:
                assert delta.index not in ended, "a choice that ends twice"
                ended[delta.index] = True
    assert tokens <= BOUNDS.believed_output_tokens
    try:
        last = decoder.end()
    except UpstreamFailure as failure:
        failure.message.encode()
        return
    usage = last.usage
    assert usage is not None
    usage_message(usage).SerializeToString()
    assert 0 <= usage.completion_tokens <= BOUNDS.believed_output_tokens
    assert 0 < usage.prompt_tokens <= PROMPT_BOUND + UNSEEN_PROMPT_TOKENS
    assert 0 <= (usage.cached_tokens or 0) <= usage.prompt_tokens
    assert 0 <= (usage.all_cache_write_tokens or 0) <= usage.prompt_tokens
    assert 0 <= (usage.reasoning_tokens or 0) <= usage.completion_tokens
