"""Checks every field of an `EmbedRequest` or `ScoreRequest` and converts it into a `Generation`.

The bounds are those of the API's field comments; violations are told as those of a
`GenerateRequest`.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.domain.generation import Generation
from gateway.domain.pooling import WHOLE_CONTEXT, EmbeddingInput, PoolingInput, ScoringInput
from gateway.domain.slices import Steps
from gateway.doors.grpc import errors
from gateway.doors.grpc.requests import (
    check_model_name,
    check_scheduling_fields,
    checked_request_id,
)
from gateway.translation.chat_input import EnoughFaults, Violations
from gateway.upstream.pooled import MOST_DIMENSIONS
from moegate.v1 import pooling_pb2

STEP_INPUTS = 256
"""Inputs that are converted in one step."""
PoolingRequest = pooling_pb2.EmbedRequest | pooling_pb2.ScoreRequest


def pooling_steps(proto: PoolingRequest, hops: int = 0) -> Steps[Generation]:
    """Returns the request as a domain value. Raises RpcError (INVALID_ARGUMENT) that names the
    violations."""
    violations = Violations()
    try:
        generation = yield from _generation(proto, hops, violations)
    except EnoughFaults:
        raise errors.invalid(violations, more=True) from None
    if violations:
        raise errors.invalid(violations)
    return generation


def _generation(proto: PoolingRequest, hops: int, violations: Violations) -> Steps[Generation]:
    check_model_name(proto.model, violations)
    check_scheduling_fields(proto, violations)
    truncate_tokens = proto.truncate_tokens if proto.HasField("truncate_tokens") else None
    if truncate_tokens is not None and truncate_tokens < 1 and truncate_tokens != WHOLE_CONTEXT:
        fix = f"give 1 or more, or {WHOLE_CONTEXT} for as many as the model takes"
        violations.add("truncate_tokens", f"{truncate_tokens}: {fix}")
    pooling: PoolingInput
    if isinstance(proto, pooling_pb2.EmbedRequest):
        pooling = yield from _embedding(proto, truncate_tokens, violations)
    else:
        violations.check(bool(proto.query), "query", "empty: give some text")
        documents = yield from _texts(proto.documents, "documents", violations)
        pooling = ScoringInput(
            query=proto.query, documents=documents, truncate_tokens=truncate_tokens
        )
    return Generation(
        request_id=checked_request_id(proto.request_id, violations),
        model=proto.model,
        input=pooling,
        max_output_tokens=0,
        hops=hops,
    )


def _embedding(
    proto: pooling_pb2.EmbedRequest, truncate_tokens: int | None, violations: Violations
) -> Steps[EmbeddingInput]:
    inputs: tuple[str, ...] | tuple[tuple[int, ...], ...] = ()
    match proto.WhichOneof("input"):
        case "texts":
            inputs = yield from _texts(proto.texts.texts, "texts.texts", violations)
        case "tokens":
            inputs = yield from _token_inputs(proto.tokens, violations)
        case _:
            violations.add("input", "not set: give texts or tokens")
    dimensions = proto.dimensions if proto.HasField("dimensions") else None
    if dimensions is not None and not 0 < dimensions <= MOST_DIMENSIONS:
        violations.add("dimensions", f"{dimensions}: give 1 to {MOST_DIMENSIONS}")
    return EmbeddingInput(inputs=inputs, dimensions=dimensions, truncate_tokens=truncate_tokens)


def _texts(protos: Sequence[str], field: str, violations: Violations) -> Steps[tuple[str, ...]]:
    violations.check(bool(protos), field, "none: give at least one")
    texts: list[str] = []
    for start in range(0, len(protos), STEP_INPUTS):
        texts += protos[start : start + STEP_INPUTS]
        yield
    for i, text in enumerate(texts):
        if not text:
            violations.add(f"{field}[{i}]", "empty: give some text")
    return tuple(texts)


def _token_inputs(
    proto: pooling_pb2.TokenInputs, violations: Violations
) -> Steps[tuple[tuple[int, ...], ...]]:
    violations.check(bool(proto.inputs), "tokens.inputs", "none: give at least one")
    inputs: list[tuple[int, ...]] = []
    for i, each in enumerate(proto.inputs):
        if not each.token_ids:
            violations.add(f"tokens.inputs[{i}].token_ids", "empty: give some tokens")
        inputs.append(tuple(each.token_ids))
        yield
    return tuple(inputs)
