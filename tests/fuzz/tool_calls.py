"""Sequences of tool calls, sent in the ways of servers, cut anywhere."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import strategies as st

from gateway.upstream.tool_calls import CallPiece, ToolCallNormaliser

NAMES = ("read", "write_file", "f", "get_weather", "no-op")


class Way(enum.Enum):
    """How a server writes its calls."""

    OPENAI = "index; id and name once; arguments in pieces"
    INTERLEAVED = "the same, all heads first, then pieces in turns"
    REPEATED = "index; id and name with every piece"
    ID_ONLY = "no index; id with every piece; name once"
    WHOLE = "no index; whole calls with ids"
    ZERO = "all at index 0; an id with the first piece of each"
    ZERO_WHOLE = "all at index 0, whole, ids"
    NO_IDS = "index; no ids"
    ONE_ID = "index; the same id for all"
    NAME_IN_PIECES = "index; id once; the name in two pieces"
    AGAIN = "index; pieces, then all arguments again"
    PLACEHOLDER = "index; {} before the pieces"


@dataclass(frozen=True, slots=True)
class Sent:
    """Calls (name, arguments) and the pieces that say them."""

    way: Way
    calls: list[tuple[str, str]]
    pieces: list[CallPiece]


def _values() -> st.SearchStrategy[object]:
    leaves = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
        max_leaves=6,
    )


@st.composite
def _arguments(draw: st.DrawFn, *, empty: bool = True) -> str:
    value = draw(st.dictionaries(st.text(max_size=4), _values(), min_size=not empty, max_size=3))
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    return json.dumps(value, ensure_ascii=draw(st.booleans()), separators=separators)


@st.composite
def _cut(draw: st.DrawFn, text: str) -> list[str]:
    places = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=4)))
    ends = [0, *(place for place in places if place < len(text)), len(text)]
    return [text[a:b] for a, b in pairwise(ends)]


@st.composite
def sent_calls(draw: st.DrawFn) -> Sent:
    """Calls in one way of all servers."""
    way = draw(st.sampled_from(Way))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5))
    full = way in (Way.PLACEHOLDER, Way.ZERO_WHOLE)
    calls = [(name, draw(_arguments(empty=not full))) for name in names]
    each = [
        _pieces(way, i, name, draw(_cut(arguments))) for i, (name, arguments) in enumerate(calls)
    ]
    if way is Way.INTERLEAVED:
        turns = max(len(pieces) for pieces in each)
        rows = [[pieces[t] for pieces in each if t < len(pieces)] for t in range(turns)]
        return Sent(way, calls, [piece for row in rows for piece in row])
    return Sent(way, calls, [piece for pieces in each for piece in pieces])


def _pieces(way: Way, i: int, name: str, cut: list[str]) -> list[CallPiece]:
    call_id, text = f"call-{i}", "".join(cut)
    match way:
        case Way.OPENAI | Way.INTERLEAVED:
            head = CallPiece(index=i, id=call_id, name=name)
            return [head, *(CallPiece(index=i, arguments=part) for part in cut)]
        case Way.REPEATED:
            return [CallPiece(index=i, id=call_id, name=name, arguments=part) for part in cut]
        case Way.ID_ONLY:
            head = CallPiece(id=call_id, name=name)
            return [head, *(CallPiece(id=call_id, arguments=part) for part in cut)]
        case Way.WHOLE:
            return [CallPiece(id=call_id, name=name, arguments=text)]
        case Way.ZERO:
            head = CallPiece(index=0, id=call_id, name=name, arguments=cut[0])
            return [head, *(CallPiece(index=0, arguments=part) for part in cut[1:])]
        case Way.ZERO_WHOLE:
            return [CallPiece(index=0, id=call_id, name=name, arguments=text)]
        case Way.NO_IDS:
            head = CallPiece(index=i, name=name)
            return [head, *(CallPiece(index=i, arguments=part) for part in cut)]
        case Way.ONE_ID:
            head = CallPiece(index=i, id="same", name=name)
            return [head, *(CallPiece(index=i, arguments=part) for part in cut)]
        case Way.NAME_IN_PIECES:
            half = len(name) // 2
            first = CallPiece(index=i, id=call_id, name=name[:half])
            second = CallPiece(index=i, name=name[half:])
            return [first, second, *(CallPiece(index=i, arguments=part) for part in cut)]
        case Way.AGAIN:
            head = CallPiece(index=i, id=call_id, name=name)
            parts = [CallPiece(index=i, arguments=part) for part in cut]
            return [head, *parts, CallPiece(index=i, arguments=text)]
        case Way.PLACEHOLDER:
            head = CallPiece(index=i, id=call_id, name=name, arguments="{}")
            return [head, *(CallPiece(index=i, arguments=part) for part in cut)]


def check_calls(sent: Sent) -> None:
    """Names, arguments and order are those sent; ids are there, each once."""
    made = ToolCallNormaliser(frozenset(NAMES))
    out = [call for piece in sent.pieces for call in made.add(piece)] + made.end()
    found: dict[int, list[str]] = {}
    for piece in out:
        call = found.setdefault(piece.index, ["", "", ""])
        assert not (piece.id and call[0]), "a head that comes twice"
        call[0] += piece.id
        call[1] += piece.name
        call[2] += piece.arguments_json
    assert list(found) == list(range(len(sent.calls)))
    got = [(call[1], json.loads(call[2])) for call in found.values()]
    assert got == [(name, json.loads(arguments)) for name, arguments in sent.calls]
    ids = [call[0] for call in found.values()]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    if sent.way not in (Way.NO_IDS, Way.ONE_ID):
        assert ids == [f"call-{i}" for i in range(len(ids))]
