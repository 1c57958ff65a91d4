"""How an upstream fails, in terms that decide what to do next."""

from __future__ import annotations

import email.utils
import enum
import math

from scheduler.contract import Fault

MAX_MESSAGE_CHARS = 500
MAX_RETRY_AFTER_S = 3600.0
"""Longer waits than an hour are taken as an hour."""


class FailureKind(enum.StrEnum):
    """What went wrong with an attempt."""

    CONNECT = "connect"
    """No connection, or none in time: the placement is down."""
    BUSY = "busy"
    """429 or 503: it is full."""
    BAD_REQUEST = "bad_request"
    """400, 413 or 422 for another reason than these: the request is at fault, everywhere."""
    MODEL_NOT_FOUND = "model_not_found"
    """404: this upstream does not serve the model: a fault of the configuration."""
    CREDENTIALS = "credentials"
    """401 or 403: the gateway's own key is refused."""
    CREDIT = "credit"
    """402: the gateway's account is out of credit, or at its spend cap."""
    CONTEXT_LENGTH = "context_length"
    """400: the prompt is too long for the model as it is served there."""
    CONTENT_FILTER = "content_filter"
    """400: a filter of the provider refuses the content."""
    SERVER_ERROR = "server_error"
    """5xx, an error in the stream, or a cut stream."""
    PROTOCOL = "protocol"
    """Bytes that are no such answer."""
    TIMEOUT = "timeout"
    """No first token, or no next one, in time."""
    DEADLINE = "deadline"
    """The request's own deadline, or the total timeout."""


_FAULTS = {
    FailureKind.BUSY: Fault.BUSY,
    FailureKind.CREDENTIALS: Fault.ACCOUNT,
    FailureKind.CREDIT: Fault.ACCOUNT,
    FailureKind.BAD_REQUEST: Fault.NONE,
    FailureKind.DEADLINE: Fault.NONE,
    FailureKind.CONTEXT_LENGTH: Fault.REQUEST,
    FailureKind.CONTENT_FILTER: Fault.REQUEST,
}
"""Whose fault it is; all others are the placement's."""


class UpstreamFailure(Exception):
    """An attempt failed.

    Attributes:
        kind: what went wrong.
        message: what the upstream said, bounded in length, without secrets.
        param: the field of the request that the upstream blames, if it does.
        retry_after_s: when it asks to be tried again, if it does.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        param: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(f"{kind.value}: {message}")
        self.kind = kind
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def retryable(self) -> bool:
        """Whether another placement could answer."""
        return self.kind not in (FailureKind.BAD_REQUEST, FailureKind.DEADLINE)

    @property
    def fault(self) -> Fault:
        """Whose fault it is."""
        return _FAULTS.get(self.kind, Fault.PLACEMENT)


KINDS_BY_STATUS = {
    400: FailureKind.BAD_REQUEST,
    401: FailureKind.CREDENTIALS,
    402: FailureKind.CREDIT,
    403: FailureKind.CREDENTIALS,
    404: FailureKind.MODEL_NOT_FOUND,
    408: FailureKind.TIMEOUT,
    413: FailureKind.BAD_REQUEST,
    422: FailureKind.BAD_REQUEST,
    429: FailureKind.BUSY,
    503: FailureKind.BUSY,
    529: FailureKind.BUSY,
}


def kind_of_status(status: int) -> FailureKind:
    """What an HTTP status other than 200 means, as far as it alone tells."""
    if (kind := KINDS_BY_STATUS.get(status)) is not None:
        return kind
    return FailureKind.SERVER_ERROR if 500 <= status <= 599 else FailureKind.PROTOCOL


def retry_after_seconds(value: str | None, now_unix_s: float) -> float | None:
    """Retry-After, seconds or a date, as seconds from now, 0 to an hour; None: absent or unread."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now_unix_s
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def one_line(text: str, max_chars: int = MAX_MESSAGE_CHARS) -> str:
    """The text on one line, bounded."""
    # Cut first: joining the words of a huge text is work.
    short = " ".join(text[: 4 * max_chars].split())
    return short if len(short) <= max_chars else short[: max_chars - 3] + "..."


def told(kind: FailureKind, where: str, status: int, message: str | None) -> str:
    """What is passed on of an error: bounded, on one line, without the key that a refused login
    quotes."""
    if kind is FailureKind.CREDENTIALS:
        text = f"{where}: the gateway's key is refused"
    elif kind is FailureKind.CREDIT:
        text = f"{where}: the gateway's account there is out of credit, or at its spend cap"
    elif 300 <= status <= 399:
        text = f"{where}: a redirect, which is not followed: mend the url"
    else:
        text = f"{where}: {message}" if message else where
    return one_line(text)
