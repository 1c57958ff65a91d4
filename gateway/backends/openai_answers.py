"""HTTP answers and transport errors as `UpstreamFailure`s: one place says what each one means."""

from __future__ import annotations

import asyncio
import email.utils
import time
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import msgspec

from gateway.backends.failures import FailureKind, UpstreamFailure
from gateway.backends.openai_stream import error_text

MAX_ERROR_BYTES = 64 * 1024
LONGEST_RETRY_AFTER_S = 600.0
"""Bound on an upstream's Retry-After, so that a wrong one cannot park a client for ever."""

_KINDS = {
    400: FailureKind.BAD_REQUEST,
    401: FailureKind.CREDENTIALS,
    403: FailureKind.CREDENTIALS,
    404: FailureKind.MODEL_NOT_FOUND,
    413: FailureKind.BAD_REQUEST,
    422: FailureKind.BAD_REQUEST,
    429: FailureKind.BUSY,
    503: FailureKind.BUSY,
}
T = TypeVar("T")


async def http_failure(response: aiohttp.ClientResponse) -> UpstreamFailure:
    """What a status other than 200 means, with the upstream's words (of 64 KiB at most)."""
    raw = bytearray()
    while len(raw) < MAX_ERROR_BYTES and (piece := await response.content.readany()):
        raw += piece
    message, param = f"HTTP {response.status}", ""
    try:
        decoded = msgspec.json.decode(bytes(raw[:MAX_ERROR_BYTES]), type=dict)
    except msgspec.DecodeError:
        pass
    else:
        message, param = error_text(decoded.get("error", decoded))
    kind = _KINDS.get(response.status, FailureKind.SERVER_ERROR)
    if response.status < 400:
        kind, message = FailureKind.PROTOCOL, f"HTTP {response.status}, not an answer"
    if kind is FailureKind.CREDENTIALS:
        # Providers repeat parts of the key that they refuse.
        message = f"HTTP {response.status}: the gateway's own key is refused"
    retry_after_s = _retry_after_s(response.headers.get("Retry-After"))
    return UpstreamFailure(kind, message, param=param, retry_after_s=retry_after_s)


def check_content_type(response: aiohttp.ClientResponse) -> None:
    """Raises UpstreamFailure unless the answer is a stream of events."""
    if response.content_type != "text/event-stream":
        message = f"content type {response.content_type[:80]!r}, not text/event-stream"
        raise UpstreamFailure(FailureKind.PROTOCOL, message)


def decode(data: bytes, shape: type[T]) -> T:
    """JSON of a known shape. Raises UpstreamFailure."""
    try:
        return msgspec.json.decode(data, type=shape)
    except msgspec.DecodeError as error:
        raise UpstreamFailure(FailureKind.PROTOCOL, f"no {shape.__name__}: {error}") from None


class Guard:
    """A time limit on awaits of an upstream; turns what the transport raises into a failure."""

    def __init__(self, until_s: float, kind: FailureKind, late: str) -> None:
        self._timeout = asyncio.timeout_at(until_s)
        self._kind = kind
        self._late = late

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise UpstreamFailure(self._kind, self._late) from None
        match error:
            case aiohttp.ConnectionTimeoutError():
                raise UpstreamFailure(FailureKind.CONNECT, "no connection in time") from None
            case aiohttp.ClientConnectorError():
                reason = error.os_error.strerror or type(error.os_error).__name__
                raise UpstreamFailure(FailureKind.CONNECT, reason) from None
            case aiohttp.ClientError() | OSError():
                message = f"the connection broke: {type(error).__name__}"
                raise UpstreamFailure(FailureKind.SERVER_ERROR, message) from None


def _retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, given as seconds or as a date; None if it says nothing."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    if seconds != seconds:  # NaN
        return None
    return min(LONGEST_RETRY_AFTER_S, max(0.0, seconds))
