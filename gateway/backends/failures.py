"""How an upstream fails, in terms that decide what to do next."""

from __future__ import annotations

import enum

from scheduler.types import Fault


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
