"""Bodies are inflated whole, and never beyond the limit."""

from __future__ import annotations

import gzip
import zlib

import pytest

from gateway.doors.entry.inflate import TooLarge, inflated


async def test_a_large_message_is_inflated_whole() -> None:
    plain = bytes(range(256)) * 8192
    for raw in (gzip.compress(plain), zlib.compress(plain, 9)):
        assert await inflated(raw, len(plain)) == plain


async def test_one_byte_beyond_the_limit_is_too_large() -> None:
    plain = b"x" * 4096
    assert await inflated(gzip.compress(plain), 4096) == plain
    with pytest.raises(TooLarge, match="at most 4095 may be sent here"):
        await inflated(gzip.compress(plain), 4095)


@pytest.mark.parametrize("raw", [b'{"model": "moe"}', b"", b"\x1f\x8b no gzip"])
async def test_what_is_not_compressed_passes_unchanged(raw: bytes) -> None:
    assert await inflated(raw, 1) == raw
