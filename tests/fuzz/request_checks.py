"""What the gateway makes of a request: a generation that engines take, or an answer with faults."""

from __future__ import annotations

import json

import grpc
from google.rpc import error_details_pb2

from gateway.domain.slices import finish
from gateway.doors.grpc.errors import RpcError, unknown_model
from gateway.doors.grpc.requests import generation_steps
from gateway.translation.chat_input import MAX_FAULTS
from gateway.upstream.features import unsupported
from gateway.upstream.openai.body import OPENAI_FEATURES, generation_body
from gateway.upstream.vllm.body import tokenize_body, vllm_body
from moegate.v1 import generation_pb2

METADATA_LIMIT_BYTES = 8192
"""What gRPC takes as trailers by default: a longer answer reaches the client as another error."""


def check_refusal(error: RpcError) -> None:
    """Names the fields at fault, in an answer that reaches the client."""
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    detail = error.details[0]
    assert isinstance(detail, error_details_pb2.BadRequest)
    assert 0 < len(detail.field_violations) <= MAX_FAULTS
    assert all(fault.field and fault.description for fault in detail.field_violations)
    size_bytes = answer_bytes(error)
    assert size_bytes <= METADATA_LIMIT_BYTES, f"an answer of {size_bytes} bytes"


def answer_bytes(error: RpcError) -> int:
    """Trailers of an answer: gRPC escapes the message and encodes the details by base64."""
    trailers_bytes = sum(
        len(value) * 4 // 3 if isinstance(value, bytes) else len(value)
        for _, value in error.trailing_metadata()
    )
    message = error.message.encode()
    return trailers_bytes + sum(1 if " " <= chr(byte) <= "~" else 3 for byte in message)


def check_request(proto: generation_pb2.GenerateRequest | None) -> None:
    """A generation that can be sent to engines, or an answer that names the fields at fault."""
    if proto is None:
        return
    try:
        generation = finish(generation_steps(proto, default_max_output_tokens=4096))
    except RpcError as error:
        check_refusal(error)
        return
    assert answer_bytes(unknown_model(generation.model)) <= METADATA_LIMIT_BYTES
    bodies = [finish(vllm_body(generation, "up"))]
    if not unsupported(generation, OPENAI_FEATURES):
        bodies.append(finish(generation_body(generation, "up")))
    if not isinstance(generation.input, tuple):
        bodies.append(finish(tokenize_body(generation, "up")))
    for body in bodies:
        assert json.loads(body, parse_constant=_refused)["model"] == "up"


def _refused(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")
