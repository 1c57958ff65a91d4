"""What is fuzzed: where inputs come from, and what must hold for every one of them.

A check raises on what must not be: any exception is a finding, of the code or of an assertion.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import yaml
from hypothesis import strategies as st

from gateway.config.gateway import GatewayConfig
from gateway.config.load.file import ConfigError, parse
from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import MAX_SIGNATURE_BYTES
from gateway.translation.responses import delta_message, usage_message
from gateway.upstream.http.sse import EventTooLarge, SseReader
from gateway.upstream.openai.signatures import fields_of
from gateway.upstream.openai.stream import StreamDecoder
from gateway.upstream.vllm.kv_event_format import BadEvents, EventReader
from gateway.upstream.vllm.metrics import BadMetrics, parse_metrics
from scheduler.contract import Usage
from scheduler.prefix.engine_caches import EngineCaches
from scheduler.prefix.token_blocks import CacheEvents, CacheReset, TokenBlocks, chain
from tests.fuzz import http2_frames, http_bodies, request_protos
from tests.fuzz.engine_steps import check_feed, feed_answers
from tests.fuzz.link_frames import check_frames, frames
from tests.fuzz.mutations import (
    NESTED_DEPTHS,
    changed,
    cut,
    dumped,
    lines_changed,
    odd_values,
    scratched,
)
from tests.fuzz.request_checks import check_request
from tests.fuzz.request_wire import check_sent, sent_requests
from tests.fuzz.tool_calls import check_calls, sent_calls
from tests.fuzz.upstream_streams import bodies, check_body
from tests.scheduler import kv_made

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "vllm_0_32"
EXAMPLE = ROOT / "examples" / "moegate.yaml"


@dataclass(frozen=True, slots=True)
class Target:
    """`inputs`: made anew for every run; `check`: raises on a finding."""

    inputs: Callable[[], st.SearchStrategy[Any]]
    check: Callable[[Any], None]


# --- the SSE reader


@dataclass(frozen=True, slots=True)
class CutStream:
    """Bytes in pieces, and the longest event that is taken."""

    pieces: list[bytes]
    max_event_bytes: int


def cut_streams() -> st.SearchStrategy[CutStream]:
    """Mostly lines of events, mixed with anything."""
    words = [
        b"data: x", b"data:y", b"data", b"data: \xf0\x9f\xa6\x80", b": c", b"id: 1", b"\n", b"\n\n",
        b"\r", b"\r\n", b"\r\n\r\n", b"\xef", b"\xef\xbb\xbf", b"data: " + b"z" * 70, b"\0",
    ]  # fmt: skip
    data = st.lists(st.sampled_from(words) | st.binary(max_size=5), max_size=20).map(b"".join)
    limits = st.sampled_from([1, 6, 8, 64, 1 << 20])
    return st.builds(CutStream, data.flatmap(cut), limits)


def reference_events(data: bytes) -> tuple[list[bytes], list[int]]:
    """The events of a whole stream by the letter of the standard, and the bytes of each block."""
    text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    *lines, cut_line = text.split(b"\n")
    events: list[bytes] = []
    sizes: list[int] = [0]
    values: list[bytes] = []
    for line in lines:
        if line:
            sizes[-1] += len(line) + 1
            name, _, value = line.partition(b":")
            if name == b"data":
                values.append(value.removeprefix(b" "))
        else:
            if values:
                events.append(b"\n".join(values))
            values = []
            sizes.append(0)
    sizes[-1] += len(cut_line)
    return events, sizes


def check_sse(stream: CutStream) -> None:
    """Any split gives what the standard says, in bounded memory, or EventTooLarge."""
    limit = stream.max_event_bytes
    expected, sizes = reference_events(b"".join(stream.pieces))
    found: list[bytes] = []
    reader = SseReader(limit)
    try:
        for piece in stream.pieces:
            found += reader.feed(piece)
            assert len(reader._rest) <= limit + 1, "more is kept than the limit"
    except EventTooLarge:
        # An empty line before an event may count towards it, as the line end after it.
        assert max(sizes) >= limit - 1, "refused, but no event is that long"
        assert found == expected[: len(found)]
        return
    assert found == expected
    assert max(sizes) <= limit + 2, "an event above the limit was taken"


# --- the decoder of streams


@dataclass(frozen=True, slots=True)
class Payloads:
    """Events of a stream as they come in, some at a time."""

    feeds: list[list[bytes]]
    choices: int
    usage_by_choice: bool


@functools.cache
def recorded_streams() -> tuple[tuple[bytes, ...], ...]:
    """The recorded streams of a real server, the middle of long ones left out."""
    streams = [
        SseReader().feed(path.read_bytes()) for path in sorted(GOLDEN.parent.glob("vllm_*/*.sse"))
    ]
    return tuple(tuple(events[:5] + events[5:][-4:]) for events in streams if events)


# What other servers send, and vLLM in its less usual answers: shapes that no recording has.
EXTRA_FRAMES = (
    b'{"error": {"message": "no", "code": 500, "param": null}}',
    b'{"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "a", "function": '
    b'{"name": "f", "arguments": "{}"}}]}, "finish_reason": "tool_calls"}]}',
    b'{"choices": [{"index": 1, "delta": {"reasoning_content": "hm", "refusal": "no"}, '
    b'"finish_reason": "stop"}], "usage": {"prompt_tokens": 5, "completion_tokens": 2, '
    b'"total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 3}, '
    b'"completion_tokens_details": {"reasoning_tokens": 2}}}',
    b'{"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "a", "function": '
    b'{"name": "f"}, "extra_content": {"google": {"thought_signature": "c2ln"}}}], '
    b'"extra_content": {"google": {"thought_signature": "c2ln"}}}}]}',
    b'{"choices": [{"index": 0, "delta": {"reasoning_details": [{"type": "reasoning.text", '
    b'"text": "hm", "index": 0}, {"type": "reasoning.encrypted", "data": "QUJD", "index": 1}]}}]}',
)


def loaded(payload: bytes) -> dict[str, Any] | None:
    """A frame, if it is still one; Python's own decoder takes what `dumped` writes."""
    try:
        frame = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return frame if isinstance(frame, dict) else None


@st.composite
def payload_streams(draw: st.DrawFn) -> Payloads:
    """A recorded stream with some of its events changed, repeated, lost or out of order."""
    payloads = list(draw(st.sampled_from(recorded_streams())))
    for _ in range(draw(st.integers(0, 2))):
        payloads.insert(draw(st.integers(0, len(payloads))), draw(st.sampled_from(EXTRA_FRAMES)))
    for _ in range(draw(st.integers(0, 4))):
        i = draw(st.integers(0, len(payloads) - 1))
        match draw(st.sampled_from(["change", "change", "change", "scratch", "lose", "repeat"])):
            case "change" if (frame := loaded(payloads[i])) is not None:
                payloads[i] = dumped(draw(changed(frame)))
            case "scratch":
                payloads[i] = draw(scratched(payloads[i], (b"\xff", b'"', b"{", b"-", b"9" * 30)))
            case "lose" if len(payloads) > 1:
                del payloads[i]
            case "repeat":
                payloads.insert(draw(st.integers(0, len(payloads))), payloads[i])
            case _:
                payloads[i] = dumped(draw(odd_values()))
    places = sorted(draw(st.sets(st.integers(1, len(payloads)), max_size=8)))
    feeds = [payloads[start:end] for start, end in pairwise([0, *places, len(payloads)])]
    return Payloads(feeds, draw(st.sampled_from([1, 1, 2, 3])), draw(st.booleans()))


def check_usage(usage: Usage) -> None:
    """Fits its message, and nothing in it is negative."""
    message = usage_message(usage)
    counts = [message.prompt_tokens, message.completion_tokens]
    assert min(*counts, message.cached_tokens, message.reasoning_tokens) >= 0, usage


def check_decoder(stream: Payloads) -> None:
    """Only UpstreamFailure, only at the end; what comes before it can be sent to a client."""
    decoder = StreamDecoder(
        stream.choices,
        prompt_tokens=lambda: 77,
        usage_by_choice=stream.usage_by_choice,
        origin="here",
    )
    finished: set[int] = set()
    output_tokens = 0
    for payloads in stream.feeds:
        chunk = decoder.feed(payloads)
        if chunk is None:
            continue
        delta_message(chunk)
        assert chunk.output_tokens >= output_tokens, "output_tokens falls"
        output_tokens = chunk.output_tokens
        # What a client is told when the stream breaks here.
        check_usage(Usage(prompt_tokens=77, completion_tokens=output_tokens))
        for delta in chunk.deltas:
            assert 0 <= delta.index < stream.choices
            if delta.finish_reason is not None:
                assert delta.index not in finished, "a choice that ends twice"
                finished.add(delta.index)
            signatures = [*delta.signatures, *(s for c in delta.tool_calls for s in c.signatures)]
            sent_back = msgspec.json.encode(fields_of(each.data for each in signatures))
            assert len(sent_back) <= 2 * MAX_SIGNATURE_BYTES
            sent_back.decode()
    try:
        last = decoder.end()
    except UpstreamFailure as failure:
        failure.message.encode()
        return
    ended = len(finished) + last.missing_choices
    assert ended == stream.choices, "a good end with choices unfinished"
    assert last.usage is not None
    check_usage(last.usage)


# --- the metrics parser

METRICS_WORDS = (
    b"NaN", b"+Inf", b"-Inf", b"-1", b"-0.0", b"1e308", b"1_0", b"0x1", b"1e999", b"9" * 5000, b"",
    b"\xff", b" ", b"\t", b"vllm:num_requests_running", b"vllm:prompt_tokens_total", b"{", b"}",
    b'vllm:cache_config_info{block_size="' + b"9" * 5000 + b'",num_gpu_blocks="2"}', b'="7"',
    b'vllm:num_requests_running{engine="1"} 1e308', b"1.0 1795467777",
)  # fmt: skip


@functools.cache
def recorded_metrics() -> bytes:
    """The lines of the recorded metrics that are read, and a few of the others."""
    lines = (GOLDEN / "metrics.txt").read_bytes().splitlines()
    wanted = (b"num_requests", b"kv_cache_usage_perc", b"_tokens_total", b"cache_config_info")
    kept = [line for line in lines if any(word in line for word in wanted)]
    return b"\n".join((*lines[:5], *kept, b""))


def check_metrics(text: bytes) -> None:
    """A report of counts, or BadMetrics."""
    try:
        report = parse_metrics(text, "pool/a", 0.0, None)
    except BadMetrics:
        return
    totals = (report.prompt_tokens_total, report.generation_tokens_total)
    counts = (report.running, report.waiting, report.kv_usage, *totals)
    assert all(c is None or (c >= 0 and math.isfinite(c)) for c in counts), report
    assert report.kv_capacity_tokens is None or report.kv_capacity_tokens > 0


# --- the configuration

CONFIG_WORDS = (
    b"~", b"-1", b"0", b".nan", b".inf", b"1e999", b"9" * 5000, b"0x_", b"!!int x", b"!!binary x",
    b"!!set {a}", b"&a", b"*a", b"[", b"]", b"{", b"}", b"- ", b": ", b"? ", b"|", b"---", b"...",
    b"%YAML 9.9", b'"\\ud800"', b'"\\0"', b"\xff", b"\xef\xbb\xbf", b"\t", b"2001-01-01", b"on",
    b"[" * 40, b"<<: {}", b"http://[::1", b"http://a:99999", b"127.0.0.1:99999", b"#", b"1:30",
)  # fmt: skip


@st.composite
def config_texts(draw: st.DrawFn) -> bytes:
    """The example with its lines changed, or its data changed and written anew."""
    text = EXAMPLE.read_bytes()
    if draw(st.booleans()):
        return draw(lines_changed(text, CONFIG_WORDS))
    data = draw(changed(yaml.safe_load(text)))
    return dumped(data)  # JSON is YAML, but for what `dumped` writes beyond JSON


def check_config(text: bytes) -> None:
    """A configuration, or an error that can be printed."""
    with mock.patch.dict(os.environ, {"OVERFLOW_API_KEY": "sk-fuzz"}):
        try:
            config = parse(text, "moegate.yaml", ROOT / "examples")
        except ConfigError as error:
            refused = error
        else:
            assert isinstance(config, GatewayConfig)
            return
    assert refused.problems
    assert all(problem.value and problem.message for problem in refused.problems)
    str(refused)


# --- KV events

CACHE_BLOCKS = 16
MSGPACK_WORDS = (
    b"\xc0", b"\xc1", b"\x00", b"\xff", b"\xcf" + b"\xff" * 8, b"\xd3" + b"\x80" + b"\x00" * 7,
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xa1\xff",
    b"\xcb\x7f\xf8" + b"\x00" * 6, b"\xc4\x01a", b"\xaablock_size\x00", b"\xaablock_size\x01",
)  # fmt: skip
TOKENS = tuple(range(200, 200 + 8 * kv_made.SIZE))


@st.composite
def kv_batches(draw: st.DrawFn) -> bytes:
    """A batch that tells of stored and removed blocks, its bytes changed; or lists in lists."""
    if draw(st.integers(0, 9)) == 0:
        nested = b"\x91" * draw(st.sampled_from(NESTED_DEPTHS))
        return b"\x92\x01\x91\x82\xa4type\xabBlockStored\xaaextra_keys" + nested
    events = [
        kv_made.stored(TOKENS, salt=draw(st.sampled_from(["", "a"]))),
        kv_made.removed(TOKENS),
        kv_made.stored(TOKENS, done=draw(st.integers(1, 8)), group_idx=None),
        kv_made.CLEARED,
    ]
    return draw(scratched(kv_made.batch(*draw(st.permutations(events))), MSGPACK_WORDS))


def check_kv_events(payload: bytes) -> None:
    """Changes that the caches take within their bound, or BadEvents."""
    caches = EngineCaches(1, CACHE_BLOCKS)
    try:
        changes = EventReader().read(payload)
    except BadEvents:
        return
    prompt = (TokenBlocks(block_tokens=kv_made.SIZE, names=tuple(chain(0, TOKENS, kv_made.SIZE))),)
    for told in (*changes, CacheReset(known=True, emptied=True)):
        caches.apply_events(0, CacheEvents(placement="p", rank=0, ranks=1, changes=(told,)), 0.0)
        assert len(caches) <= CACHE_BLOCKS
        assert 0 <= caches.hit_tokens(prompt)[0] <= len(TOKENS)
    assert (len(caches), caches.held_tokens(0)) == (0, 0)


TARGETS = {
    "sse": Target(cut_streams, check_sse),
    "decoder": Target(payload_streams, check_decoder),
    "requests": Target(request_protos.requests, check_request),
    "request_bytes": Target(sent_requests, check_sent),
    "http_bodies": Target(http_bodies.sent_bodies, http_bodies.check_body),
    "http2": Target(http2_frames.sent, http2_frames.check_connection),
    "engine_feed": Target(feed_answers, check_feed),
    "metrics": Target(lambda: lines_changed(recorded_metrics(), METRICS_WORDS), check_metrics),
    "tool_calls": Target(sent_calls, check_calls),
    "upstream_streams": Target(bodies, check_body),
    "kv_events": Target(kv_batches, check_kv_events),
    "link": Target(frames, check_frames),
    "config": Target(config_texts, check_config),
}
