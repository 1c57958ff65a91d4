"""Requests as bytes: any message of the API, merged with others, broken, or with fields unknown."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.slices import finish
from gateway.doors.grpc.errors import RpcError
from gateway.doors.grpc.parsing import parse_message
from gateway.translation.wire_scan import BoundExceeded, NotWireFormat, scan
from gateway.translation.wire_shapes import Element, shape_of
from moegate.v1 import admin_pb2, batch_pb2, generation_pb2, inference_pb2, usage_pb2
from tests.fuzz.mutations import scratched
from tests.fuzz.request_checks import check_refusal, check_request
from tests.fuzz.request_protos import almost_good_requests, any_message

REQUESTS: tuple[type[Message], ...] = tuple(
    getattr(module, name)
    for module in (admin_pb2, batch_pb2, inference_pb2, usage_pb2, generation_pb2)
    for name in module.DESCRIPTOR.message_types_by_name
    if name.endswith("Request")
)
"""All messages that clients send."""
WIRE_WORDS = (
    b"\xff", b"\0", b"\x0a\x01", b"\x0b\x0c", b"\x80\x80\x00", b"\xa0\x3e\x01",
    b"\xa3\x3e\xa4\x3e", b"\xa3\x3e" * 40, b"\x12\x00" * 9, b"\x0a\x80\x80\x80\x80\x00",
    b"\x22\x04\x0a\x02\x01\x01", b"\x22\x04\x08\x01\x08\x01", b"\x12\xff\xff\xff\xff\x0f",
)  # fmt: skip
"""Groups, fields unknown or given again, long varints, packed numbers and such that are not."""
NAMED = frozenset({"messages", "parts", "tools", "tool_calls", "signatures", "token_ids"})
"""Repeated fields with a bound of their own."""
MAX_BYTES = 1 << 20
LIMITS = (
    ElementLimitsConfig(),
    ElementLimitsConfig(messages=2, parts=2, tools=1, tool_calls=1, values=2, token_ids=2),
    ElementLimitsConfig(fields=12, unknown_fields=1, nesting=8, text_bytes=200, json_depth=4),
)


@dataclass(frozen=True, slots=True)
class Sent:
    """The bytes of a request for one RPC, and the limits in force."""

    kind: type[Message]
    data: bytes
    limits: ElementLimitsConfig


@st.composite
def sent_requests(draw: st.DrawFn) -> Sent:
    """One or two messages, the second merged into the first, with bytes changed."""
    kind: type[Message] = generation_pb2.GenerateRequest
    messages: st.SearchStrategy[Message] = almost_good_requests()
    if draw(st.booleans()):
        kind = draw(st.sampled_from(REQUESTS))
        messages = any_message(kind.DESCRIPTOR)  # type: ignore[arg-type]
    made = draw(st.lists(messages, min_size=1, max_size=2))
    data = b"".join(message.SerializeToString() for message in made)
    if draw(st.booleans()):
        data = draw(scratched(data, WIRE_WORDS))
    return Sent(kind, data, draw(st.sampled_from(LIMITS)))


def elements(message: Message) -> Counter[str]:
    """Elements of a parsed message, counted by its descriptors."""
    found: Counter[str] = Counter()
    for field, value in message.ListFields():
        items = [value]
        if field.is_repeated:
            items = list(value)
            found[field.name if field.name in NAMED else "values"] += len(items)
            if hasattr(value, "items"):  # a map: its keys, and its values
                items += value.values()
        for item in items:
            if isinstance(item, Message):
                found += elements(item)
            elif isinstance(item, str) and field.full_name != "moegate.v1.ImagePart.url":
                found["text_bytes"] += len(item.encode())
    return found


def check_sent(sent: Sent) -> None:
    """The scan accepts what the parser accepts, and counts at least what the message holds; the
    door gives the message, or an answer that names at most 20 faults."""
    try:
        parsed = sent.kind.FromString(sent.data)
    except DecodeError:
        parsed = None
    refused = False
    try:
        counts = finish(scan(sent.data, shape_of(sent.kind), sent.limits))
    except NotWireFormat:
        assert parsed is None, "the scan refuses what the parser takes"
    except BoundExceeded:
        refused = True
    else:
        if parsed is not None:
            check_counts(counts, parsed, sent.limits)
    try:
        message = asyncio.run(parse_message(sent.kind, sent.data, MAX_BYTES, sent.limits))
    except RpcError as error:
        check_refusal(error)
        assert refused or parsed is None or len(sent.data) > MAX_BYTES
        return
    assert not refused
    # Messages with NaN differ from themselves, their bytes do not.
    assert parsed is not None
    assert message.SerializeToString(deterministic=True) == parsed.SerializeToString(
        deterministic=True
    )
    if isinstance(message, generation_pb2.GenerateRequest):
        check_request(message)


def check_counts(counts: dict[str, int], parsed: Message, limits: ElementLimitsConfig) -> None:
    """A later value of a single field replaces an earlier one, which was counted as well."""
    expected = elements(parsed)
    for element in Element:
        name = element.name.lower()
        assert expected[name] <= counts[name] <= getattr(limits, name), name
