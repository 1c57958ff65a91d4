"""Why a call is refused before its request is read, whatever door it came to."""

from __future__ import annotations


class CallRefused(Exception):
    """Too many calls are in progress, or the key is at one of its limits.

    Attributes:
        reason: machine-readable reason.
        message: text for a person.
        retry_after_s: seconds after which the call may come again; None: a retry cannot succeed.
    """

    def __init__(self, reason: str, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s
