"""From a `GenerateRequest` and its metadata to the pipeline's call: no field is lost."""

from __future__ import annotations

from typing import cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from gateway.domain.generation import Chat, Sampling
from gateway.domain.slices import finish
from gateway.doors.grpc.calls import generate_call
from gateway.doors.grpc.errors import RpcError
from gateway.doors.grpc.rpc_context import Context, Metadata
from gateway.pipeline.call import GenerateCall
from moegate.v1 import chat_pb2, generation_pb2
from scheduler.contract import SloClass
from tests.gateway.pipeline.rig import CALLER

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
FULL = generation_pb2.GenerateRequest(
    model="moe",
    prompt="Hello",
    sampling=generation_pb2.Sampling(
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        min_p=0.125,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        repetition_penalty=1.5,
        seed=3,
    ),
    max_output_tokens=11,
    stop=["x", "y"],
    choices=2,
    logprobs=4,
    ignore_eos=True,
    min_tokens=2,
    logit_bias={9: 0.5},
    stop_token_ids=[4],
    slo=generation_pb2.Slo(
        slo_class=generation_pb2.SLO_CLASS_BATCH,
        ttft=Duration(seconds=1, nanos=500_000_000),
        tpot=Duration(nanos=20_000_000),
    ),
    priority=-3,
    session_id="s",
    labels={"team": "a"},
    end_user="u",
    data_policy=generation_pb2.DataPolicy(local_only=True, remote_classes=["eu", "us"]),
    max_cost_nano_usd=99,
    idempotency_key="once",
    request_id="mine",
)
"""Every field of the request is set, each to something that is not its default."""


class _Context:
    """What the door asks of a call of gRPC."""

    def __init__(self, remaining_s: float | None) -> None:
        self._remaining_s = remaining_s

    def time_remaining(self) -> float | None:
        return self._remaining_s


def made(
    proto: generation_pb2.GenerateRequest,
    metadata: Metadata = (),
    *,
    remaining_s: float | None = None,
    whole_answer: bool = False,
) -> GenerateCall:
    steps = generate_call(
        proto,
        caller=CALLER,
        context=cast(Context, _Context(remaining_s)),
        metadata=metadata,
        size_bytes=proto.ByteSize(),
        default_max_output_tokens=77,
        whole_answer=whole_answer,
    )
    return finish(steps)


def test_every_field_reaches_the_call() -> None:
    call = made(FULL, remaining_s=8.0, whole_answer=True)
    generation = call.generation
    assert (generation.request_id, generation.model, generation.input) == ("mine", "moe", "Hello")
    assert generation.sampling == Sampling(
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        min_p=0.125,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        repetition_penalty=1.5,
        seed=3,
    )
    assert (generation.max_output_tokens, generation.stop) == (11, ("x", "y"))
    assert (generation.choices, generation.logprobs, generation.ignore_eos) == (2, 4, True)
    assert (call.slo_class, call.ttft_s, call.tpot_s) == (SloClass.BATCH, 1.5, 0.02)
    assert (call.priority, call.session_id, call.idempotency_key) == (-3, "s", "once")
    assert (call.local_only, call.remote_classes) == (True, frozenset({"eu", "us"}))
    assert call.max_cost_nano_usd == 99
    assert (call.remaining_s, call.whole_answer) == (8.0, True)
    assert (call.caller, call.size_bytes) == (CALLER, FULL.ByteSize())


def without(path: str) -> generation_pb2.GenerateRequest:
    """A copy of the full request without one field."""
    copy = generation_pb2.GenerateRequest()
    copy.CopyFrom(FULL)
    *parents, field = path.split(".")
    owner: Message = copy
    for parent in parents:
        owner = getattr(owner, parent)
    owner.ClearField(field)
    return copy


def fields_of(message: Message, prefix: str = "") -> list[str]:
    """Paths of all fields, of inner messages too; of `input` only what `FULL` sets."""
    paths = []
    for field in message.DESCRIPTOR.fields:
        path = f"{prefix}{field.name}"
        if field.containing_oneof is not None and field.name in ("chat", "prompt_tokens"):
            continue
        inner = None if field.is_repeated else field.message_type  # a map is a repeated field
        if inner is not None and inner.full_name.startswith("moegate"):
            paths += fields_of(getattr(message, field.name), f"{path}.")
        else:
            paths.append(path)
    return paths


REQUIRED = {"model", "prompt"}


@pytest.mark.parametrize("path", [path for path in fields_of(FULL) if path not in REQUIRED])
def test_no_field_is_ignored(path: str) -> None:
    """A field that is added to the API has to be set in `FULL` and to change the call."""
    owner: Message = FULL
    *parents, field = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    assert field in {set_field.name for set_field, _ in owner.ListFields()}, f"set {path} in FULL"
    changed = made(without(path))
    full = made(FULL)
    assert (changed.generation, terms(changed)) != (full.generation, terms(full))


def terms(call: GenerateCall) -> tuple[object, ...]:
    """Everything but the generation and the size."""
    names = [n for n in GenerateCall.__struct_fields__ if n not in ("generation", "size_bytes")]
    return tuple(getattr(call, name) for name in names)


def test_what_is_absent_is_told_as_that() -> None:
    call = made(generation_pb2.GenerateRequest(model="moe", prompt="Hello"))
    assert (call.slo_class, call.ttft_s, call.tpot_s) == (None, None, None)
    assert (call.remaining_s, call.max_cost_nano_usd, call.priority) == (None, None, 0)
    assert (call.local_only, call.remote_classes) == (False, frozenset())
    assert (call.session_id, call.idempotency_key, call.trace_headers) == ("", "", ())
    assert not call.whole_answer
    assert call.generation.max_output_tokens == 77
    assert (call.generation.logprobs, call.generation.hops) == (None, 0)
    assert call.generation.request_id


@pytest.mark.parametrize(
    ("proto_class", "slo_class"),
    [
        (generation_pb2.SLO_CLASS_INTERACTIVE, SloClass.INTERACTIVE),
        (generation_pb2.SLO_CLASS_STANDARD, SloClass.STANDARD),
        (generation_pb2.SLO_CLASS_BATCH, SloClass.BATCH),
        (generation_pb2.SLO_CLASS_UNSPECIFIED, None),
    ],
)
def test_classes_of_service(
    proto_class: generation_pb2.SloClass, slo_class: SloClass | None
) -> None:
    slo = generation_pb2.Slo(slo_class=proto_class)
    request = generation_pb2.GenerateRequest(model="moe", prompt="x", slo=slo)
    assert made(request).slo_class is slo_class


def test_metadata_gives_the_trace_and_the_hops() -> None:
    metadata = (
        ("x-api-key", "mg-k"),
        ("traceparent", PARENT),
        ("tracestate", "a=1"),
        ("moegate-hops", "2"),
        ("traceparent-bin", b"\x00"),
    )
    call = made(FULL, metadata)
    assert call.trace_headers == (("traceparent", PARENT), ("tracestate", "a=1"))
    assert call.generation.hops == 2


def test_a_trace_that_is_none_is_left_out() -> None:
    assert made(FULL, (("traceparent", "mine"), ("tracestate", "a=1"))).trace_headers == ()


@pytest.mark.parametrize("hops", ["-1", "100", "two", b"\x01"])
def test_hops_that_are_no_number_are_a_fault_of_the_metadata(hops: str | bytes) -> None:
    with pytest.raises(RpcError) as caught:
        made(FULL, (("moegate-hops", hops),))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "metadata.moegate-hops" in caught.value.message


def test_a_chat_and_token_ids_reach_the_call() -> None:
    message = chat_pb2.ChatMessage(role=chat_pb2.ROLE_USER, parts=[chat_pb2.ContentPart(text="hi")])
    chat = generation_pb2.GenerateRequest(model="moe", chat=chat_pb2.ChatInput(messages=[message]))
    tokens = generation_pb2.GenerateRequest(
        model="moe", prompt_tokens=chat_pb2.TokenInput(token_ids=[4, 5])
    )
    parsed = made(chat).generation.input
    assert isinstance(parsed, Chat)
    assert [turn.parts for turn in parsed.messages] == [("hi",)]
    assert made(tokens).generation.input == (4, 5)
