"""What is read of a failed call, also of one that the gateway did not make."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from moegate.client.errors import MoegateError, error_of
from moegate.v1 import generation_pb2


def failed(*details: Message, trailers: dict[str, str | bytes] | None = None) -> MoegateError:
    """The error of a call with these details of google.rpc."""
    status = status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="full")
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    entries = {"grpc-status-details-bin": status.SerializeToString(), **(trailers or {})}
    error = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(*entries.items()),
        details="full",
    )
    return error_of(error)


def test_details_of_google_rpc_are_read() -> None:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    faults = error_details_pb2.BadRequest()
    faults.field_violations.add(field="stop", description="too many")
    faults.field_violations.add(field="n", description="ü")
    info = error_details_pb2.ErrorInfo(
        reason="ALREADY_EXISTS", domain="moegate", metadata={"a": "b", "request_id": "r-1"}
    )
    unread = error_details_pb2.ResourceInfo(resource_type="model", resource_name="m")
    error = failed(unread, retry, faults, info)
    assert (error.code, error.message, error.reason) == ("UNAVAILABLE", "full", "ALREADY_EXISTS")
    assert error.retry_after_s == 1.5
    assert error.faults == (("stop", "too many"), ("n", "ü"))
    assert error.request_id == "r-1"


def test_usage_and_cost_of_an_incomplete_answer_are_read() -> None:
    usage = generation_pb2.Usage(prompt_tokens=3, completion_tokens=2)
    cost = generation_pb2.Cost(charged_nano_usd=7)
    error = failed(
        trailers={
            "moegate-usage-bin": usage.SerializeToString(),
            "moegate-cost-bin": cost.SerializeToString(),
        }
    )
    assert error.usage is not None
    assert (error.usage.completion_tokens, error.usage.cached_tokens) == (2, None)
    assert error.cost is not None
    assert (error.cost.charged_nano_usd, error.cost.metered_nano_usd) == (7, None)


@pytest.mark.parametrize("details", [b"\xff", b"\x1a\x02\xff\xff", b"\x0a\x03abc", b""])
def test_details_of_a_proxy_are_left_alone(details: bytes) -> None:
    error = failed(trailers={"grpc-status-details-bin": details, "moegate-usage-bin": b"\xff"})
    assert (error.reason, error.retry_after_s, error.usage) == ("", None, None)
