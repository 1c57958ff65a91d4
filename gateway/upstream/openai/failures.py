"""Errors of an OpenAI-shaped server as `UpstreamFailure`, by HTTP status or by code in the stream.

Texts of the server are passed on bounded and on one line, without what it may echo of the
request: the input that vLLM's schema check quotes, the key that a refused login quotes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from gateway.domain.failures import (
    FailureKind,
    UpstreamFailure,
    failure_message,
    kind_of_status,
    one_line,
    retry_after_seconds,
)
from gateway.upstream.busy_words import is_busy_word
from gateway.upstream.openai import wire

MAX_PARAM_CHARS = 100

_TOO_LONG = frozenset({"context_length_exceeded", "input_tokens"})
_FILTERED = frozenset(
    {"content_filter", "content_policy_violation", "moderation_blocked", "data_inspection_failed"}
)
_UNPAID = frozenset(
    {
        *("insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached"),
        *("billing_not_active", "spend_limit_reached", "exceeded_current_quota_error"),
    }
)
"""Words in `code`, `type` or `param` of an error that say more than its status."""
_NO_ERROR = (None, "", 0, "0", 200, "200", "ok", "success", "Success")
_TOO_LONG_TEXT = re.compile(r"maximum context length|context (window|length) exceeded", re.I)
# vLLM's schema check ends each line with "'input': <what was sent>}".
_ECHOED_INPUT = re.compile(r", 'input': .*")


def http_failure(
    status: int, body: bytes, headers: Mapping[str, str], now_unix_s: float
) -> UpstreamFailure:
    """Failure of an HTTP status other than 200. `body` may be cut short."""
    detail = error_in(body) or wire.ErrorDetail()
    return _failure(
        status,
        f"HTTP {status}",
        detail,
        retry_after_seconds(headers.get("Retry-After"), now_unix_s),
    )


def error_in(body: bytes) -> wire.ErrorDetail | None:
    """The error in a JSON body; None: another kind of body, such as the page of a proxy."""
    try:
        answer = wire.decode_error(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if answer.error:
        return _detail(answer.error)
    text = answer.message or answer.detail
    return wire.ErrorDetail(message=text) if text else None


def failure_in(body: bytes) -> UpstreamFailure | None:
    """Failure in a JSON body under status 200; None: it holds no error."""
    error = error_in(body)
    return None if error is None else in_band_failure(error)


def error_without_name(frame: wire.Frame) -> wire.ErrorDetail | None:
    """The error of an event that has its fields but no `error` (DashScope); None: it is none."""
    text = frame.message or frame.detail
    if frame.usage is not None or (not text and frame.code in _NO_ERROR):
        return None
    if frame.code in _NO_ERROR[2:]:
        return None
    return wire.ErrorDetail(message=text, code=frame.code)


def in_band_failure(error: wire.ErrorDetail | str) -> UpstreamFailure:
    """Failure of an error event under HTTP 200. Its code counts if it is an HTTP status, else its
    words."""
    detail = _detail(error)
    code = detail.code
    if isinstance(code, str):
        code = int(code) if len(code) == 3 and code.isdecimal() else None
    status = code or 0
    if not 400 <= status <= 599:
        status = 503 if is_busy_word(detail.code) or is_busy_word(detail.type) else 500
    return _failure(status, "error in the stream", detail, None)


def _detail(error: wire.ErrorDetail | str) -> wire.ErrorDetail:
    return wire.ErrorDetail(message=error) if isinstance(error, str) else error


def _failure(
    status: int, where: str, detail: wire.ErrorDetail, retry_after_s: float | None
) -> UpstreamFailure:
    kind = _kind(status, detail, retry_after_s)
    message = _ECHOED_INPUT.sub("", detail.message or "")
    return UpstreamFailure(
        kind,
        failure_message(kind, where, status, message),
        param=one_line(detail.param or "", MAX_PARAM_CHARS),
        retry_after_s=retry_after_s,
    )


def _kind(status: int, detail: wire.ErrorDetail, retry_after_s: float | None) -> FailureKind:
    words = {str(word).lower() for word in (detail.code, detail.type, detail.param) if word}
    if status == 402 and retry_after_s is not None:
        return FailureKind.BUSY  # OpenRouter: what is in flight uses the balance up for now
    if status == 429 and words & _UNPAID:
        return FailureKind.CREDIT
    if status in (400, 413, 422):
        if words & _TOO_LONG or _TOO_LONG_TEXT.search(detail.message or ""):
            return FailureKind.CONTEXT_LENGTH
        if words & _FILTERED:
            return FailureKind.CONTENT_FILTER
    return kind_of_status(status)
