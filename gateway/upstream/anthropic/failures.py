"""Errors of an Anthropic-shaped server as `UpstreamFailure`, by their type, else by HTTP status."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from gateway.domain.failures import (
    FailureKind,
    UpstreamFailure,
    failure_message,
    kind_of_status,
    retry_after_seconds,
)
from gateway.upstream.anthropic import wire
from gateway.upstream.busy_words import is_busy_word

_KINDS = {
    "invalid_request_error": FailureKind.BAD_REQUEST,
    "authentication_error": FailureKind.CREDENTIALS,
    "billing_error": FailureKind.CREDIT,
    "permission_error": FailureKind.CREDENTIALS,
    "not_found_error": FailureKind.MODEL_NOT_FOUND,
    "request_too_large": FailureKind.BAD_REQUEST,
    "rate_limit_error": FailureKind.BUSY,
    "api_error": FailureKind.SERVER_ERROR,
    "timeout_error": FailureKind.SERVER_ERROR,
    "overloaded_error": FailureKind.BUSY,
}
# Only the text of an invalid_request_error shows which of these it is.
_TOO_LONG = re.compile(r"prompt is too long|exceed(s|ed)? (the )?context|context limit", re.I)
_FILTERED = re.compile(r"content filter|blocked by", re.I)
_UNPAID = re.compile(r"credit balance|usage limits|spend(ing)? (limit|cap)", re.I)
_SPEND_LIMIT = "enforced_spend_limit_reached"


def http_failure(
    status: int, body: bytes, headers: Mapping[str, str], now_unix_s: float
) -> UpstreamFailure:
    """Failure of an HTTP status other than 200. `body` may be cut short."""
    error = _error_in(body) or wire.ErrorDetail()
    retry_after_s = retry_after_seconds(headers.get("Retry-After"), now_unix_s)
    return _failure(status, f"HTTP {status}", error, retry_after_s)


def failure_in(body: bytes) -> UpstreamFailure | None:
    """Failure in a JSON body under status 200; None: it holds no error."""
    error = _error_in(body)
    return None if error is None else in_band_failure(error)


def in_band_failure(error: wire.ErrorDetail) -> UpstreamFailure:
    """Failure of an error event in a stream."""
    status = 503 if is_busy_word(error.type) else 500
    return _failure(status, "error in the stream", error, None)


def failure_without_name(event: wire.Event) -> UpstreamFailure | None:
    """Failure of an event that has the fields of an error but no `error`; None: it is none."""
    if not isinstance(event.message, str) or not event.message:
        return None
    word = event.code if isinstance(event.code, str) else event.type
    return in_band_failure(wire.ErrorDetail(type=word, message=event.message))


def _error_in(body: bytes) -> wire.ErrorDetail | None:
    try:
        return wire.decode_error(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _failure(
    status: int, where: str, error: wire.ErrorDetail, retry_after_s: float | None
) -> UpstreamFailure:
    kind = _KINDS.get(error.type or "") or kind_of_status(status)
    text = error.message or ""
    code = error.details.error_code if error.details else None
    if kind is FailureKind.BAD_REQUEST:
        if _TOO_LONG.search(text):
            kind = FailureKind.CONTEXT_LENGTH
        elif _FILTERED.search(text):
            kind = FailureKind.CONTENT_FILTER
        elif _UNPAID.search(text):
            kind = FailureKind.CREDIT
    elif kind is FailureKind.BUSY and code == _SPEND_LIMIT:
        kind = FailureKind.CREDIT
    return UpstreamFailure(
        kind, failure_message(kind, where, status, text), retry_after_s=retry_after_s
    )
