"""Maps every failure to the gRPC status and google.rpc details that the client receives.

docs/api.md documents the table. The servicers raise `RpcError`. `abort` is the only place that
turns an `RpcError` into a gRPC status.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from gateway.delivery.unread import UnreadOutput
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.outcomes import PartialOutput, RequestRefused
from gateway.doors.entry.refusals import UNTOLD_RETRY_S, CallRefused, not_honoured
from gateway.translation.metadata import (
    COST_TRAILER,
    ERROR_DOMAIN,
    PUSHBACK_TRAILER,
    USAGE_TRAILER,
)
from gateway.translation.responses import cost_message, usage_message
from scheduler.contract import RefusalReason, Usage
from scheduler.metering.settlement import SettledAttempt

NEVER_RETRY_MS = -1
_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)
_FIELDS = {
    "input_tokens": "input",
    "prompt": "input",
    "messages": "chat.messages",
    "tools": "chat.tools",
    "tool_choice": "chat.tool_choice",
    "response_format": "chat.response_format",
    "max_tokens": "max_output_tokens",
    "n": "choices",
    "top_logprobs": "logprobs",
    **{name: f"sampling.{name}" for name in _SAMPLING},
}
"""API field paths by the field names that upstreams report. Other names pass unchanged."""
_SHORTEN = ": shorten the prompt"
MAX_VIOLATIONS_BYTES = 1000
"""Limit on all reported violations together. gRPC allows 8 KiB of trailers, which hold the text
three times: percent-escaped (up to threefold) in the message, and twice as base64 details."""


class RpcError(Exception):
    """A status other than OK.

    Attributes:
        code: the gRPC status code.
        message: the status message.
        details: google.rpc messages for `grpc-status-details-bin`.
        pushback_ms: delay before the client's retry policy may retry; -1: never; None: unset.
        trailers: further trailing metadata.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *details: Message,
        pushback_ms: int | None = None,
        trailers: tuple[tuple[str, str | bytes], ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details
        self.pushback_ms = pushback_ms
        self.trailers = trailers

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Returns the trailers, including the status details and the retry pushback."""
        number: int = self.code.value[0]
        status = status_pb2.Status(code=number, message=self.message)
        for detail in self.details:
            packed = Any()
            packed.Pack(detail)
            status.details.append(packed)
        metadata = [("grpc-status-details-bin", status.SerializeToString()), *self.trailers]
        if self.pushback_ms is not None:
            metadata.append((PUSHBACK_TRAILER, str(self.pushback_ms)))
        return tuple(metadata)


def from_outcome(error: RequestRefused | PartialOutput | UpstreamFailure) -> RpcError:
    """Converts an exception of the pipeline into an RpcError."""
    match error:
        case RequestRefused():
            return from_refused(error)
        case PartialOutput():
            return partial_output(error.failure, error.usage, error.settled)
        case UpstreamFailure():
            return from_failure(error)


async def abort(context: grpc.aio.ServicerContext[Message, Message], error: RpcError) -> NoReturn:
    """Ends the RPC with the error's status. Never returns."""
    await context.abort(error.code, error.message, error.trailing_metadata())


async def end_now(context: grpc.aio.ServicerContext[Message, Message], error: RpcError) -> NoReturn:
    """Ends an RPC whose client may not read. The status is queued behind the unread bytes, and the
    task of the RPC ends without waiting until it is sent. Never returns."""
    with suppress(TimeoutError, grpc.aio.InternalError):  # the client may be gone
        async with asyncio.timeout(0):
            await abort(context, error)
    raise asyncio.CancelledError  # gRPC sends no other status after this one


def request_missing(limit_s: float) -> RpcError:
    """DEADLINE_EXCEEDED: the request has not arrived."""
    text = f"the request took longer than {limit_s:g} s to arrive: limits.request_s"
    return RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, text, _info("REQUEST_MISSING"))


def unread(error: UnreadOutput) -> RpcError:
    """The client has not read its stream: DEADLINE_EXCEEDED, or ABORTED for a blocked write."""
    if error.limit_s is None:
        code, message = grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed during a write"
    else:
        code, message = grpc.StatusCode.ABORTED, f"one write took longer than {error.limit_s:g} s"
    text = f"the client does not read its stream: {message}"
    return RpcError(code, text, _info("UNREAD"), pushback_ms=NEVER_RETRY_MS)


def shutting_down() -> RpcError:
    """UNAVAILABLE: the gateway drains. Another gateway can continue the stream at once."""
    return unavailable("the gateway is shutting down: call again", "SHUTTING_DOWN", 0.0)


def invalid(
    violations: Iterable[tuple[str, str]], reason: str = "", *, more: bool = False
) -> RpcError:
    """INVALID_ARGUMENT. `violations`: pairs of field path and description with a fix. `reason`:
    machine-readable kind of fault; empty: none. `more`: there are further violations, which nobody
    has counted."""
    detail = error_details_pb2.BadRequest()
    left_bytes = MAX_VIOLATIONS_BYTES
    found = list(violations)
    for i, (field, description) in enumerate(found):
        field = _cut(field, MAX_VIOLATIONS_BYTES // 4)
        description = _cut(description, MAX_VIOLATIONS_BYTES // 2)
        left_bytes -= len(field.encode()) + len(description.encode())
        if left_bytes < 0:
            number = f"{'at least ' if more else ''}{len(found) - i}"
            rest = f"one of {number} more faults: mend those before it first"
            detail.field_violations.add(field=field, description=rest)
            break
        detail.field_violations.add(field=field, description=description)
    message = "; ".join(f"{v.field}: {v.description}" for v in detail.field_violations)
    if more:
        message += "; and more: mend these first"
    infos = (_info(reason),) if reason else ()
    return RpcError(grpc.StatusCode.INVALID_ARGUMENT, message, detail, *infos)


def unauthenticated(message: str) -> RpcError:
    """UNAUTHENTICATED: the key is missing or unknown."""
    return RpcError(grpc.StatusCode.UNAUTHENTICATED, message, _info("UNAUTHENTICATED"))


def denied(message: str) -> RpcError:
    """PERMISSION_DENIED: the key lacks the right."""
    return RpcError(grpc.StatusCode.PERMISSION_DENIED, message, _info("PERMISSION_DENIED"))


def unknown_model(model: str) -> RpcError:
    """NOT_FOUND: the model does not exist, or the key may not see it."""
    detail = error_details_pb2.ResourceInfo(resource_type="model", resource_name=model)
    return RpcError(
        grpc.StatusCode.NOT_FOUND, f"model {model!r} is not served here: see ListModels", detail
    )


def not_found(kind: str, name: str) -> RpcError:
    """NOT_FOUND: no object of this kind has this name."""
    detail = error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name)
    return RpcError(grpc.StatusCode.NOT_FOUND, f"no {kind} {name!r}", detail)


def missing(message: str) -> RpcError:
    """NOT_FOUND: what the request names does not exist; the message says which field."""
    return RpcError(grpc.StatusCode.NOT_FOUND, message, _info("NOT_FOUND"))


def name_taken(message: str) -> RpcError:
    """ALREADY_EXISTS: a name that is to be given is in use."""
    return RpcError(grpc.StatusCode.ALREADY_EXISTS, message, _info("NAME_TAKEN"))


def precondition(message: str, reason: str) -> RpcError:
    """FAILED_PRECONDITION: the current state of the gateway forbids the operation."""
    return RpcError(grpc.StatusCode.FAILED_PRECONDITION, message, _info(reason))


def no_decision(request_id: str) -> RpcError:
    """NOT_FOUND: the decision log has no entry for this request."""
    message = f"request_id {_cut(request_id, 200)!r}: not among the last decisions"
    detail = error_details_pb2.ResourceInfo(resource_type="decision")
    return RpcError(grpc.StatusCode.NOT_FOUND, message, detail)


def already_exists(message: str, request_id: str) -> RpcError:
    """ALREADY_EXISTS: the id is in use by the request `request_id`."""
    info = _info("ALREADY_EXISTS", request_id=request_id)
    return RpcError(grpc.StatusCode.ALREADY_EXISTS, message, info)


def deadline(message: str) -> RpcError:
    """DEADLINE_EXCEEDED, sent by the gateway before the client's own timer fires."""
    return RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, message, _info("DEADLINE"))


def exhausted(message: str, reason: str, retry_after_s: float | None) -> RpcError:
    """RESOURCE_EXHAUSTED with a retry delay in seconds. None: a retry cannot succeed."""
    return _retryable(grpc.StatusCode.RESOURCE_EXHAUSTED, message, reason, retry_after_s)


def call_refused(refusal: CallRefused) -> RpcError:
    """RESOURCE_EXHAUSTED: too many calls are in progress, or the key is at a limit. UNAVAILABLE:
    the scheduler cannot be reached."""
    if refusal.unavailable:
        return unavailable(refusal.message, refusal.reason, refusal.retry_after_s)
    return exhausted(refusal.message, refusal.reason, refusal.retry_after_s)


def unavailable(message: str, reason: str, retry_after_s: float | None) -> RpcError:
    """UNAVAILABLE with a retry delay in seconds. None: a retry cannot succeed."""
    return _retryable(grpc.StatusCode.UNAVAILABLE, message, reason, retry_after_s)


def quarantined(message: str) -> RpcError:
    """FAILED_PRECONDITION: the request fails servers that work for others. No retry can help."""
    code = grpc.StatusCode.FAILED_PRECONDITION
    return _retryable(code, message, RefusalReason.QUARANTINED.name, None)


def partial_output(
    failure: UpstreamFailure, usage: Usage, settled: SettledAttempt | None = None
) -> RpcError:
    """The stream broke off after the client received content. The client must not retry blindly.
    The trailers hold the usage so far and its cost."""
    late = failure.kind is FailureKind.DEADLINE
    trailers = [(USAGE_TRAILER, usage_message(usage).SerializeToString())]
    cost = None if settled is None else cost_message(settled)
    if cost is not None:
        trailers.append((COST_TRAILER, cost.SerializeToString()))
    return RpcError(
        grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.UNAVAILABLE,
        f"the answer is incomplete: {failure.message}",
        _info("PARTIAL_OUTPUT", upstream=failure.kind.value),
        pushback_ms=NEVER_RETRY_MS,
        trailers=tuple(trailers),
    )


def from_failure(failure: UpstreamFailure) -> RpcError:
    """Converts an upstream failure that occurred before any content and that another placement
    cannot fix."""
    match failure.kind:
        case FailureKind.BAD_REQUEST:
            param = failure.param.removeprefix("body.")
            return invalid([(_FIELDS.get(param, param) or "request", failure.message)])
        case FailureKind.CONTEXT_LENGTH:
            return _too_long(failure.message)
        case FailureKind.CONTENT_FILTER:
            return invalid([("input", failure.message)], failure.kind.name)
        case FailureKind.DEADLINE:
            return deadline(failure.message)
        case FailureKind.QUARANTINED:
            return quarantined(failure.message)
        case FailureKind.CREDENTIALS | FailureKind.CREDIT | FailureKind.MODEL_NOT_FOUND:
            return unavailable(failure.message, failure.kind.name, failure.retry_after_s)
        case _:
            told_s = failure.retry_after_s
            retry_s = UNTOLD_RETRY_S if told_s is None else told_s
            return unavailable(failure.message, failure.kind.name, retry_s)


def from_refused(error: RequestRefused) -> RpcError:
    """Converts a refusal, using the table `_STATUSES`."""
    if error.fields:
        return invalid((field, not_honoured(field)) for field in error.fields)
    return _STATUSES[error.reason](error)


def quota(subject: str, text: str, reason: str, retry_after_s: float | None) -> RpcError:
    """A spend limit refuses the request. RESOURCE_EXHAUSTED if reserved spend may be released
    within `retry_after_s` seconds; FAILED_PRECONDITION if `retry_after_s` is None."""
    detail = error_details_pb2.QuotaFailure()
    detail.violations.add(subject=subject, description=text)
    held = retry_after_s is not None
    code = grpc.StatusCode.RESOURCE_EXHAUSTED if held else grpc.StatusCode.FAILED_PRECONDITION
    return _retryable(code, f"{subject}: {text}", reason, retry_after_s, detail)


def _too_long(message: str) -> RpcError:
    text = message.removesuffix(_SHORTEN)  # another gateway may have added the suffix
    return invalid([("input", text + _SHORTEN)], FailureKind.CONTEXT_LENGTH.name)


def _retryable(
    code: grpc.StatusCode,
    message: str,
    reason: str,
    retry_after_s: float | None,
    *details: Message,
) -> RpcError:
    if retry_after_s is None:
        return RpcError(code, message, _info(reason), *details, pushback_ms=NEVER_RETRY_MS)
    delay = Duration()
    delay.FromMilliseconds(math.ceil(retry_after_s * 1000))
    retry = error_details_pb2.RetryInfo(retry_delay=delay)
    pushback_ms = math.ceil(retry_after_s * 1000)
    return RpcError(code, message, _info(reason), retry, *details, pushback_ms=pushback_ms)


def _cut(text: str, max_bytes: int) -> str:
    """Returns the longest prefix of whole characters that fits into `max_bytes`."""
    return text.encode()[:max_bytes].decode(errors="ignore")


def _info(reason: str, **metadata: str) -> Message:
    info: Message = error_details_pb2.ErrorInfo(
        reason=reason, domain=ERROR_DOMAIN, metadata=metadata
    )
    return info


def _exhausted(error: RequestRefused) -> RpcError:
    return exhausted(error.message, error.reason.name, error.retry_after_s)


def _unavailable(error: RequestRefused) -> RpcError:
    return unavailable(error.message, error.reason.name, error.retry_after_s)


def _taken(error: RequestRefused) -> RpcError:
    return already_exists(error.message, error.other_request_id)


def _quota(error: RequestRefused) -> RpcError:
    return quota(error.subject, error.message, error.reason.name, error.retry_after_s)


def _not_served(error: RequestRefused) -> RpcError:
    detail = error_details_pb2.ResourceInfo(resource_type="model", resource_name=error.model)
    return RpcError(grpc.StatusCode.NOT_FOUND, error.message, detail)


_STATUSES: dict[RefusalReason, Callable[[RequestRefused], RpcError]] = {
    RefusalReason.QUEUE_FULL: _exhausted,
    RefusalReason.SHED: _exhausted,
    RefusalReason.QUEUE_TIMEOUT: _exhausted,
    RefusalReason.KEY_LIMIT: _exhausted,
    RefusalReason.DEADLINE: lambda error: deadline(error.message),
    RefusalReason.TOO_LONG: lambda error: _too_long(error.message),
    RefusalReason.UNKNOWN_MODEL: _not_served,
    RefusalReason.PERMISSION_DENIED: lambda error: denied(error.message),
    RefusalReason.OUT_OF_BOUNDS: lambda error: invalid([(error.subject, error.message)]),
    RefusalReason.NO_PLACEMENT_ALLOWED: lambda error: precondition(
        error.message, error.reason.name
    ),
    RefusalReason.UNAVAILABLE: _unavailable,
    RefusalReason.ATTEMPTS_EXHAUSTED: _unavailable,
    RefusalReason.QUARANTINED: lambda error: quarantined(error.message),
    RefusalReason.BUDGET_UNCHECKED: _unavailable,
    RefusalReason.REQUEST_IN_FLIGHT: _taken,
    RefusalReason.IDEMPOTENCY_KEY_USED: _taken,
    RefusalReason.BUDGET_SPENT: _quota,
    RefusalReason.BUDGET_HELD: _quota,
    RefusalReason.PRICE_UNKNOWN: _quota,
    RefusalReason.MAX_COST: _quota,
}
"""Converter for each refusal reason."""
