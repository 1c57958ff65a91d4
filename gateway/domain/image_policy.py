"""Which images a request may hold: addresses from an allow-list only, and data of bounded size.

An address is fetched by the server that generates, from inside the operator's network: without a
list it would be a way into it. Addresses are read strictly, because servers disagree about the host
of a malformed one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

import msgspec

from gateway.domain.generation import Chat, Generation, Image

MAX_URL_CHARS = 2048
_REGISTERED = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "image/x-png": "image/png"}
"""Names that are in use for registered media types, which servers insist on."""
IMAGE_TYPES = frozenset(
    f"image/{name}"
    for name in ("png", "jpeg", "gif", "webp", "bmp", "tiff", "avif", "heic", "heif", "jp2")
)
"""Types of pictures. Others are documents, such as SVG, which may name addresses themselves."""
_URL = re.compile(
    r"https://(?P<host>[A-Za-z0-9.-]+(?::[0-9]{1,5})?)(?:[/?#][!-\[\]-~]*)?", re.ASCII
)
_SHOWN_CHARS = 80


class ImageRules(msgspec.Struct, frozen=True, kw_only=True):
    """Rules of the configuration. `url_hosts`: hosts that images may be fetched from; `max_bytes`:
    of one image that comes as data; `most`: images of one request."""

    url_hosts: frozenset[str]
    max_bytes: int
    most: int


def registered_type(media_type: str) -> str:
    """The registered name of a media type, in lower case."""
    name = media_type.strip().lower()
    return _REGISTERED.get(name, name)


def image_fault(generation: Generation, rules: ImageRules) -> tuple[str, str] | None:
    """The field of an image that is not allowed, and why; None: there is none."""
    for number, (path, image) in enumerate(_images(generation), start=1):
        if number > rules.most:
            text = f"more than {rules.most} images: limits.images allows no more"
            return "chat.messages", text
        if image.url:
            fault, field = _url_fault(image.url, rules.url_hosts), f"{path}.url"
        else:
            fault, field = _data_fault(image, rules.max_bytes), path
        if fault is not None:
            return field, fault
    return None


def host_allowed(host: str, allowed: Collection[str]) -> bool:
    """Whether the list has the host, or `*.` and a domain that it belongs to."""
    host = host.lower().removesuffix(":443")
    parents = (host[i:] for i, character in enumerate(host) if character == ".")
    return host in allowed or any(f"*{parent}" in allowed for parent in parents)


def _images(generation: Generation) -> Iterator[tuple[str, Image]]:
    if not isinstance(generation.input, Chat):
        return
    for i, message in enumerate(generation.input.messages):
        for j, part in enumerate(message.parts):
            if isinstance(part, Image):
                yield f"chat.messages[{i}].parts[{j}].image", part


def _url_fault(url: str, allowed: Collection[str]) -> str | None:
    shown = repr(url[:_SHOWN_CHARS])
    if len(url) > MAX_URL_CHARS:
        return f"{len(url)} characters: at most {MAX_URL_CHARS}"
    found = _URL.fullmatch(url)
    if found is None:
        return f"{shown}: give https://host/path without user, blanks or backslashes, or send data"
    if host_allowed(found["host"], allowed):
        return None
    return (
        f"{shown}: images are not fetched from {found['host'][:_SHOWN_CHARS]}: send the image as"
        " data, or ask the operator for the host in limits.image_url_hosts"
    )


def _data_fault(image: Image, max_bytes: int) -> str | None:
    if image.media_type not in IMAGE_TYPES:
        shown = repr(image.media_type[:_SHOWN_CHARS])
        return f"{shown} is no type of a picture: give one such as image/png"
    if len(image.data) > max_bytes:
        return f"{len(image.data)} bytes: limits.image_bytes allows {max_bytes}"
    return None
