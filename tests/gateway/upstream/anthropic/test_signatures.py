"""Signed thinking: out of a stream, into a history, in the same order and to its server only."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec import structs

from gateway.domain.choice_assembler import ChoiceAssembler
from gateway.domain.generation import (
    MAX_SIGNATURE_BYTES,
    Chat,
    ChoiceDelta,
    Generation,
    Message,
    Role,
    Signature,
    ToolCall,
)
from gateway.domain.slices import finish
from gateway.upstream.anthropic.body import ANTHROPIC_FEATURES, messages_body
from gateway.upstream.anthropic.signatures import blocks_of
from gateway.upstream.anthropic.stream import MessageDecoder

ORIGIN = "here"
Block = dict[str, Any]
TEXT: Block = {"type": "text", "text": "Hi"}
CALL: Block = {"type": "tool_use", "id": "c1", "name": "f", "input": {}}
REDACTED: Block = {"type": "redacted_thinking", "data": "QUJD"}


def thinking(text: str, signature: str = "c2ln") -> Block:
    return {"type": "thinking", "thinking": text, "signature": signature}


def events(blocks: list[Block]) -> list[bytes]:
    """A stream with these blocks; texts and signatures come in pieces."""
    found: list[Block] = [{"type": "message_start", "message": {"usage": {"input_tokens": 3}}}]
    for index, block in enumerate(blocks):
        pieces: list[Block] = []
        start = dict(block)
        match block["type"]:
            case "thinking":
                start |= {"thinking": "", "signature": ""}
                pieces = [
                    {"type": "thinking_delta", "thinking": char} for char in block["thinking"]
                ]
                for half in (block["signature"][:2], block["signature"][2:]):
                    pieces.append({"type": "signature_delta", "signature": half})
            case "text":
                start["text"] = ""
                pieces = [{"type": "text_delta", "text": block["text"]}]
        found.append({"type": "content_block_start", "index": index, "content_block": start})
        found += [{"type": "content_block_delta", "index": index, "delta": d} for d in pieces]
        found.append({"type": "content_block_stop", "index": index})
    found.append(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 9},
        }
    )
    found.append({"type": "message_stop"})
    return [json.dumps(event).encode() for event in found]


def answer(blocks: list[Block], *, origin: str = ORIGIN, merged: bool = False) -> ChoiceDelta:
    decoder, whole = MessageDecoder(lambda: 7, origin=origin), ChoiceAssembler()
    payloads = events(blocks)
    for read in [payloads] if merged else [[payload] for payload in payloads]:
        if (chunk := decoder.feed(read)) is not None:
            for delta in chunk.deltas:
                whole.add(delta)
    decoder.end()
    (choice,) = whole.choices()
    return choice


def sent_back(choice: ChoiceDelta, origin: str = ORIGIN) -> list[Block]:
    """The blocks of the assistant's message in the next request to `origin`."""
    said = Message(
        role=Role.ASSISTANT,
        parts=(choice.text,),
        tool_calls=choice.tool_calls,
        signatures=choice.signatures,
        reasoning_text=choice.reasoning_text,
    )
    user = Message(role=Role.USER, parts=("Hello",))
    generation = Generation(
        request_id="r", model="m", input=Chat(messages=(user, said, user)), max_output_tokens=9
    )
    body = json.loads(
        finish(messages_body(generation, "up", ANTHROPIC_FEATURES, {}, origin=origin))
    )
    blocks: list[Block] = body["messages"][1]["content"]
    return blocks


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize(
    "blocks",
    [
        [thinking("hm"), TEXT],
        [thinking("hm"), CALL],
        [thinking(""), TEXT],
        [REDACTED, TEXT],
        [thinking("a", "s1"), REDACTED, thinking("b", "s2"), TEXT, CALL],
        [thinking("a", "s1"), TEXT, thinking("b", "s2"), CALL],
        [thinking("a", "s1"), CALL, thinking("b", "s2"), {**CALL, "id": "c2"}],
        [TEXT, REDACTED, CALL],
        [TEXT, CALL],
    ],
)
def test_blocks_go_back_in_the_order_in_which_they_came(blocks: list[Block], merged: bool) -> None:
    assert sent_back(answer(blocks, merged=merged)) == blocks


def test_thinking_at_the_end_is_not_lost() -> None:
    assert sent_back(answer([TEXT, thinking("hm")])) == [thinking("hm"), TEXT]


def test_another_server_gets_the_text_alone() -> None:
    choice = answer([thinking("a"), REDACTED, TEXT, thinking("b"), CALL])
    assert choice.reasoning_text == "ab"
    assert sent_back(choice, "elsewhere") == [TEXT, CALL]


def test_thinking_without_a_signature_does_not_go_back() -> None:
    assert sent_back(answer([thinking("hm", ""), TEXT])) == [TEXT]


def test_without_an_origin_none_is_kept() -> None:
    assert answer([thinking("hm"), REDACTED, TEXT], origin="").signatures == ()


def test_a_block_beyond_the_bound_is_left_out() -> None:
    large = {**REDACTED, "data": "x" * MAX_SIGNATURE_BYTES}
    assert sent_back(answer([large, REDACTED, TEXT])) == [REDACTED, TEXT]
    decoder = MessageDecoder(lambda: 7, origin=ORIGIN)
    piece = {"type": "thinking_delta", "thinking": "x" * 100_000}
    delta = json.dumps({"type": "content_block_delta", "index": 0, "delta": piece}).encode()
    first, second, *_, stop, end, over = events([thinking("", "c2ln")])
    decoder.feed([first, second, *[delta] * 15])
    chunk = decoder.feed([stop, end, over])
    assert chunk is not None
    assert chunk.deltas[0].signatures == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{oops",
        b"\xff",
        b'{"type": "text", "text": "other"}',
        b'{"type": "thinking", "thinking": "hm"}',
        b'{"type": "redacted_thinking", "data": 5}',
    ],
)
def test_data_that_is_no_block_adds_nothing(data: bytes) -> None:
    assert blocks_of([data]) == []
    signatures = (Signature(origin=ORIGIN, data=data),)
    assert sent_back(ChoiceDelta(index=0, text="Hi", signatures=signatures)) == [TEXT]


FOREIGN = Message(
    role=Role.ASSISTANT,
    parts=("Let me look.",),
    tool_calls=(ToolCall(index=0, id="c1", name="f", arguments_json="{}"),),
)
RESULT = Message(role=Role.TOOL, parts=("42",), tool_call_id="c1")
USER = Message(role=Role.USER, parts=("Hello",))


@pytest.mark.parametrize(
    ("mode", "messages", "thinks"),
    [
        ('{"type": "enabled", "budget_tokens": 2000}', (USER,), True),
        ('{"type": "enabled", "budget_tokens": 2000}', (USER, FOREIGN, RESULT), False),
        ('{"type": "enabled", "budget_tokens": 2000}', (USER, FOREIGN, RESULT, USER), False),
        (
            '{"type": "enabled", "budget_tokens": 2000}',
            (USER, FOREIGN, RESULT, Message(role=Role.ASSISTANT, parts=("42",)), USER),
            True,
        ),
        ('{"type": "adaptive"}', (USER, FOREIGN, RESULT), True),
        ('"enabled"', (USER, FOREIGN, RESULT), True),
    ],
)
def test_forced_thinking_pauses_in_a_turn_that_another_server_began(
    mode: str, messages: tuple[Message, ...], thinks: bool
) -> None:
    """Claude up to 4.5: "When `thinking` is enabled, a final `assistant` message must start with a
    thinking block"."""
    generation = Generation(
        request_id="r", model="m", input=Chat(messages=messages), max_output_tokens=9
    )
    extra = {"thinking": msgspec.Raw(mode.encode())}
    made = finish(messages_body(generation, "up", ANTHROPIC_FEATURES, extra, origin=ORIGIN))
    assert ("thinking" in json.loads(made)) is thinks


def test_forced_thinking_goes_on_in_a_turn_of_its_own() -> None:
    said = answer([thinking("hm"), TEXT, CALL])
    turn = structs.replace(FOREIGN, signatures=said.signatures, tool_calls=said.tool_calls)
    generation = Generation(
        request_id="r", model="m", input=Chat(messages=(USER, turn, RESULT)), max_output_tokens=9
    )
    extra = {"thinking": msgspec.Raw(b'{"type": "enabled"}')}
    made = finish(messages_body(generation, "up", ANTHROPIC_FEATURES, extra, origin=ORIGIN))
    assert "thinking" in json.loads(made)


def test_a_turn_of_foreign_signatures_alone_is_left_out() -> None:
    sealed = Message(
        role=Role.ASSISTANT, parts=("",), signatures=(Signature(origin="elsewhere", data=b"x"),)
    )
    generation = Generation(
        request_id="r", model="m", input=Chat(messages=(USER, sealed, USER)), max_output_tokens=9
    )
    made = finish(messages_body(generation, "up", ANTHROPIC_FEATURES, {}, origin=ORIGIN))
    (message,) = json.loads(made)["messages"]
    assert [block["text"] for block in message["content"]] == ["Hello", "Hello"]
