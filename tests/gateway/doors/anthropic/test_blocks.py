"""Content blocks: one after the other, whatever the order of the deltas."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.generation import ChoiceDelta, Signature, ToolCall
from gateway.doors.anthropic.blocks import BlockEvents, Event, whole_blocks
from gateway.doors.anthropic.thinking_signatures import signatures_of

SIGNED = Signature(origin="abc", data=b"sealed")


def delta(text: str = "", **fields: Any) -> ChoiceDelta:
    return ChoiceDelta(index=0, text=text, **fields)


def call(index: int, arguments: str = "", *, head: bool = False, **fields: Any) -> ChoiceDelta:
    named: dict[str, Any] = {"id": f"c{index}", "name": f"f{index}"} if head else {}
    piece = ToolCall(index=index, arguments_json=arguments, **named, **fields)
    return delta(tool_calls=(piece,))


def streamed(*deltas: ChoiceDelta, show_thinking: bool = True) -> list[Event]:
    writer = BlockEvents(show_thinking=show_thinking)
    return [event for each in deltas for event in writer.add(each)] + writer.end()


def read(events: list[Event]) -> list[dict[str, Any]]:
    """The blocks, as a client puts them together. Checks the order of the events."""
    blocks: list[dict[str, Any]] = []
    is_open = False
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert not is_open
                assert event["index"] == len(blocks)
                blocks.append({**event["content_block"], "json": ""})
                is_open = True
            case "content_block_delta":
                assert is_open
                assert event["index"] == len(blocks) - 1
                change = event["delta"]
                name = {
                    "text_delta": "text",
                    "thinking_delta": "thinking",
                    "signature_delta": "signature",
                    "input_json_delta": "json",
                }[change["type"]]
                piece = change["partial_json" if name == "json" else name]
                blocks[-1][name] += piece
            case "content_block_stop":
                assert is_open
                assert event["index"] == len(blocks) - 1
                is_open = False
    assert not is_open
    return blocks


def test_thinking_then_text_then_calls() -> None:
    blocks = read(
        streamed(
            delta(reasoning_text="hm"),
            delta(reasoning_text="m"),
            delta("Hel"),
            delta("lo"),
            call(0, head=True),
            call(0, '{"a":'),
            call(0, "1}"),
            call(1, "{}", head=True),
        )
    )
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
    assert (blocks[0]["thinking"], blocks[1]["text"]) == ("hmm", "Hello")
    assert (blocks[2]["id"], blocks[2]["name"], blocks[2]["json"]) == ("c0", "f0", '{"a":1}')
    assert blocks[3]["json"] == "{}"


def test_pieces_of_two_calls_that_come_mixed_are_put_in_order() -> None:
    blocks = read(
        streamed(
            call(0, '{"a":', head=True), call(1, '{"b":', head=True), call(0, "1}"), call(1, "2}")
        )
    )
    assert [block["json"] for block in blocks] == ['{"a":1}', '{"b":2}']


def test_text_between_calls_has_a_block_of_its_own() -> None:
    blocks = read(streamed(call(0, "{}", head=True), delta("and"), call(1, "{}", head=True)))
    assert [block["type"] for block in blocks] == ["tool_use", "text", "tool_use"]


def test_a_signature_ends_the_thinking_that_it_signs() -> None:
    blocks = read(streamed(delta(reasoning_text="hm"), delta(signatures=(SIGNED,)), delta("yes")))
    assert [block["type"] for block in blocks] == ["thinking", "text"]
    assert signatures_of(blocks[0]["signature"]) == (SIGNED,)


def test_a_signature_without_thinking_has_a_block_of_its_own() -> None:
    for deltas in (
        [delta(signatures=(SIGNED,)), delta("yes")],
        [delta("yes", signatures=(SIGNED,))],
    ):
        blocks = read(streamed(*deltas))
        assert [block["type"] for block in blocks] == ["redacted_thinking", "text"]
        assert signatures_of(blocks[0]["data"]) == (SIGNED,)
    last = read(streamed(delta("yes"), delta(signatures=(SIGNED,))))
    assert [block["type"] for block in last] == ["text", "redacted_thinking"]


def test_the_signature_of_a_call_stands_before_it() -> None:
    signed = call(0, "{}", head=True, signatures=(SIGNED,))
    blocks = read(streamed(delta("so"), signed))
    assert [block["type"] for block in blocks] == ["text", "redacted_thinking", "tool_use"]


def test_thinking_can_be_left_out_but_not_its_signature() -> None:
    deltas = [delta(reasoning_text="hm", signatures=(SIGNED,)), delta("yes")]
    blocks = read(streamed(*deltas, show_thinking=False))
    assert blocks[0]["thinking"] == ""
    assert signatures_of(blocks[0]["signature"]) == (SIGNED,)


def test_whole_blocks_hold_arguments_as_objects() -> None:
    whole = delta("Hi", reasoning_text="hm", tool_calls=(ToolCall(index=0, id="c", name="f"),))
    thinking, text, tool = whole_blocks([whole])
    assert thinking == {"type": "thinking", "thinking": "hm", "signature": ""}
    assert text == {"type": "text", "text": "Hi", "citations": None}
    head = {"type": "tool_use", "id": "c", "name": "f", "input": {}}
    assert tool == {**head, "caller": {"type": "direct"}}
    broken = delta(tool_calls=(ToolCall(index=0, id="c", name="f", arguments_json='{"a":'),))
    assert whole_blocks([broken])[0]["input"] == {"invalid_json": '{"a":'}
    assert whole_blocks([]) == []


@st.composite
def mixed_calls(draw: st.DrawFn) -> tuple[list[str], list[ChoiceDelta]]:
    """Arguments of some calls, and their pieces mixed in any order that keeps each call's."""
    arguments = [
        json.dumps(value)
        for value in draw(
            st.lists(
                st.dictionaries(st.text(max_size=3), st.text(max_size=6)), min_size=1, max_size=4
            )
        )
    ]
    left: list[list[ChoiceDelta]] = []
    for index, text in enumerate(arguments):
        cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
        ends = [0, *cuts, len(text)]
        pieces = [text[a:b] for a, b in itertools.pairwise(ends)]
        left.append([call(index, head=True), *(call(index, piece) for piece in pieces if piece)])
    order: list[ChoiceDelta] = []
    begun = 0  # calls begin in their order
    while any(left):
        ready = [n for n, each in enumerate(left) if each and (n < begun or n == begun)]
        chosen = draw(st.sampled_from(ready))
        begun = max(begun, chosen + 1)
        order.append(left[chosen].pop(0))
    return arguments, order


@given(mixed_calls())
def test_no_piece_of_a_call_is_lost_or_moved(calls: tuple[list[str], list[ChoiceDelta]]) -> None:
    arguments, deltas = calls
    blocks = read(streamed(*deltas))
    assert [block["json"] for block in blocks] == arguments
    assert [block["id"] for block in blocks] == [f"c{n}" for n in range(len(arguments))]
