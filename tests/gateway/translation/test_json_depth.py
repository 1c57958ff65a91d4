"""The depth of JSON text is found without parsing it, as a parser would find it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.slices import finish
from gateway.translation import json_depth
from gateway.translation.json_depth import PIECE_BYTES, deeper_than

TEXTS = st.text(st.sampled_from('[]{}"\\a'), max_size=8)
VALUES = st.recursive(
    TEXTS | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


def depth(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 0


def deeper(text: bytes, most: int) -> bool:
    return finish(deeper_than(text, most))


@given(VALUES, st.integers(1, 7))
def test_it_finds_the_depth_of_the_parsed_value(value: Any, piece_bytes: int) -> None:
    text = json.dumps(value).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_depth, "PIECE_BYTES", piece_bytes)
        found = depth(value)
        assert not deeper(text, found)
        if found:
            assert deeper(text, found - 1)


def test_brackets_in_strings_do_not_count() -> None:
    assert not deeper(b'["' + b"[" * 1000 + b'"]', 1)
    assert not deeper(b'["\\"' + b"[" * 1000 + b'"]', 1)
    assert deeper(b'["\\\\"' + b"[" * 1000, 1)  # the backslash is escaped: the string has ended


def test_the_state_passes_from_piece_to_piece() -> None:
    filler = b" " * PIECE_BYTES
    assert deeper(b"[" + filler + b"[" + filler + b"[", 2)
    assert not deeper(b"[" + filler + b"][" + filler + b"[", 2)
    assert not deeper(b'["' + filler + b"[[[[" + filler + b'"]', 1)


@given(st.binary(max_size=60))
def test_any_bytes_get_an_answer(text: bytes) -> None:
    assert deeper(text, 1) in (False, True)
