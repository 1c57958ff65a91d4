"""Images of a request: data URLs, base64 and https addresses."""

from __future__ import annotations

import base64

from gateway.domain.generation import Image
from gateway.domain.image_policy import registered_type
from gateway.doors.http.errors import invalid

SHOWN_CHARS = 80


def image_of_url(url: str, field: str) -> Image:
    """An image by its address, or within a data URL. `field`: path for errors. Raises HttpError
    (INVALID)."""
    if url.startswith("https://"):
        return Image(url=url)
    if not url.startswith("data:"):
        raise invalid(field, f"{url[:SHOWN_CHARS]!r}: give an https address or a data URL")
    head, comma, encoded = url[len("data:") :].partition(",")
    words = [word.strip().lower() for word in head.split(";")]
    if not comma or words[-1] != "base64":
        raise invalid(field, "a data URL without base64: give data:image/png;base64,...")
    return image_of_base64(encoded, words[0], field)


def image_of_base64(encoded: str, media_type: str, field: str) -> Image:
    """An image as base64 text. Raises HttpError (INVALID)."""
    media_type = registered_type(media_type)
    if not media_type.startswith("image/"):
        shown = f"{media_type[:SHOWN_CHARS]!r}"
        raise invalid(field, f"{shown} is no image type: give one such as image/png")
    try:
        data = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise invalid(field, "not base64: check the characters") from None
    if not data:
        raise invalid(field, "empty: give the bytes of the image")
    return Image(data=data, media_type=media_type)
