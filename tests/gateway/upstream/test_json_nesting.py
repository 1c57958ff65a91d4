"""Brackets of JSON text in pieces, against a parser of the whole."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.json_nesting import JsonNesting

VALUES = st.recursive(
    st.none() | st.integers() | st.text('{}[]"\\ a\u00e9', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text('{}[]"\\', max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
PIECES = st.lists(st.sampled_from(['{"a":', '"', "\\", "{", "}", "[", "]", " ", "a", "{}"]))


def nesting(pieces: list[str]) -> JsonNesting:
    found = JsonNesting()
    for piece in pieces:
        found.feed(piece)
    return found


@given(st.dictionaries(st.text('{}[]"\\', max_size=4), VALUES, max_size=3), st.data())
@settings(deadline=None)
def test_an_object_is_closed_with_its_last_bracket_and_not_before(
    value: dict[str, object], data: st.DataObject
) -> None:
    text = json.dumps(value)
    found = JsonNesting()
    at = 0
    while at < len(text):
        assert not found.is_closed
        size = data.draw(st.integers(1, 5))
        found.feed(text[at : at + size])
        at += size
    assert found.is_closed
    found.feed(" \n")
    assert found.is_closed
    found.feed("x")
    assert not found.is_closed


@given(PIECES)
@settings(deadline=None)
def test_what_is_not_closed_is_no_object(pieces: list[str]) -> None:
    try:
        is_object = isinstance(json.loads("".join(pieces)), dict)
    except ValueError:
        is_object = False
    assert nesting(pieces).is_closed or not is_object


@pytest.mark.parametrize(
    "pieces", [["}"], ["{}{}"], ["{", "}}"], ['{"a', "\\", '"}'], ['"{}"'], ["{]"[:1]], []]
)
def test_what_is_not_closed(pieces: list[str]) -> None:
    assert not nesting(pieces).is_closed
