"""Requests to a provider: bounded in time and size, without redirects."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
import msgspec

MAX_BYTES = 256 << 10
"""Largest answer."""
_PIECE = 64 << 10


class ProviderFailed(Exception):
    """The provider cannot be reached, or gives no usable answer. The text says which, for a log."""


class Refused(ProviderFailed):
    """The provider refuses: `error` is its word, such as invalid_grant."""

    def __init__(self, error: str) -> None:
        super().__init__(f"the provider refuses: {error}")
        self.error = error


async def fetched(
    http: aiohttp.ClientSession,
    url: str,
    timeout_s: float,
    *,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Returns the JSON object that is the answer to GET, or to POST of a form. Raises
    ProviderFailed."""
    method = "GET" if form is None else "POST"
    said = {"Accept": "application/json", **(headers or {})}
    try:
        async with asyncio.timeout(timeout_s):
            async with http.request(
                method, url, data=form, headers=said, allow_redirects=False
            ) as answer:
                document = _object(await _body(answer, url), answer.status, url)
                status = answer.status
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        text = str(error)[:200] or type(error).__name__
        raise ProviderFailed(f"{_place(url)}: {text}") from None
    if status >= 400 and isinstance(document.get("error"), str):
        raise Refused("".join(c for c in document["error"][:100] if c.isprintable()))
    if status != 200:
        raise ProviderFailed(f"{_place(url)}: status {status}")
    return document


async def _body(answer: aiohttp.ClientResponse, url: str) -> bytes:
    pieces, size = [], 0
    async for piece in answer.content.iter_chunked(_PIECE):
        size += len(piece)
        if size > MAX_BYTES:
            raise ProviderFailed(f"{_place(url)}: the answer has more than {MAX_BYTES} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _object(body: bytes, status: int, url: str) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ProviderFailed(f"{_place(url)}: status {status}, and no JSON object")
    return document


def _place(url: str) -> str:
    return url.partition("?")[0][:200]
