"""The Messages API: bodies, golden streams, usage and errors, both ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.remote import Feature
from gateway.domain.choice_assembler import ChoiceAssembler
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import (
    Chat,
    Chunk,
    FinishReason,
    Generation,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Role,
    Sampling,
    Tool,
    ToolCall,
    ToolMode,
)
from gateway.domain.slices import finish
from gateway.upstream.anthropic.body import (
    ANTHROPIC_FEATURES,
    messages_body,
    unsupported_fields,
)
from gateway.upstream.anthropic.stream import MessageDecoder
from gateway.upstream.http.failures import failure_in, http_failure
from gateway.upstream.http.sse import SseReader
from scheduler.contract import Usage

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "anthropic_2023_06_01"
USER = Message(role=Role.USER, parts=("Hello",))


def generation(chat: Chat | str = Chat(messages=(USER,)), **fields: Any) -> Generation:  # noqa: B008
    return Generation(request_id="r", model="m", input=chat, max_output_tokens=64, **fields)


def body(made: Generation, extra: dict[str, msgspec.Raw] | None = None) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(
        finish(messages_body(made, "up", ANTHROPIC_FEATURES, extra or {}))
    )
    return decoded


def unsupported(made: Generation) -> tuple[str, ...]:
    return unsupported_fields(made, ANTHROPIC_FEATURES)


def test_the_least_body() -> None:
    assert body(generation()) == {
        "model": "up",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "max_tokens": 64,
        "stream": True,
    }


def test_a_whole_agent_turn_keeps_its_meaning() -> None:
    chat = Chat(
        messages=(
            Message(role=Role.SYSTEM, parts=("Be brief.",)),
            Message(role=Role.SYSTEM, parts=("Use tools.",)),
            Message(
                role=Role.USER,
                parts=(
                    "What is this, and the weather?",
                    Image(data=b"\x89PNG", media_type="image/png"),
                    Image(url="https://example.com/cat.jpg"),
                ),
            ),
            Message(
                role=Role.ASSISTANT,
                parts=("Looking.",),
                reasoning_text="hidden thoughts",
                tool_calls=(
                    ToolCall(index=0, id="call.1:a", name="look", arguments_json='{"a": 1}'),
                    ToolCall(index=1, id="call_2", name="weather", arguments_json=""),
                ),
            ),
            Message(role=Role.TOOL, parts=("a cat",), tool_call_id="call.1:a"),
            Message(role=Role.TOOL, parts=("",), tool_call_id="call_2"),
            Message(role=Role.USER, parts=("Thanks, and?",)),
        ),
        tools=(
            Tool(
                name="look",
                description="Looks.",
                parameters_json_schema='{"type": "object"}',
                strict=True,
            ),
            Tool(name="weather", description="", parameters_json_schema='{"type": "object"}'),
        ),
        tool_choice=ToolMode.REQUIRED,
        json_schema=JsonSchema(name="answer", schema_json='{"type":"object"}', strict=True),
    )
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=40)
    made = body(generation(chat, sampling=sampling, stop=("END",)))
    assert made["system"] == [
        {"type": "text", "text": "Be brief."},
        {"type": "text", "text": "Use tools."},
    ]
    user, assistant, results = made["messages"]
    assert user["content"][1:] == [
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw=="},
        },
        {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.jpg"}},
    ]
    assert assistant == {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "Looking."},
            {"type": "tool_use", "id": "call_1_a", "name": "look", "input": {"a": 1}},
            {"type": "tool_use", "id": "call_2", "name": "weather", "input": {}},
        ],
    }
    assert results == {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "call_1_a",
                "content": [{"type": "text", "text": "a cat"}],
            },
            {"type": "tool_result", "tool_use_id": "call_2"},
            {"type": "text", "text": "Thanks, and?"},
        ],
    }
    assert made["tools"] == [
        {
            "name": "look",
            "description": "Looks.",
            "input_schema": {"type": "object"},
            "strict": True,
        },
        {"name": "weather", "input_schema": {"type": "object"}},
    ]
    assert made["tool_choice"] == {"type": "any"}
    assert made["output_config"] == {
        "format": {"type": "json_schema", "schema": {"type": "object"}}
    }
    assert (made["temperature"], made["top_p"], made["top_k"]) == (0.5, 0.9, 40)
    assert made["stop_sequences"] == ["END"]


@pytest.mark.parametrize(
    ("choice", "wire"),
    [
        (ToolMode.AUTO, {"type": "auto"}),
        (ToolMode.NONE, {"type": "none"}),
        (NamedTool(name="look"), {"type": "tool", "name": "look"}),
        (None, None),
    ],
)
def test_tool_choices(choice: ToolMode | NamedTool | None, wire: dict[str, str] | None) -> None:
    tool = Tool(name="look", description="", parameters_json_schema="{}")
    made = body(generation(Chat(messages=(USER,), tools=(tool,), tool_choice=choice)))
    assert made.get("tool_choice") == wire


def test_extra_fields_never_replace_the_gateways_own() -> None:
    extra = {"thinking": msgspec.Raw(b'{"type":"adaptive"}'), "model": msgspec.Raw(b'"other"')}
    made = body(generation(), extra)
    assert (made["thinking"], made["model"]) == ({"type": "adaptive"}, "up")


def user(*parts: str | Image) -> Message:
    return Message(role=Role.USER, parts=parts)


def chat_of(*messages: Message, **fields: Any) -> Generation:
    return generation(Chat(messages=messages, **fields))


def test_blank_texts_beside_others_are_left_out() -> None:
    system = Message(role=Role.SYSTEM, parts=(" ", "Be short."))
    sent = body(chat_of(system, user("", "hi", "\n")))
    assert sent["system"] == [{"type": "text", "text": "Be short."}]
    assert sent["messages"] == [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]


@pytest.mark.parametrize(
    ("made", "fields"),
    [
        (generation(), ()),
        (generation("a prompt"), ("prompt",)),
        (generation(choices=2), ("choices",)),
        (generation(logprobs=3), ("logprobs",)),
        (generation(ignore_eos=True), ("ignore_eos",)),
        (generation(stop=("\n",)), ("stop",)),
        (generation(sampling=Sampling(temperature=1.5)), ("sampling.temperature",)),
        (
            generation(sampling=Sampling(min_p=0.1, seed=1, presence_penalty=1.0)),
            ("sampling.min_p", "sampling.presence_penalty", "sampling.seed"),
        ),
        (chat_of(USER, json_object=True), ("chat.response_format.json_object",)),
        (chat_of(Message(role=Role.USER, parts=("a",), name="Ann")), ("chat.messages[0].name",)),
        (chat_of(USER, Message(role=Role.SYSTEM, parts=("a",))), ("chat.messages[1].role",)),
        (chat_of(Message(role=Role.SYSTEM, parts=("a",))), ("chat.messages",)),
        (
            chat_of(Message(role=Role.USER, parts=(Image(data=b"a", media_type="image/tiff"),))),
            ("chat.messages[0].parts",),
        ),
        (
            chat_of(USER, Message(role=Role.ASSISTANT, parts=("a",)), user("", " \n")),
            ("chat.messages[2].parts",),
        ),
        (
            chat_of(USER, Message(role=Role.ASSISTANT, parts=("",)), USER),
            ("chat.messages[1].parts",),
        ),
        (
            chat_of(
                USER,
                Message(
                    role=Role.ASSISTANT,
                    parts=(),
                    tool_calls=(ToolCall(index=0, id="a", name="f", arguments_json="[1]"),),
                ),
            ),
            ("chat.messages[1].tool_calls",),
        ),
    ],
)
def test_what_cannot_be_said_is_named(made: Generation, fields: tuple[str, ...]) -> None:
    assert unsupported(made) == fields
    if fields:
        with pytest.raises(ValueError, match="cannot honour"):
            finish(messages_body(made, "up", ANTHROPIC_FEATURES, {}))


def test_features_are_configurable() -> None:
    less = ANTHROPIC_FEATURES - {Feature.TOP_K}
    assert unsupported_fields(generation(sampling=Sampling(top_k=3)), less) == ("sampling.top_k",)


def decoded(
    name: str, cut: int | None = None
) -> tuple[ChoiceAssembler, MessageDecoder, list[Chunk]]:
    """A golden stream, in pieces of `cut` bytes."""
    data = (GOLDEN / name).read_bytes()
    reader, decoder, answer = SseReader(), MessageDecoder(lambda: 77), ChoiceAssembler()
    chunks: list[Chunk] = []
    step = cut or len(data)
    for at in range(0, len(data), step):
        chunk = decoder.feed(reader.feed(data[at : at + step]))
        if chunk is not None:
            chunks.append(chunk)
            for delta in chunk.deltas:
                answer.add(delta)
    return answer, decoder, chunks


@pytest.mark.parametrize("cut", [None, 1, 7, 64])
def test_text(cut: int | None) -> None:
    answer, decoder, chunks = decoded("text.sse", cut)
    (choice,) = answer.choices()
    assert (choice.text, choice.finish_reason) == ("Sparse experts — é", FinishReason.STOP)
    assert decoder.ended
    assert decoder.finished
    end = decoder.end()
    assert end.usage == Usage(
        prompt_tokens=21, completion_tokens=9, cached_tokens=0, cache_write_tokens=0
    )
    assert end.model == "claude-test-1"
    counts = [chunk.output_tokens for chunk in chunks]
    assert counts == sorted(counts)


@pytest.mark.parametrize("cut", [None, 1, 33])
def test_tool_calls(cut: int | None) -> None:
    answer, decoder, _ = decoded("tools.sse", cut)
    (choice,) = answer.choices()
    assert choice.text == "Let me look."
    assert choice.finish_reason is FinishReason.TOOL_CALLS
    assert choice.tool_calls == (
        ToolCall(index=0, id="toolu_01", name="get_weather", arguments_json='{"city": "Oslo"}'),
        ToolCall(index=1, id="toolu_02", name="get_time", arguments_json="{}"),
    )
    usage = decoder.end().usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (472, 89)


def test_thinking_and_what_was_cached_beside_the_input() -> None:
    answer, decoder, _ = decoded("thinking_cached.sse")
    (choice,) = answer.choices()
    assert (choice.reasoning_text, choice.text) == ("Two and two", "4")
    assert decoder.end().usage == Usage(
        prompt_tokens=2750,
        completion_tokens=30,
        cached_tokens=2000,
        reasoning_tokens=24,
        cache_write_tokens=456,
        long_cache_write_tokens=244,
    )


def test_an_error_in_the_stream() -> None:
    answer, decoder, _ = decoded("overloaded.sse")
    assert answer.choices() == []
    assert decoder.ended
    assert not decoder.finished
    with pytest.raises(UpstreamFailure, match="Overloaded") as caught:
        decoder.end()
    assert caught.value.kind is FailureKind.BUSY


@pytest.mark.parametrize("events", range(7))
def test_a_cut_before_the_stop_reason_is_a_failure(events: int) -> None:
    payloads = SseReader().feed((GOLDEN / "text.sse").read_bytes())[:events]
    decoder = MessageDecoder(lambda: 77)
    decoder.feed(payloads)
    if events == 6:
        assert not decoder.finished
    with pytest.raises(UpstreamFailure, match="cut"):
        decoder.end()


def test_an_answer_that_is_whole_but_for_its_end_is_good() -> None:
    payloads = SseReader().feed((GOLDEN / "text.sse").read_bytes())[:-1]
    decoder = MessageDecoder(lambda: 77)
    decoder.feed(payloads)
    assert not decoder.ended
    usage = decoder.end().usage
    assert usage is not None
    assert usage.completion_tokens == 9


def test_without_usage_it_is_estimated() -> None:
    decoder = MessageDecoder(lambda: 77)
    decoder.feed(
        [
            b'{"type":"content_block_delta","index":0,"delta":{"text":"twelve bytes"}}',
            b'{"type":"message_delta","delta":{"stop_reason":"max_tokens"}}',
        ]
    )
    assert decoder.end().usage == Usage(prompt_tokens=77, completion_tokens=3, estimated=True)


def test_the_text_that_ended_the_answer_is_told_once() -> None:
    decoder = MessageDecoder(lambda: 77)
    chunk = decoder.feed(
        [
            b'{"type":"content_block_delta","index":0,"delta":{"text":"a"}}',
            b'{"type":"message_delta","delta":{"stop_reason":"stop_sequence",'
            b'"stop_sequence":"END"}}',
        ]
    )
    assert chunk is not None
    [delta] = chunk.deltas
    assert (delta.finish_reason, delta.matched_stop) == (FinishReason.STOP, "END")


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"{oops", FailureKind.PROTOCOL),
        (b'{"type":"message_delta","delta":{"stop_reason":"error"}}', FailureKind.SERVER_ERROR),
        (
            b'{"type":"content_block_delta","index":3,"delta":{"partial_json":"{"}}',
            FailureKind.PROTOCOL,
        ),
        (
            b'{"type":"content_block_start","index":-1,"content_block":{"type":"text"}}',
            FailureKind.PROTOCOL,
        ),
        (b'{"type":"error"}', FailureKind.SERVER_ERROR),
    ],
)
def test_nonsense_is_a_failure(payload: bytes, kind: FailureKind) -> None:
    decoder = MessageDecoder(lambda: 77)
    decoder.feed([payload])
    with pytest.raises(UpstreamFailure) as caught:
        decoder.end()
    assert caught.value.kind is kind


@given(st.lists(st.binary(max_size=60) | st.sampled_from([
    b'{"type":"message_start","message":{"usage":{"input_tokens":-5,"output_tokens":1}}}',
    b'{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","input":[1]}}',
    b'{"type":"content_block_stop","index":1}',
    b'{"type":"content_block_delta","index":1,"delta":{"partial_json":"1"}}',
    b'{"type":"message_delta","delta":{"stop_reason":"refusal"},"usage":{"output_tokens":5}}',
    b'{"type":"message_stop"}',
])))  # fmt: skip
def test_any_payloads_end_in_an_account_or_a_failure(payloads: list[bytes]) -> None:
    decoder = MessageDecoder(lambda: 77)
    for payload in payloads:
        decoder.feed([payload])
    try:
        usage = decoder.end().usage
    except UpstreamFailure:
        return
    assert usage is not None
    assert usage.prompt_tokens >= 0
    assert usage.completion_tokens >= 0


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"type": "invalid_request_error", "message": "bad"}, FailureKind.BAD_REQUEST),
        (
            400,
            {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8 maximum"},
            FailureKind.CONTEXT_LENGTH,
        ),
        (
            400,
            {
                "type": "invalid_request_error",
                "message": "Output blocked by content filtering policy",
            },
            FailureKind.CONTENT_FILTER,
        ),
        (
            400,
            {"type": "invalid_request_error", "message": "Your credit balance is too low"},
            FailureKind.CREDIT,
        ),
        (401, {"type": "authentication_error"}, FailureKind.CREDENTIALS),
        (402, {"type": "billing_error"}, FailureKind.CREDIT),
        (404, {"type": "not_found_error"}, FailureKind.MODEL_NOT_FOUND),
        (429, {"type": "rate_limit_error"}, FailureKind.BUSY),
        (
            429,
            {
                "type": "rate_limit_error",
                "details": {"error_code": "enforced_spend_limit_reached"},
            },
            FailureKind.CREDIT,
        ),
        (500, {"type": "api_error"}, FailureKind.SERVER_ERROR),
        (529, {"type": "overloaded_error"}, FailureKind.BUSY),
        (418, {}, FailureKind.PROTOCOL),
    ],
)
def test_errors(status: int, error: dict[str, Any], kind: FailureKind) -> None:
    answer = json.dumps({"type": "error", "error": error}).encode()
    found = http_failure(status, answer, {"Retry-After": "2.5"}, 0.0)
    assert (found.kind, found.retry_after_s) == (kind, 2.5)


def test_other_bodies_tell_no_error() -> None:
    assert failure_in(b"<html>") is None
    assert failure_in(b'{"type":"message"}') is None
    assert http_failure(502, b"<html>", {}, 0.0).kind is FailureKind.SERVER_ERROR
    found = failure_in(b'{"type":"error","error":{"type":"overloaded_error"}}')
    assert found is not None
    assert found.kind is FailureKind.BUSY
