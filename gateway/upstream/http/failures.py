"""Errors of a server as `UpstreamFailure`, whatever its dialect: refusals, bodies under status 200,
events of a stream.

Texts of the server are passed on bounded and on one line, without what it may echo of the
request: the input that vLLM's schema check quotes, the key that a refused login quotes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from gateway.domain.failures import FailureKind, UpstreamFailure, failure_message, one_line
from gateway.upstream.http.error_body import NO_ERROR, ErrorReport, read_any_error, read_error
from gateway.upstream.http.error_kinds import error_kind
from gateway.upstream.http.retry_hints import body_wait, retry_after_s

MAX_PARAM_CHARS = 100
_SIGNS = (b'"error', b'"message"', b'"Message"', b'"msg"', b'"detail"', b'"base_resp"')
"""One of these stands in every error that is none by its type."""
MAX_NESTED = 4
"""Objects in one another that an error may be wrapped in."""


def http_failure(
    status: int, body: bytes, headers: Mapping[str, str], now_unix_s: float
) -> UpstreamFailure:
    """Failure of a status other than 200. `body` may be cut short; names of `headers` are compared
    without case if the mapping does so."""
    error = read_any_error(body)
    wait_s = retry_after_s(status, headers, body, now_unix_s)
    return _failure(error_kind(status, error, wait_s), f"HTTP {status}", status, error, wait_s)


def failure_in(body: bytes) -> UpstreamFailure | None:
    """Failure in a JSON body under status 200; None: it holds no error."""
    error = read_error(body)
    return None if error is None else _in_band(error, body)


def failure_of_event(payload: bytes) -> UpstreamFailure | None:
    """Failure in an event that is no output. None: it is no error, as a text without any code may
    be anything."""
    if not any(map(payload.__contains__, _SIGNS)):
        return None
    error = read_error(payload)
    return None if error is None or not error.words else _in_band(error, payload)


def is_blank(error: object, nested: int = MAX_NESTED) -> bool:
    """Whether an error field tells none: some servers send one with each event, whose fields are
    null, empty, or words of success. `nested`: objects in objects are looked into so deep."""
    if isinstance(error, dict) and nested:
        return all(is_blank(value, nested - 1) for value in error.values())
    return not error or (isinstance(error, str | int) and str(error).lower() in NO_ERROR)


def error_event(payload: bytes) -> UpstreamFailure:
    """Failure of an event that says itself that it is an error."""
    return _in_band(read_error(payload) or ErrorReport(), payload)


def _in_band(error: ErrorReport, body: bytes) -> UpstreamFailure:
    kind = error_kind(None, error)
    wait_s = body_wait(body, time.time()) if kind is FailureKind.BUSY else None
    return _failure(kind, "error in the stream", 500, error, wait_s)


def _failure(
    kind: FailureKind, where: str, status: int, error: ErrorReport, wait_s: float | None
) -> UpstreamFailure:
    return UpstreamFailure(
        kind,
        failure_message(kind, where, status, error.message),
        param=one_line(error.param, MAX_PARAM_CHARS),
        retry_after_s=wait_s,
    )
