"""The error table: codes, google.rpc details, retry pushback."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.outcomes import refused
from gateway.doors.grpc import errors
from moegate.v1 import generation_pb2
from scheduler.contract import RefusalReason, Refuse, Usage

ROOT = Path(__file__).resolve().parents[4]
RETRY = "ErrorInfo RetryInfo"


def reject(reason: RefusalReason, retry_after_s: float | None = None) -> errors.RpcError:
    made = Refuse(request_id="r", reason=reason, message="why", retry_after_s=retry_after_s)
    return errors.from_refused(refused(made))


def unpacked(error: errors.RpcError) -> dict[str, Message]:
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    assert status.code == error.code.value[0]
    found: dict[str, Message] = {}
    for packed in status.details:
        kind = getattr(details, packed.TypeName().rpartition(".")[2])()
        assert packed.Unpack(kind)
        found[type(kind).__name__] = kind
    return found


@pytest.mark.parametrize(
    ("error", "code", "kinds", "pushback"),
    [
        (reject(RefusalReason.QUEUE_FULL, 1.5), "RESOURCE_EXHAUSTED", RETRY, "1500"),
        (reject(RefusalReason.QUEUE_TIMEOUT, 0.2), "RESOURCE_EXHAUSTED", RETRY, "200"),
        (reject(RefusalReason.DEADLINE), "DEADLINE_EXCEEDED", "ErrorInfo", None),
        (reject(RefusalReason.TOO_LONG), "INVALID_ARGUMENT", "BadRequest ErrorInfo", None),
        (reject(RefusalReason.UNKNOWN_MODEL), "NOT_FOUND", "ResourceInfo", None),
        (reject(RefusalReason.NO_PLACEMENT_ALLOWED), "FAILED_PRECONDITION", "ErrorInfo", None),
        (reject(RefusalReason.UNAVAILABLE, 2.0), "UNAVAILABLE", RETRY, "2000"),
        (reject(RefusalReason.ATTEMPTS_EXHAUSTED, 2.0), "UNAVAILABLE", RETRY, "2000"),
        (reject(RefusalReason.ATTEMPTS_EXHAUSTED), "UNAVAILABLE", "ErrorInfo", "-1"),
        (reject(RefusalReason.QUARANTINED), "FAILED_PRECONDITION", "ErrorInfo", "-1"),
        (errors.exhausted("x", "KEY_LIMIT", None), "RESOURCE_EXHAUSTED", "ErrorInfo", "-1"),
        (errors.unauthenticated("x"), "UNAUTHENTICATED", "ErrorInfo", None),
        (errors.denied("x"), "PERMISSION_DENIED", "ErrorInfo", None),
        (errors.unknown_model("m"), "NOT_FOUND", "ResourceInfo", None),
        (errors.already_exists("x", "r1"), "ALREADY_EXISTS", "ErrorInfo", None),
    ],
)  # fmt: skip
def test_the_table(error: errors.RpcError, code: str, kinds: str, pushback: str | None) -> None:
    assert error.code is grpc.StatusCode[code]
    assert list(unpacked(error)) == kinds.split()
    assert dict(error.trailing_metadata()).get("grpc-retry-pushback-ms") == pushback


def test_every_refusal_has_one_status() -> None:
    assert set(errors._STATUSES) == set(RefusalReason)


def test_every_reason_has_its_answer() -> None:
    for reason in RefusalReason:
        assert reject(reason, 1.0).message
    for kind in FailureKind:
        assert errors.from_failure(UpstreamFailure(kind, "why")).message


PASSES = {
    *(FailureKind.CONNECT, FailureKind.BUSY, FailureKind.SERVER_ERROR, FailureKind.PROTOCOL),
    *(FailureKind.TIMEOUT, FailureKind.EMPTY, FailureKind.ADAPTER_NOT_FOUND),
}
"""Failures that a retry may not meet again."""


@pytest.mark.parametrize("kind", FailureKind)
def test_a_failure_has_a_retry_hint_exactly_where_a_retry_can_help(kind: FailureKind) -> None:
    """The shipped service config repeats by status: where no retry can help, the pushback stops it
    or the status is not one of those."""
    error = errors.from_failure(UpstreamFailure(kind, "why"))
    pushback = dict(error.trailing_metadata()).get("grpc-retry-pushback-ms")
    assert ("RetryInfo" in unpacked(error)) is (kind in PASSES)
    config = json.loads((ROOT / "examples" / "service_config.json").read_text())
    repeated = config["methodConfig"][0]["retryPolicy"]["retryableStatusCodes"]
    if kind in PASSES:
        assert error.code.name in repeated
        assert int(pushback or -1) > 0
    else:
        assert error.code.name not in repeated or pushback == "-1"


def test_partial_output_is_never_retried_and_carries_the_usage() -> None:
    failure = UpstreamFailure(FailureKind.SERVER_ERROR, "cut")
    error = errors.partial_output(failure, Usage(prompt_tokens=7, completion_tokens=3))
    trailers = dict(error.trailing_metadata())
    assert error.code is grpc.StatusCode.UNAVAILABLE
    assert trailers["grpc-retry-pushback-ms"] == "-1"
    info = unpacked(error)["ErrorInfo"]
    assert isinstance(info, details.ErrorInfo)
    assert (info.reason, info.domain) == ("PARTIAL_OUTPUT", "moegate")
    usage = generation_pb2.Usage.FromString(trailers["moegate-usage-bin"])  # type: ignore[arg-type]
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 3)


def test_a_field_that_no_allowed_server_honours_is_named() -> None:
    made = Refuse(
        request_id="r",
        reason=RefusalReason.NO_PLACEMENT_ALLOWED,
        message="why",
        retry_after_s=None,
    )
    error = errors.from_refused(refused(made, ("sampling.top_k",)))
    bad = unpacked(error)["BadRequest"]
    assert isinstance(bad, details.BadRequest)
    assert [v.field for v in bad.field_violations] == ["sampling.top_k"]


def test_what_the_upstream_blames_is_what_the_client_learns() -> None:
    failure = UpstreamFailure(FailureKind.BAD_REQUEST, "too hot", param="temperature")
    error = errors.from_failure(failure)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "sampling.temperature: too hot" in error.message
