"""Signatures in OpenAI-shaped streams and histories: Gemini's, OpenRouter's, LiteLLM's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec import structs

from gateway.config.remote import HistoryConfig
from gateway.domain.choice_assembler import ChoiceAssembler
from gateway.domain.generation import (
    MAX_SIGNATURE_BYTES,
    MAX_SIGNATURES,
    Chat,
    ChoiceDelta,
    DeviationKind,
    Generation,
    Message,
    Role,
    Signature,
    ToolCall,
)
from gateway.domain.slices import finish
from gateway.upstream.openai.body import BodyOptions, generation_body
from gateway.upstream.openai.signatures import MAX_LIST_ITEMS, fields_of
from gateway.upstream.openai.stream import StreamDecoder

ORIGIN = "here"
GOOGLE = {"google": {"thought_signature": "c2lnbmF0dXJl"}}
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def answer(*deltas: dict[str, Any], origin: str = ORIGIN, merged: bool = False) -> ChoiceDelta:
    """The assembled answer to these deltas, one frame each or all in one read."""
    decoder, whole = StreamDecoder(1, prompt_tokens=lambda: 7, origin=origin), ChoiceAssembler()
    frames = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    frames.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    payloads = [json.dumps(frame).encode() for frame in frames]
    for read in [payloads] if merged else [[payload] for payload in payloads]:
        if (chunk := decoder.feed(read)) is not None:
            for delta in chunk.deltas:
                whole.add(delta)
    decoder.end()
    (choice,) = whole.choices()
    return choice


def sent_back(choice: ChoiceDelta, origin: str = ORIGIN) -> dict[str, Any]:
    """The assistant's message in the next request to `origin`."""
    message = Message(
        role=Role.ASSISTANT,
        parts=(choice.text,),
        tool_calls=choice.tool_calls,
        signatures=choice.signatures,
    )
    return body_of(message, BodyOptions(origin=origin))


def body_of(message: Message, options: BodyOptions) -> dict[str, Any]:
    """The message in a request."""
    generation = Generation(
        request_id="r", model="m", input=Chat(messages=(message,)), max_output_tokens=9
    )
    body = json.loads(finish(generation_body(generation, "up", options)))
    turn: dict[str, Any] = body["messages"][0]
    return turn


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("name", ["extra_content", "provider_specific_fields"])
def test_the_signature_of_a_call_goes_back_with_the_call(name: str, merged: bool) -> None:
    other = {**CALL, "index": 1, "id": "c2"}
    choice = answer(
        {"tool_calls": [{**CALL, name: GOOGLE}]}, {"tool_calls": [other]}, merged=merged
    )
    assert [len(call.signatures) for call in choice.tool_calls] == [1, 0]
    first, second = sent_back(choice)["tool_calls"]
    assert first[name] == GOOGLE
    assert name not in second
    assert sent_back(choice, "elsewhere")["tool_calls"][0].keys() == {"id", "type", "function"}


def test_a_placeholder_stands_for_the_signatures_of_other_servers() -> None:
    placeholder = {"google": {"thought_signature": "skip"}}
    history = HistoryConfig(placeholder_signature="skip")
    calls = (ToolCall(index=0, id="c1", name="f"), ToolCall(index=1, id="c2", name="f"))
    message = Message(role=Role.ASSISTANT, parts=(), tool_calls=calls)

    def extras(said: Message) -> list[object]:
        turn = body_of(said, BodyOptions(origin=ORIGIN, history=history))
        return [call.get("extra_content") for call in turn["tool_calls"]]

    assert extras(message) == [placeholder, placeholder]
    # Of parallel calls, Gemini signs only the first one.
    mine = answer({"tool_calls": [{**CALL, "extra_content": GOOGLE}]}).tool_calls[0]
    assert extras(structs.replace(message, tool_calls=(mine, calls[1]))) == [GOOGLE, None]
    foreign = Signature(origin="elsewhere", data=mine.signatures[0].data)
    other = structs.replace(calls[0], signatures=(foreign,))
    assert extras(structs.replace(message, tool_calls=(other,))) == [placeholder]


@pytest.mark.parametrize("merged", [True, False])
def test_a_signature_stays_with_its_call_where_all_calls_have_one_index(merged: bool) -> None:
    calls = [
        {**CALL, "id": f"c{i}", "function": {"name": f"f{i}", "arguments": "{}"}} for i in "ab"
    ]
    choice = answer(
        {"tool_calls": [{**calls[0], "extra_content": GOOGLE}]},
        {"tool_calls": [calls[1]]},
        merged=merged,
    )
    assert [(c.name, len(c.signatures)) for c in choice.tool_calls] == [("fa", 1), ("fb", 0)]


def test_a_signature_may_come_after_its_call() -> None:
    bare = {"index": 0, "extra_content": GOOGLE}
    choice = answer({"tool_calls": [CALL]}, {"tool_calls": [bare]})
    assert [len(call.signatures) for call in choice.tool_calls] == [1]


def test_a_frame_that_is_read_leniently_keeps_its_signatures() -> None:
    choice = answer(
        {"content": 5, "extra_content": GOOGLE, "tool_calls": [{**CALL, "extra_content": GOOGLE}]}
    )
    assert len(choice.signatures) == len(choice.tool_calls[0].signatures) == 1


@pytest.mark.parametrize("merged", [True, False])
def test_the_signature_of_a_text_goes_back_with_the_message(merged: bool) -> None:
    choice = answer({"content": "Hi"}, {"content": "", "extra_content": GOOGLE}, merged=merged)
    assert sent_back(choice)["extra_content"] == GOOGLE
    assert sent_back(choice, "elsewhere") == {"role": "assistant", "content": "Hi"}


@pytest.mark.parametrize("merged", [True, False])
def test_pieces_of_reasoning_details_become_whole_items(merged: bool) -> None:
    text: dict[str, Any] = {"type": "reasoning.text", "format": "anthropic-claude-v1", "index": 0}
    sealed = {"type": "reasoning.encrypted", "data": "QUJD", "id": "rs_1", "index": 1}
    choice = answer(
        {"reasoning": "Let ", "reasoning_details": [{**text, "text": "Let "}]},
        {"reasoning": "me.", "reasoning_details": [{**text, "text": "me.", "signature": None}]},
        {"reasoning_details": [{**text, "signature": "c2ln"}, sealed]},
        {"reasoning_details": [{**sealed, "data": "REVG", "id": "rs_2", "index": 2}]},
        {"content": "Hi"},
        merged=merged,
    )
    assert choice.reasoning_text == "Let me."
    assert sent_back(choice)["reasoning_details"] == [
        {**text, "text": "Let me.", "signature": "c2ln"},
        sealed,
        {**sealed, "data": "REVG", "id": "rs_2", "index": 2},
    ]


def test_items_without_an_index_are_told_apart_by_their_signatures() -> None:
    block = {"type": "thinking", "thinking": "", "signature": ""}
    choice = answer(
        {"thinking_blocks": [{**block, "thinking": "a"}]},
        {"thinking_blocks": [{**block, "thinking": "b", "signature": "s1"}]},
        {"thinking_blocks": [{**block, "thinking": "c", "signature": "s2"}]},
    )
    assert sent_back(choice)["thinking_blocks"] == [
        {**block, "thinking": "ab", "signature": "s1"},
        {**block, "thinking": "c", "signature": "s2"},
    ]


@pytest.mark.parametrize("value", [None, 5, "text", [], {}, [1, None], [[]], {"google": None}])
def test_a_field_of_another_shape_costs_that_field(value: object) -> None:
    choice = answer(
        {"content": "Hi", "extra_content": value, "reasoning_details": value},
        {"tool_calls": [{**CALL, "extra_content": value}]},
    )
    assert choice.text == "Hi"
    assert len(choice.tool_calls) == 1
    sent_back(choice)


def test_signatures_beyond_the_bounds_are_left_out() -> None:
    many = [{"type": "reasoning.encrypted", "data": "x", "index": i} for i in range(200)]
    assert len(answer({"reasoning_details": many}).signatures) == MAX_SIGNATURES
    large = {"type": "reasoning.encrypted", "data": "x" * MAX_SIGNATURE_BYTES, "index": 0}
    small = {"type": "reasoning.encrypted", "data": "x", "index": 1}
    kept = answer({"reasoning_details": [large]}, {"reasoning_details": [small]})
    assert len(kept.signatures) == 1
    halves = [{**large, "data": "x" * 400_000, "index": i} for i in range(4)]
    assert len(answer(*({"reasoning_details": [half]} for half in halves)).signatures) == 2
    crowd = [{"type": "reasoning.text", "text": "x", "index": i} for i in range(MAX_LIST_ITEMS + 9)]
    assert len(answer({"reasoning_details": crowd}).signatures) == MAX_SIGNATURES
    piece = {"type": "reasoning.text", "text": "x" * 100_000, "index": 0}
    endless = [{"reasoning_details": [piece]} for _ in range(15)]
    assert answer(*endless).signatures == ()


@pytest.mark.parametrize(
    ("detail", "left_out"),
    [
        ({"type": "reasoning.encrypted", "data": "x"}, False),
        ({"type": "reasoning.text", "text": "x" * (MAX_SIGNATURE_BYTES // 3)}, True),
    ],
)
def test_what_is_left_out_is_told(detail: dict[str, Any], left_out: bool) -> None:
    decoder = StreamDecoder(1, prompt_tokens=lambda: 7, origin=ORIGIN)
    frame = {"choices": [{"index": 0, "delta": {"reasoning_details": [{**detail, "index": 0}]}}]}
    end = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    decoder.feed([json.dumps(each).encode() for each in (*[frame] * 4, end)])
    found = [(each.kind, each.detail) for each in decoder.end().deviations]
    assert ((DeviationKind.UNREAD_FIELD, "signature") in found) is left_out


def test_a_server_without_an_origin_makes_none() -> None:
    choice = answer({"extra_content": GOOGLE, "reasoning_details": [{"type": "x"}]}, origin="")
    assert choice.signatures == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{oops",
        b"\xff",
        b"[" * 5000,
        b'{"role": "system"}',
        b'{"content": "other"}',
        b'{"extra_content": {"a": "\xff"}}',
        b'{"extra_content": {"a": tru}}',
        b'{"extra_content": {"a": "\\ud800"}}',
        b'{"extra_content": {}}',
        b'{"extra_content": "text"}',
        b'{"reasoning_details": [1]}',
    ],
)
def test_data_that_no_server_sent_adds_nothing(data: bytes) -> None:
    assert fields_of([data]) == {}
    turn = sent_back(
        ChoiceDelta(index=0, text="Hi", signatures=(Signature(origin=ORIGIN, data=data),))
    )
    assert turn == {"role": "assistant", "content": "Hi"}
    call = ToolCall(index=0, id="c", name="f", signatures=(Signature(origin=ORIGIN, data=data),))
    assert sent_back(ChoiceDelta(index=0, tool_calls=(call,)))["tool_calls"][0].keys() == {
        *("id", "type", "function")
    }
