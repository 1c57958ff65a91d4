"""Errors in the shape of OpenAI: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from aiohttp import web

from gateway.doors.http.answers import encode
from gateway.doors.http.dialect import ErrorShape, Handler
from gateway.doors.http.errors import ErrorKind, HttpError
from gateway.doors.http.exchange import Exchange

_TYPES = {
    ErrorKind.INVALID: "invalid_request_error",
    ErrorKind.TOO_LARGE: "invalid_request_error",
    ErrorKind.AUTHENTICATION: "authentication_error",
    ErrorKind.PERMISSION: "permission_error",
    ErrorKind.NOT_FOUND: "not_found_error",
    ErrorKind.CONFLICT: "conflict_error",
    ErrorKind.RATE_LIMIT: "rate_limit_error",
    ErrorKind.BUDGET: "insufficient_quota",
    ErrorKind.OVERLOADED: "service_unavailable_error",
    ErrorKind.DEADLINE: "timeout_error",
    ErrorKind.UPSTREAM: "server_error",
    ErrorKind.INTERNAL: "server_error",
    ErrorKind.NOT_SUPPORTED: "not_supported_error",
}


PAYMENT_REQUIRED = 402


def spent_is_402(handle: Handler) -> Handler:
    """A handler that tells a spent budget as a 402 in place of a 429. Clients of Chat Completions
    that are built on the AI SDK (OpenCode) know a refusal by its status alone, and repeat a 429 for
    ever. Clients of Responses (Codex) read the code of a 429, and repeat a 402."""

    async def handled(exchange: Exchange) -> web.StreamResponse:
        try:
            return await handle(exchange)
        except HttpError as error:
            if error.kind is ErrorKind.BUDGET:
                error.status = PAYMENT_REQUIRED
            raise

    return handled


_PREFIXES = ("chat.", "sampling.")
_FIELDS = {"choices": "n"}


def field_name(path: str) -> str:
    """A field of the gateway's API by OpenAI's name. Other names pass unchanged."""
    for prefix in _PREFIXES:
        path = path.removeprefix(prefix)
    return _FIELDS.get(path, path)


def error_object(error: HttpError) -> dict[str, str | None]:
    """The error as it stands in bodies and streams. Here, as in OpenAI's schema, what is unknown is
    null."""
    code = error.code
    if error.kind is ErrorKind.BUDGET:
        code = "insufficient_quota"
    param = field_name(error.param)
    message = error.message
    if error.param and message.startswith(error.param):
        message = param + message.removeprefix(error.param)
    return {
        "message": message,
        "type": _TYPES[error.kind],
        "param": param or None,
        "code": code or None,
    }


def error_shape(error: HttpError, request_id: str) -> ErrorShape:
    """The answer for an error."""
    body = encode({"error": error_object(error)})
    return ErrorShape(status=error.status, body=body, headers={})
