"""Images that come as text: base64 and data URLs (RFC 2397), decoded in steps of some milliseconds.

Both doors read them here. Raises ValueError whose text says what to give.
"""

from __future__ import annotations

import base64

from gateway.domain.generation import Image
from gateway.domain.image_policy import registered_type
from gateway.domain.slices import Steps

DATA_URL = "data:"
PIECE_CHARS = 1 << 19
"""Characters of one step, a multiple of 4: less than 2 ms."""
MAX_HEAD_CHARS = 1024
"""Most characters of a data URL before its data."""
_SHOWN_CHARS = 80


def image_of_data_url(url: str) -> Steps[Image]:
    """The image of a data URL. Raises ValueError."""
    comma = url.find(",", len(DATA_URL), MAX_HEAD_CHARS)
    words = [word.strip().lower() for word in url[len(DATA_URL) : max(0, comma)].split(";")]
    if words[-1] != "base64":
        raise ValueError("a data URL without base64: give data:image/png;base64,...")
    return (yield from image_of_base64(url, words[0], comma + 1))


def image_of_base64(text: str, media_type: str, start: int = 0) -> Steps[Image]:
    """The image of base64 that begins at `start` of a text. Raises ValueError."""
    media_type = image_type(media_type)
    pieces = []
    for at in range(start, len(text), PIECE_CHARS):
        piece = text[at : at + PIECE_CHARS]
        is_last = at + PIECE_CHARS >= len(text)
        try:
            pieces.append(base64.b64decode(piece, validate=True))
        except ValueError:
            raise ValueError("not base64: check the characters") from None
        if piece.endswith("=") and not is_last:
            raise ValueError("not base64: check the characters")
        yield
    if not pieces:
        raise ValueError("empty: give the bytes of the image")
    return Image(data=b"".join(pieces), media_type=media_type)


def image_type(media_type: str) -> str:
    """The registered name of an image's media type. Raises ValueError."""
    name = registered_type(media_type.partition(";")[0])
    if not name.startswith("image/"):
        shown = f"{media_type[:_SHOWN_CHARS]!r}"
        raise ValueError(f"{shown} is no image type: give one such as image/png")
    return name
