"""The encoding of JSON text, and its values and objects beside what a parser finds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.slices import finish
from gateway.translation.json_size import UTF8_PIECE_BYTES, holds_more_than, is_utf8

TEXTS = st.text(st.sampled_from('a"\\,[{}]:'), max_size=6)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def counts(value: Any) -> tuple[int, int]:
    """Values and objects; an empty list or object counts as if it held one value."""
    match value:
        case dict() | list():
            inner = [*(value.values() if isinstance(value, dict) else value)]
            found = [counts(each) for each in inner] or [(1, 0)]
            values, objects = map(sum, zip(*found, strict=True))
            return 1 + values, objects + isinstance(value, dict)
        case _:
            return 1, 0


@given(VALUES)
def test_what_is_found_is_what_a_parser_finds(value: Any) -> None:
    text = json.dumps(value).encode()
    values, objects = counts(value)
    assert not finish(holds_more_than(text, values, objects))
    assert finish(holds_more_than(text, values - 1, objects)) or values == 1
    if objects:
        assert finish(holds_more_than(text, values, objects - 1))


@pytest.mark.parametrize("size", [65_534, 65_535, 65_536, 65_537])
def test_pieces_end_between_escapes(size: int) -> None:
    text = b'["' + b"a" * (size - 4) + b'\\\\\\"' + b"{,[" * 50_000 + b'", {}]'
    assert not finish(holds_more_than(text, 4, 1))
    assert finish(holds_more_than(text, 4, 0))


@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode), st.integers(0, 6))
def test_the_encoding_is_judged_across_pieces(text: bytes, before: int) -> None:
    try:
        text.decode()
        right = True
    except UnicodeDecodeError:
        right = False
    whole = b" " * (UTF8_PIECE_BYTES - before) + text
    assert finish(is_utf8(whole)) == right
