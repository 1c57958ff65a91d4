"""What every door says of a refusal: of a call before its request is read, and of a request."""

from __future__ import annotations

from gateway.config.remote import TOGETHER
from gateway.domain.hops import HOPS_FIELD
from scheduler.port import RETRY_AFTER_S

SCHEDULER_AWAY = "SCHEDULER_AWAY"
"""Reason of a call's refusal, and of an RPC's failure."""
UNTOLD_RETRY_S = 2.0
"""Retry delay after a failure that may pass, where the upstream tells none."""


def not_honoured(field: str) -> str:
    """Why a request is refused for a field that no permitted server honours, with the fix."""
    if field == HOPS_FIELD:
        return (
            "it came through as many gateways as it may, and none of the own servers may run it:"
            " gateways overflow to each other, or gateway.max_hops of a remote is too low"
        )
    if TOGETHER in field:
        return "no server that may run this request honours them together: leave one out"
    return "no server that may run this request honours it"


class CallRefused(Exception):
    """Too many calls are in progress, or the key is at one of its limits.

    Attributes:
        reason: machine-readable reason.
        message: text for a person.
        retry_after_s: seconds after which the call may come again; None: a retry cannot succeed.
        unavailable: it is not the caller's doing: the scheduler cannot be reached.
    """

    def __init__(
        self,
        reason: str,
        message: str,
        retry_after_s: float | None,
        *,
        unavailable: bool = False,
    ) -> None:
        super().__init__(message)
        self.unavailable = unavailable
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s


def scheduler_away() -> CallRefused:
    """The refusal of a call that needs the scheduler, which cannot be reached now."""
    text = "the scheduler cannot be reached now"
    return CallRefused(SCHEDULER_AWAY, text, RETRY_AFTER_S, unavailable=True)
