"""Classification of upstream failures, which decides about retries and circuit breakers."""

from __future__ import annotations

import enum

from scheduler.contract import Fault

MAX_MESSAGE_CHARS = 500
MAX_RETRY_AFTER_S = 3600.0
"""Upper bound of an upstream's retry delay. Longer delays are cut to one hour."""


class FailureKind(enum.StrEnum):
    """Kind of failure of one attempt."""

    CONNECT = "connect"
    """No connection was established in time. The placement is down."""
    BUSY = "busy"
    """HTTP 429, 503 or 529: the placement is overloaded."""
    BAD_REQUEST = "bad_request"
    """HTTP 400, 413 or 422 without a more specific kind: the upstream calls the request invalid."""
    MODEL_NOT_FOUND = "model_not_found"
    """HTTP 404: the upstream does not serve the model. The configuration is wrong."""
    ADAPTER_NOT_FOUND = "adapter_not_found"
    """HTTP 404: the server has unloaded the LoRA adapter that the request names."""
    CREDENTIALS = "credentials"
    """HTTP 401 or 403: the upstream rejects the gateway's API key."""
    CREDIT = "credit"
    """HTTP 402: the gateway's account has no credit left, or has reached its spend limit."""
    CONTEXT_LENGTH = "context_length"
    """HTTP 400: the prompt exceeds the context length at this upstream."""
    CONTENT_FILTER = "content_filter"
    """HTTP 400: the provider's content filter refuses the content."""
    SERVER_ERROR = "server_error"
    """HTTP 5xx, an error within the stream, or a truncated stream."""
    PROTOCOL = "protocol"
    """The response does not follow the upstream's protocol."""
    TIMEOUT = "timeout"
    """The first token or the next token did not arrive in time."""
    EMPTY = "empty"
    """The answer ended without any output."""
    QUARANTINED = "quarantined"
    """Another gateway refuses the request, because it failed servers that work for others."""
    DEADLINE = "deadline"
    """The request's deadline or the total timeout expired."""


_FAULTS = {
    FailureKind.BUSY: Fault.BUSY,
    FailureKind.CREDENTIALS: Fault.ACCOUNT,
    FailureKind.CREDIT: Fault.ACCOUNT,
    FailureKind.CONNECT: Fault.ABSENT,
    FailureKind.TIMEOUT: Fault.ABSENT,
    FailureKind.MODEL_NOT_FOUND: Fault.ABSENT,
    FailureKind.ADAPTER_NOT_FOUND: Fault.NONE,
    FailureKind.BAD_REQUEST: Fault.REJECTED,
    FailureKind.EMPTY: Fault.REJECTED,
    FailureKind.DEADLINE: Fault.NONE,
    FailureKind.CONTEXT_LENGTH: Fault.REQUEST,
    FailureKind.CONTENT_FILTER: Fault.REQUEST,
    FailureKind.QUARANTINED: Fault.REQUEST,
}
"""Party at fault for each kind. For all other kinds it is the placement."""


_FINAL = frozenset({FailureKind.BAD_REQUEST, FailureKind.DEADLINE, FailureKind.QUARANTINED})
"""Kinds that another placement does not mend."""


class UpstreamFailure(Exception):
    """One attempt failed.

    Attributes:
        kind: kind of failure.
        message: the upstream's message, bounded in length, without secrets.
        param: the request field that the upstream names; empty: none.
        retry_after_s: retry delay that the upstream asks for; None: unknown.
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
        """Whether another placement may succeed."""
        return self.kind not in _FINAL

    @property
    def fault(self) -> Fault:
        """The party at fault."""
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
    """Classifies an HTTP status other than 200 without looking at the body."""
    if (kind := KINDS_BY_STATUS.get(status)) is not None:
        return kind
    return FailureKind.SERVER_ERROR if 500 <= status <= 599 else FailureKind.PROTOCOL


def one_line(text: str, max_chars: int = MAX_MESSAGE_CHARS) -> str:
    """Returns the text on one line, cut to `max_chars`."""
    # Cut first, because splitting a huge text is slow.
    short = " ".join(text[: 4 * max_chars].split())
    return short if len(short) <= max_chars else short[: max_chars - 3] + "..."


def failure_message(kind: FailureKind, where: str, status: int, message: str | None) -> str:
    """Returns the error message for the client: one line, bounded, and without the API key that an
    authentication error may quote. `where`: name of the upstream. `message`: the upstream's
    text."""
    if kind is FailureKind.CREDENTIALS:
        text = f"{where}: the gateway's key is refused"
    elif kind is FailureKind.CREDIT:
        text = f"{where}: the gateway's account there is out of credit, or at its spend cap"
    elif 300 <= status <= 399:
        text = f"{where}: a redirect, which is not followed: mend the url"
    else:
        text = f"{where}: {message}" if message else where
    return one_line(text)
