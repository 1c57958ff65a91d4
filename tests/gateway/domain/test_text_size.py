"""The size of a text is that of its UTF-8 bytes."""

from __future__ import annotations

import pytest

from gateway.domain.text_size import utf8_bytes


@pytest.mark.parametrize("text", ["", "abc", "é", "中文", "a😀", "\x00", "x" * 100_000 + "é"])
def test_it_is_the_size_of_the_encoded_text(text: str) -> None:
    assert utf8_bytes(text) == len(text.encode())
