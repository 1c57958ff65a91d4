"""Characters that were cut in two."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.half_characters import HalfCharacters, whole


@given(st.text(max_size=12), st.sets(st.integers(0, 24)))
def test_a_text_cut_by_utf_16_units_is_put_together(text: str, places: set[int]) -> None:
    units = text.encode("utf-16-le", "surrogatepass")
    ends = sorted({0, len(units), *(2 * place for place in places if 2 * place < len(units))})
    pieces = [units[a:b].decode("utf-16-le", "surrogatepass") for a, b in pairwise(ends)]
    halves = HalfCharacters()
    assert "".join([*(halves.joined("a", piece) for piece in pieces), halves.rest("a")]) == text


def test_single_halves_become_one_replacement_each() -> None:
    halves = HalfCharacters()
    assert halves.joined("a", "x\ud83d") == "x"
    assert bool(halves)
    assert halves.joined("a", "y\ude00") == "\ufffdy\ufffd"
    assert not halves
    assert halves.joined("a", "\ud83d") == ""
    assert halves.rest("a") == "\ufffd"
    assert halves.rest("a") == ""
    assert whole("\ud83d\ud83d\ude00") == "\ufffd\U0001f600"


def test_texts_are_told_apart() -> None:
    halves = HalfCharacters()
    assert halves.joined("a", "\ud83d") == ""
    assert halves.joined("b", "x") == "x"
    assert halves.joined("a", "\ude00") == "\U0001f600"
