"""Requests that a client could send: any field with any value, and almost right ones."""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from moegate.v1 import generation_pb2
from tests.fuzz.mutations import scratched

TEXTS = (
    "", "a", "get_weather", "a b", "https://example.com/a.png", "http://x", "image/png", "text",
    "x" * 129, "x" * 1025, "x" * 20_000, "\0", "\U0001f980" * 40, "\u2028", "\r\n",
    "{}", '{"type": "object"}', '{"type": "object"} ', "[]", "null", "{", '{"a": NaN}',
    '{"a": 1e999}', '{"a": "\\ud800"}', '{"a": ' + "9" * 30 + "}", '{"a": ' + "9" * 5000 + "}",
    '{"a": ' + "[" * 40 + "]" * 40 + "}", '{"a": ' + "[" * 5000 + "]" * 5000 + "}",
    '{"a": 1, "a": 2}', "\ufeff{}",
)  # fmt: skip
SOME = 3
"""Most items of a repeated field, mostly: the nesting multiplies them."""
MANY = 400
"""Items that one field has now and then."""

_NUMBERS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_INT32: st.sampled_from([0, 1, -1, 10, -11, 2**31 - 1, -(2**31)]),
    FieldDescriptor.CPPTYPE_INT64: st.sampled_from([0, 1, -1, 10**9, 2**63 - 1, -(2**63)]),
    FieldDescriptor.CPPTYPE_UINT32: st.sampled_from([0, 1, 2, 16, 17, 21, 2**32 - 1]),
    FieldDescriptor.CPPTYPE_UINT64: st.sampled_from([0, 1, 2**64 - 1]),
    FieldDescriptor.CPPTYPE_DOUBLE: st.sampled_from(
        [0.0, 0.5, 1.0, -2.0, 2.1, 5e-324, 1e308, math.nan, math.inf, -math.inf, -0.0]
    ),
    FieldDescriptor.CPPTYPE_FLOAT: st.sampled_from(
        [0.0, 0.5, -100.0, 101.0, math.nan, math.inf, -math.inf]
    ),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}


def is_map(field: FieldDescriptor) -> bool:
    """Whether the field is a map."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Any value of a field, or of one item of it: a pair for a map."""
    if field.message_type is not None and is_map(field):
        entry = field.message_type.fields_by_name
        return st.tuples(values(entry["key"]), values(entry["value"]))
    if field.message_type is not None:
        return any_message(field.message_type)
    if field.enum_type is not None:
        known = [value.number for value in field.enum_type.values]
        return st.sampled_from([*known, *known, 99, -1])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.sampled_from([b"", b"\x89PNG\xff"])
    if field.type == FieldDescriptor.TYPE_STRING:
        return st.sampled_from(TEXTS) | st.text(
            st.characters(exclude_categories=["Cs"]), max_size=6
        )
    return _NUMBERS[field.cpp_type]


@st.composite
def any_message(draw: st.DrawFn, descriptor: Descriptor) -> Message:
    """A message with any of its fields set."""
    message = GetMessageClass(descriptor)()
    for field in descriptor.fields:
        if not draw(st.booleans()):
            continue
        if field.is_repeated:
            items = draw(st.lists(values(field), min_size=1, max_size=SOME))
            if draw(st.integers(0, 30)) == 30:
                items = [items[0]] * MANY
            _add(message, field, items)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(values(field)))
        else:
            setattr(message, field.name, draw(values(field)))
    return message


def _add(message: Message, field: FieldDescriptor, items: list[Any]) -> None:
    """Adds items to a repeated field or a map."""
    container = getattr(message, field.name)
    if is_map(field):
        container.update(dict(items))
    else:
        container.extend(items)


def good_request() -> generation_pb2.GenerateRequest:
    """A request that is taken, with something in most fields."""
    request = generation_pb2.GenerateRequest(model="moe", max_output_tokens=16, stop=["\n"])
    request.choices, request.logprobs, request.request_id = 2, 3, "a:b"
    request.sampling.temperature, request.sampling.seed = 1.0, 7
    request.min_tokens, request.stop_token_ids[:] = 2, [5]
    request.logit_bias[3] = -1.5
    chat = request.chat
    chat.parallel_tool_calls, chat.reasoning.budget_tokens = False, 8
    chat.chat_template_kwargs_json = '{"enable_thinking": true}'
    chat.messages.add(role=1).parts.add(text="Be brief.")
    chat.messages.add(role=2, name="ann").parts.add().image.url = "https://example.com/a.png"
    chat.messages[1].parts.add().image.data = b"\x89PNG"
    chat.messages[1].parts[1].image.media_type = "image/png"
    chat.messages.add(role=3, reasoning_text="hm").tool_calls.add(
        id="1", name="get_weather", arguments_json="{}"
    )
    chat.messages.add(role=4, tool_call_id="1").parts.add(text="Rain.")
    chat.tools.add(name="get_weather", parameters_json_schema='{"type": "object"}')
    chat.tool_choice.function_name = "get_weather"
    chat.response_format.json_schema.name = "shape"
    chat.response_format.json_schema.schema_json = '{"type": "object"}'
    return request


def messages_in(message: Message) -> list[Message]:
    """A message and all that are set inside it."""
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is not None and not is_map(field):
            inner = list(value) if field.is_repeated else [value]
            found += [deeper for item in inner for deeper in messages_in(item)]
    return found


@st.composite
def almost_good_requests(draw: st.DrawFn) -> generation_pb2.GenerateRequest:
    """The good request with a few fields set anew, cleared or repeated."""
    request = good_request()
    for _ in range(draw(st.integers(0, 3))):
        message = draw(st.sampled_from(messages_in(request)))
        fields: list[Any] = [*message.DESCRIPTOR.fields]
        field: FieldDescriptor = draw(st.sampled_from(fields))
        if draw(st.integers(0, 3)) == 0:
            message.ClearField(field.name)
        elif field.is_repeated:
            _add(message, field, [draw(values(field))] * draw(st.sampled_from([1, 2, MANY])))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(values(field)))
        else:
            setattr(message, field.name, draw(values(field)))
    return request


def _parsed(data: bytes) -> generation_pb2.GenerateRequest | None:
    try:
        return generation_pb2.GenerateRequest.FromString(data)
    except DecodeError:
        return None


def requests() -> st.SearchStrategy[generation_pb2.GenerateRequest | None]:
    """What could reach the service. None: bytes that are no request, which gRPC refuses."""
    wire = almost_good_requests().map(lambda request: request.SerializeToString())
    return st.one_of(
        almost_good_requests(),
        any_message(generation_pb2.GenerateRequest.DESCRIPTOR),  # type: ignore[arg-type]
        wire.flatmap(lambda data: scratched(data, (b"\xff", b"\0", b"\x0a\x01"))).map(_parsed),
        st.binary(max_size=40).map(_parsed),
    )
