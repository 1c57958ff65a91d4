"""The one exception of a call that failed, with all that the gateway told of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import grpc
from google.protobuf import any_pb2, empty_pb2, unknown_fields
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from moegate.client.answers import Answer, Cost, Usage, cost_of, usage_of
from moegate.v1 import generation_pb2

_DETAILS = "grpc-status-details-bin"


class MoegateError(Exception):
    """A call that failed.

    Attributes:
        code: name of the gRPC status, such as "RESOURCE_EXHAUSTED".
        message: what is wrong, and mostly how to mend it.
        reason: machine-readable reason, such as "KEY_LIMIT" or "BUDGET_SPENT"; empty: none.
        retry_after_s: seconds after which a retry can succeed; None: a retry cannot help, or
            nobody knows.
        faults: field and fault of every invalid field.
        request_id: of another request in the way, if the error is about one.
        partial: what came before a stream broke off; None: nothing.
        usage, cost: of an incomplete answer; None: unknown.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        reason: str = "",
        retry_after_s: float | None = None,
        faults: Sequence[tuple[str, str]] = (),
        request_id: str = "",
        partial: Answer | None = None,
        usage: Usage | None = None,
        cost: Cost | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.faults = tuple(faults)
        self.request_id = request_id
        self.partial = partial
        self.usage = usage
        self.cost = cost


def error_of(error: grpc.RpcError, partial: Answer | None = None) -> MoegateError:
    """The exception of a failed RPC, synchronous or not."""
    entries: Iterable[Any] = error.trailing_metadata() or ()
    trailers: dict[str, str | bytes] = dict(entries)
    found = MoegateError(error.code().name, error.details() or "", partial=partial)
    usage, cost = trailers.get("moegate-usage-bin"), trailers.get("moegate-cost-bin")
    try:
        if isinstance(usage, bytes):
            found.usage = usage_of(generation_pb2.Usage.FromString(usage))
        if isinstance(cost, bytes):
            found.cost = cost_of(generation_pb2.Cost.FromString(cost))
        details = trailers.get(_DETAILS)
        if isinstance(details, bytes):
            for packed in _fields(details, 3):
                _read_detail(found, any_pb2.Any.FromString(packed))
    except (DecodeError, UnicodeDecodeError):
        pass  # the details are not the gateway's: a proxy in between made them
    return found


def _read_detail(error: MoegateError, detail: any_pb2.Any) -> None:
    """Adds what a message of google.rpc says. The field numbers are those of
    google/rpc/error_details.proto, whose package the client does not need for this."""
    match detail.type_url.rpartition("/")[2]:
        case "google.rpc.ErrorInfo":
            error.reason = _text(detail.value, 1)
            for entry in _fields(detail.value, 3):
                if _text(entry, 1) == "request_id":
                    error.request_id = _text(entry, 2)
        case "google.rpc.RetryInfo":
            for delay in _fields(detail.value, 1):
                error.retry_after_s = Duration.FromString(delay).ToNanoseconds() / 1e9
        case "google.rpc.BadRequest":
            error.faults += tuple(
                (_text(fault, 1), _text(fault, 2)) for fault in _fields(detail.value, 1)
            )


def _fields(data: bytes, number: int) -> Iterator[bytes]:
    """The values of a field of text, bytes or messages, in a message of unknown type."""
    found = unknown_fields.UnknownFieldSet(empty_pb2.Empty.FromString(data))
    for place in range(len(found)):
        field = found[place]
        if field.field_number == number and isinstance(field.data, bytes):
            yield field.data


def _text(data: bytes, number: int) -> str:
    return next((value.decode() for value in _fields(data, number)), "")
