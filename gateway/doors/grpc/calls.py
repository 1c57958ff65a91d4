"""Converts a request and its metadata into the pipeline's `GenerateCall`."""

from __future__ import annotations

from msgspec import structs

from gateway.auth.authenticator import Caller
from gateway.batch.running.execution import ItemCall
from gateway.domain.generation import Generation
from gateway.domain.slices import Steps
from gateway.domain.tags import item_labels, labels_json
from gateway.doors.grpc.hops import hops_of
from gateway.doors.grpc.pooling_requests import PoolingRequest, pooling_steps
from gateway.doors.grpc.requests import generation_steps
from gateway.doors.grpc.rpc_context import Context, Metadata
from gateway.doors.grpc.times import seconds_of
from gateway.pipeline.call import GenerateCall
from gateway.pipeline.hints import trace_headers
from gateway.translation.slo_classes import CLASS_OF
from moegate.v1 import generation_pb2


def generate_call(
    proto: generation_pb2.GenerateRequest,
    *,
    caller: Caller,
    context: Context,
    metadata: Metadata,
    size_bytes: int,
    default_max_output_tokens: int,
    whole_answer: bool,
) -> Steps[GenerateCall]:
    """Checks every field and converts the request. Durations become seconds. Raises RpcError
    (INVALID_ARGUMENT)."""
    generation = yield from generation_steps(proto, default_max_output_tokens, hops_of(metadata))
    return _call(
        proto,
        generation,
        caller=caller,
        remaining_s=context.time_remaining(),
        metadata=metadata,
        size_bytes=size_bytes,
        whole_answer=whole_answer,
        session_id=proto.session_id,
    )


def pooling_call(
    proto: PoolingRequest, *, caller: Caller, context: Context, metadata: Metadata, size_bytes: int
) -> Steps[GenerateCall]:
    """The same of a request for vectors or scores, which belongs to no session."""
    generation = yield from pooling_steps(proto, hops_of(metadata))
    return _call(
        proto,
        generation,
        caller=caller,
        remaining_s=context.time_remaining(),
        metadata=metadata,
        size_bytes=size_bytes,
        whole_answer=True,
        session_id="",
    )


def batch_call(
    proto: generation_pb2.GenerateRequest, item: ItemCall, *, default_max_output_tokens: int
) -> Steps[GenerateCall]:
    """The same of an item of a batch: whatever it says, it has the run's class and request id,
    costs no more than the batch has left, and goes only where both of them allow."""
    generation = yield from generation_steps(proto, default_max_output_tokens)
    call = _call(
        proto,
        structs.replace(generation, request_id=item.request_id),
        caller=item.caller,
        remaining_s=item.remaining_s,
        metadata=(),
        size_bytes=len(item.content),
        whole_answer=True,
        session_id=proto.session_id,
    )
    terms = item.terms
    classes = call.remote_classes or terms.remote_classes
    if call.remote_classes and terms.remote_classes:
        classes = call.remote_classes & terms.remote_classes
    excluded = bool(call.remote_classes and not classes)
    caps = [cap for cap in (call.max_cost_nano_usd, item.max_cost_nano_usd) if cap is not None]
    return structs.replace(
        call,
        slo_class=item.slo_class,
        local_only=call.local_only or terms.local_only or excluded,
        remote_classes=classes,
        idempotency_key="",
        max_cost_nano_usd=min(caps, default=None),
        batch_item=True,
        labels_json=item_labels(item.job_id, terms.labels_json, proto.labels),
        end_user=call.end_user or terms.end_user,
    )


def _call(
    proto: generation_pb2.GenerateRequest | PoolingRequest,
    generation: Generation,
    *,
    caller: Caller,
    remaining_s: float | None,
    metadata: Metadata,
    size_bytes: int,
    whole_answer: bool,
    session_id: str,
) -> GenerateCall:
    slo, policy = proto.slo, proto.data_policy
    return GenerateCall(
        generation=generation,
        caller=caller,
        remaining_s=remaining_s,
        size_bytes=size_bytes,
        whole_answer=whole_answer,
        slo_class=CLASS_OF.get(slo.slo_class),
        ttft_s=seconds_of(slo.ttft) if slo.HasField("ttft") else None,
        tpot_s=seconds_of(slo.tpot) if slo.HasField("tpot") else None,
        priority=proto.priority,
        local_only=policy.local_only,
        remote_classes=frozenset(policy.remote_classes),
        session_id=session_id,
        end_user=proto.end_user,
        labels_json=labels_json(proto.labels),
        idempotency_key=proto.idempotency_key,
        max_cost_nano_usd=(
            proto.max_cost_nano_usd if proto.HasField("max_cost_nano_usd") else None
        ),
        trace_headers=trace_headers(metadata),
    )
