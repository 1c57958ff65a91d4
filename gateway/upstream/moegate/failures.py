"""Statuses of another moegate as `UpstreamFailure`: by its reason, else by the gRPC status.

A status with details comes from the other gateway. A status without them comes from gRPC itself or
from a proxy in between: the connection broke, or there was none.
"""

from __future__ import annotations

import re

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gateway.domain.failures import (
    MAX_RETRY_AFTER_S,
    FailureKind,
    UpstreamFailure,
    failure_message,
    one_line,
)
from gateway.translation.metadata import ERROR_DOMAIN, PUSHBACK_TRAILER

MAX_PARAM_CHARS = 100
_BY_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: FailureKind.BAD_REQUEST,
    grpc.StatusCode.OUT_OF_RANGE: FailureKind.BAD_REQUEST,
    # No server of the other gateway may run this request, but another remote may.
    grpc.StatusCode.FAILED_PRECONDITION: FailureKind.BAD_REQUEST,
    grpc.StatusCode.UNAUTHENTICATED: FailureKind.CREDENTIALS,
    grpc.StatusCode.PERMISSION_DENIED: FailureKind.CREDENTIALS,
    grpc.StatusCode.NOT_FOUND: FailureKind.MODEL_NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED: FailureKind.BUSY,
    grpc.StatusCode.DEADLINE_EXCEEDED: FailureKind.DEADLINE,
    grpc.StatusCode.UNIMPLEMENTED: FailureKind.PROTOCOL,
}
_BY_REASON = {
    "CONTEXT_LENGTH": FailureKind.CONTEXT_LENGTH,
    "CONTENT_FILTER": FailureKind.CONTENT_FILTER,
    "BUDGET_SPENT": FailureKind.CREDIT,
    "PRICE_UNKNOWN": FailureKind.CREDIT,
    "QUARANTINED": FailureKind.QUARANTINED,
    "PARTIAL_OUTPUT": FailureKind.SERVER_ERROR,
    # No server is in service, or all are full: like HTTP status 503.
    "UNAVAILABLE": FailureKind.BUSY,
    "BUSY": FailureKind.BUSY,
    "RELOADED": FailureKind.BUSY,
}
"""Reasons that are more specific than their status."""
_TOO_LARGE = re.compile(r"larger than max", re.I)


def failure_of(error: grpc.aio.AioRpcError, *, connected: bool) -> UpstreamFailure:
    """The failure of a status other than OK. `connected`: whether a connection had been made."""
    code, text = error.code(), error.details() or ""
    reason, param, retry_after_s = _details(error)
    if not connected and reason is None and code is grpc.StatusCode.UNAVAILABLE:
        # gRPC's text ends with the cause; the addresses before it are not passed on.
        cause = text.rstrip(" ]}").rpartition(": ")[2]
        return UpstreamFailure(FailureKind.CONNECT, one_line(f"no connection: {cause}", 100))
    kind = _kind(code, text, reason)
    if reason is not None and kind is FailureKind.BAD_REQUEST:
        text = text.removeprefix(f"{param}: ")
    return UpstreamFailure(
        kind,
        failure_message(kind, code.name, 0, text),
        param=one_line(param, MAX_PARAM_CHARS),
        retry_after_s=retry_after_s,
    )


def _kind(code: grpc.StatusCode, text: str, reason: str | None) -> FailureKind:
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _TOO_LARGE.search(text):
        # An answer is refused by gRPC here, a request by the other gateway.
        is_answer = text.startswith("CLIENT")
        return FailureKind.PROTOCOL if is_answer else FailureKind.BAD_REQUEST
    if reason == "PARTIAL_OUTPUT" and code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return FailureKind.DEADLINE
    found = _BY_REASON.get(reason or "")
    return found or _BY_STATUS.get(code, FailureKind.SERVER_ERROR)


def _details(error: grpc.aio.AioRpcError) -> tuple[str | None, str, float | None]:
    """Reason (None: no gateway gave one), field that is blamed, seconds until a retry."""
    reason: str | None = None
    param, retry_after_s = "", _pushback_s(error)
    try:
        # The function takes any call; its annotation knows only the synchronous ones.
        status = rpc_status.from_call(error)  # type: ignore[arg-type, unused-ignore]
    except (ValueError, DecodeError):
        return None, "", retry_after_s
    for detail in status.details if status else ():
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        bad = error_details_pb2.BadRequest()
        try:
            if detail.Unpack(info):
                reason = info.reason if info.domain == ERROR_DOMAIN else reason
            elif detail.Unpack(retry):
                retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
            elif detail.Unpack(bad):
                reason = reason or ""
                param = bad.field_violations[0].field if len(bad.field_violations) == 1 else ""
        except DecodeError:
            continue
    if retry_after_s is not None:
        retry_after_s = min(max(retry_after_s, 0.0), MAX_RETRY_AFTER_S)
    return reason, param, retry_after_s


def _pushback_s(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds of the retry pushback; None: absent, or never."""
    for name, value in error.trailing_metadata() or ():
        if name == PUSHBACK_TRAILER and isinstance(value, str) and value.isdecimal():
            return min(int(value[:12]) / 1000, MAX_RETRY_AFTER_S)
    return None
