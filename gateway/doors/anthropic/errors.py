"""Errors in the envelope and the words of the Messages API.

Clients act on the status and the type. `invalid_request_error` with "prompt is too long" makes an
agent shorten its conversation; 529 `overloaded_error` makes it wait and try again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from gateway.doors.anthropic.budgets import spent_headers
from gateway.doors.http.dialect import ErrorShape
from gateway.doors.http.errors import ErrorKind, HttpError

_TYPES = {
    ErrorKind.INVALID: "invalid_request_error",
    ErrorKind.TOO_LARGE: "request_too_large",
    ErrorKind.AUTHENTICATION: "authentication_error",
    ErrorKind.PERMISSION: "permission_error",
    ErrorKind.NOT_FOUND: "not_found_error",
    ErrorKind.CONFLICT: "invalid_request_error",
    ErrorKind.RATE_LIMIT: "rate_limit_error",
    ErrorKind.BUDGET: "billing_error",
    ErrorKind.OVERLOADED: "overloaded_error",
    ErrorKind.DEADLINE: "timeout_error",
    ErrorKind.UPSTREAM: "overloaded_error",
    ErrorKind.INTERNAL: "api_error",
    ErrorKind.NOT_SUPPORTED: "not_supported",
}
_STATUSES = {ErrorKind.OVERLOADED: 529, ErrorKind.UPSTREAM: 529}
"""Statuses that differ from those of other dialects."""
_TOO_LONG = "context_length_exceeded"
_TOO_LONG_WORDS = "prompt is too long: "
"""Begins the message after which clients compact a conversation."""


def error_body(error: HttpError, request_id: str) -> bytes:
    """The envelope of an error, also of one within a stream."""
    message = error.message
    if error.code == _TOO_LONG and not message.startswith(_TOO_LONG_WORDS):
        message = _TOO_LONG_WORDS + message
    kind = ErrorKind.INVALID if _denies_model(error) else error.kind
    fields = {"type": _TYPES[kind], "message": message}
    return msgspec.json.encode({"type": "error", "error": fields, "request_id": request_id})


def error_shape(error: HttpError, request_id: str) -> ErrorShape:
    """An error as the whole answer."""
    status = error.status
    headers: Mapping[str, str] = {}
    if error.kind in _STATUSES and error.may_retry:
        status = _STATUSES[error.kind]
    if _denies_model(error):
        status = 400
    if error.window is not None:
        headers = spent_headers(error.window, time.time())
    return ErrorShape(status=status, body=error_body(error, request_id), headers=headers)


def _denies_model(error: HttpError) -> bool:
    """Whether the key may not use the model. Clients take a 403 for a key without any rights."""
    return error.kind is ErrorKind.PERMISSION and error.param == "model"
