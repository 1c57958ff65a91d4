"""The normaliser of tool calls: whatever a server's way, calls in are calls out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import count

import pytest
from hypothesis import given, settings

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Signature, ToolCall
from gateway.upstream.tool_calls import MAX_TOOL_CALLS, CallPiece, ToolCallNormaliser, made_id
from tests.fuzz.tool_calls import Sent, check_calls, sent_calls


def normaliser(*names: str) -> ToolCallNormaliser:
    """One that numbers the ids it makes."""
    numbers = count(1)
    return ToolCallNormaliser(frozenset(names), lambda: f"made{next(numbers)}")


def whole(pieces: Iterable[ToolCall]) -> list[tuple[str, str, str]]:
    """Id, name and arguments of each call."""
    found: dict[int, list[str]] = {}
    for piece in pieces:
        call = found.setdefault(piece.index, ["", "", ""])
        call[0] += piece.id
        call[1] += piece.name
        call[2] += piece.arguments_json
    return [(call[0], call[1], call[2]) for _, call in sorted(found.items())]


def run(*pieces: CallPiece, names: tuple[str, ...] = ()) -> list[tuple[str, str, str]]:
    made = normaliser(*names)
    out = [call for piece in pieces for call in made.add(piece)]
    return whole([*out, *made.end()])


@settings(deadline=None, max_examples=300)
@given(sent_calls())
def test_calls_in_are_calls_out(sent: Sent) -> None:
    check_calls(sent)


def test_a_head_comes_once_with_the_first_arguments() -> None:
    made = normaliser()
    assert made.add(CallPiece(index=0, id="c", name="f")) == []
    first = made.add(CallPiece(index=0, id="c", name="f", arguments='{"a"'))
    assert first == [ToolCall(index=0, id="c", name="f", arguments_json='{"a"')]
    assert made.add(CallPiece(index=0, id="c", name="f", arguments=":1}")) == [
        ToolCall(index=0, arguments_json=":1}")
    ]
    assert made.end() == []


def test_the_next_call_sends_the_head_before_it() -> None:
    made = normaliser()
    made.add(CallPiece(index=0, id="c1", name="f"))
    assert made.add(CallPiece(index=1, id="c2", name="g")) == [ToolCall(index=0, id="c1", name="f")]
    assert made.end() == [
        ToolCall(index=0, arguments_json="{}"),
        ToolCall(index=1, id="c2", name="g", arguments_json="{}"),
    ]


def test_names_of_tools_tell_a_name_in_pieces_from_two_calls() -> None:
    one, two = CallPiece(index=0, name="get"), CallPiece(index=0, name="set")
    assert [name for _, name, _ in run(one, two)] == ["getset"]
    assert [name for _, name, _ in run(one, two, names=("get", "set"))] == ["get", "set"]
    assert [name for _, name, _ in run(one, two, names=("getset",))] == ["getset"]


def test_missing_and_repeated_ids_are_made() -> None:
    found = run(
        CallPiece(index=0, name="f", arguments="{}"),
        CallPiece(index=1, id="c", name="f", arguments="{}"),
        CallPiece(index=2, id="c", name="g", arguments="{}"),
        CallPiece(index=3, id="made1", name="g", arguments="{}"),
    )
    assert [call_id for call_id, _, _ in found] == ["made1", "c", "made2", "made3"]
    assert len({made_id() for _ in range(1000)}) == 1000
    assert all(len(made_id()) == 9 for _ in range(9)), "Mistral takes no others"


def test_a_call_that_a_limit_cuts_gets_no_arguments() -> None:
    made = normaliser()
    made.add(CallPiece(index=0, id="c", name="f"))
    assert made.end(complete=False) == [ToolCall(index=0, id="c", name="f")]


def test_signatures_come_with_their_call() -> None:
    signature = Signature(origin="o", data=b"x")
    made = normaliser()
    assert made.add(CallPiece(index=0, id="c", name="f", signatures=(signature,))) == []
    (first,) = made.add(CallPiece(index=0, arguments='{"a"'))
    assert first.signatures == (signature,)
    (second,) = made.add(CallPiece(index=0, signatures=(signature,)))
    assert (second.index, second.signatures) == (0, (signature,))


def test_too_many_calls_are_a_failure() -> None:
    made = normaliser()
    for i in range(MAX_TOOL_CALLS):
        made.add(CallPiece(index=i, id=f"c{i}", name="f"))
    with pytest.raises(UpstreamFailure) as caught:
        made.add(CallPiece(index=-1, id="c", name="f"))
    assert caught.value.kind is FailureKind.PROTOCOL


def test_long_arguments_are_not_looked_at_again_and_again() -> None:
    text = json.dumps({"rows": [{"n": i} for i in range(50_000)]})
    made = normaliser()
    out = made.add(CallPiece(index=0, id="c", name="f"))
    for at in range(0, len(text), 7):
        out += made.add(CallPiece(index=0, arguments=text[at : at + 7]))
    assert whole([*out, *made.end()]) == [("c", "f", text)]


def test_brackets_within_a_text_are_not_read_again_with_every_piece(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[int] = []
    loads = json.loads

    def counted(text: str) -> object:
        read.append(len(text))
        return loads(text)

    monkeypatch.setattr(json, "loads", counted)
    pieces = ['{"code": "', *["{ab}"] * 1000, '"}']
    made = normaliser()
    out = made.add(CallPiece(index=0, id="c", name="f"))
    for piece in pieces:
        out += made.add(CallPiece(index=0, arguments=piece))
    assert whole([*out, *made.end()]) == [("c", "f", "".join(pieces))]
    assert sum(read) <= 10 * len("".join(pieces))
