"""Tags of a request: bounded, and equal where they mean the same."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.tags import MOST_LABELS, is_end_user, labels_json

KEYS = st.from_regex(r"[a-z][a-z0-9_.-]{0,31}", fullmatch=True)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64)


@given(st.dictionaries(KEYS, VALUES, max_size=MOST_LABELS))
def test_labels_are_kept_whatever_their_order(labels: dict[str, str]) -> None:
    text = labels_json(labels)
    assert text == labels_json(dict(reversed(labels.items())))
    assert (json.loads(text) if text else {}) == labels


@pytest.mark.parametrize(
    "labels",
    [
        {f"k{n}": "v" for n in range(MOST_LABELS + 1)},
        {"": "v"},
        {"Team": "v"},
        {"k" * 33: "v"},
        {"a'b": "v"},
        {"k": ""},
        {"k": "v" * 65},
        {"k": "ü"},
        {"k": "a\nb"},
        {"k": "a\0b"},
    ],
)
def test_labels_beyond_their_bounds_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"give |at most "):
        labels_json(labels)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("u-1", True),
        ("Zoë", True),
        ("", False),
        ("a\0", False),
        ("é" * 65, False),
        ("x" * 128, True),
    ],
)
def test_end_users(text: str, fits: bool) -> None:
    assert is_end_user(text) is fits
