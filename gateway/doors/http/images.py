"""Images of a request over HTTP: data URLs, base64 and https addresses."""

from __future__ import annotations

from gateway.domain.generation import Image
from gateway.domain.image_data import DATA_URL, image_of_base64, image_of_data_url
from gateway.domain.slices import Steps
from gateway.doors.http.errors import invalid

SHOWN_CHARS = 80


def image_of_url(url: str, field: str) -> Steps[Image]:
    """An image by its address, or within a data URL. `field`: path for errors. Raises HttpError
    (INVALID)."""
    if url.startswith("https://"):
        return Image(url=url)
    if not url.startswith(DATA_URL):
        raise invalid(field, f"{url[:SHOWN_CHARS]!r}: give an https address or a data URL")
    return (yield from _told(image_of_data_url(url), field))


def image_of_text(encoded: str, media_type: str, field: str) -> Steps[Image]:
    """An image as base64 text. Raises HttpError (INVALID)."""
    return (yield from _told(image_of_base64(encoded, media_type), field))


def _told(steps: Steps[Image], field: str) -> Steps[Image]:
    try:
        return (yield from steps)
    except ValueError as error:
        raise invalid(field, str(error)) from None
