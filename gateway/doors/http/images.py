"""Images of a request over HTTP: data URLs and https addresses."""

from __future__ import annotations

from gateway.domain.generation import Image
from gateway.domain.image_data import DATA_URL, image_of_data_url
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
    try:
        return (yield from image_of_data_url(url))
    except ValueError as error:
        raise invalid(field, str(error)) from None
