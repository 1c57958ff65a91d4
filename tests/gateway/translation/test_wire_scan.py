"""The scan counts what the parser would make, accepts what it accepts, and stops at each bound."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from benchmarks.hostile.messages import field
from gateway.config.limits import ElementLimitsConfig
from gateway.domain.slices import finish
from gateway.translation.wire_scan import STEP_FIELDS, BoundExceeded, NotWireFormat, scan
from gateway.translation.wire_shapes import Element, shape_of
from moegate.v1 import chat_pb2, generation_pb2, inference_pb2
from tests.fuzz.request_protos import any_message, good_request
from tests.fuzz.request_wire import REQUESTS, Sent, check_sent, elements, sent_requests

LIMITS = ElementLimitsConfig()
GENERATE = generation_pb2.GenerateRequest


def counted(
    data: bytes, kind: type[Message] = GENERATE, limits: ElementLimitsConfig = LIMITS
) -> dict[str, int]:
    return finish(scan(data, shape_of(kind), limits))


def refusal(
    data: bytes, kind: type[Message] = GENERATE, limits: ElementLimitsConfig = LIMITS
) -> BoundExceeded:
    with pytest.raises(BoundExceeded) as caught:
        counted(data, kind, limits)
    return caught.value


def chat(content: bytes) -> bytes:
    return field(2, content)


@st.composite
def any_request(draw: st.DrawFn) -> Message:
    kind = draw(st.sampled_from(REQUESTS))
    return draw(any_message(kind.DESCRIPTOR))  # type: ignore[arg-type]


@given(any_request())
def test_it_counts_what_the_parsed_message_holds(message: Message) -> None:
    try:
        counts = counted(message.SerializeToString(), type(message))
    except BoundExceeded as error:
        if error.limit in ("json_depth", "values"):
            return  # these messages may exceed both
        raise
    expected = elements(message)
    for element in Element:
        name = element.name.lower()
        assert counts[name] == expected[name], name


@given(sent_requests())
def test_it_accepts_what_the_parser_accepts(sent: Sent) -> None:
    check_sent(sent)


@pytest.mark.parametrize(
    ("limit", "element", "path"),
    [
        ("messages", field(1, b""), "chat.messages"),
        ("messages", field(1, field(6, b"x")), "chat.messages"),
        ("parts", field(1, field(2, b"")), "chat.messages[8].parts"),
        ("tool_calls", field(1, field(4, b"")), "chat.messages[8].tool_calls"),
        ("tools", field(2, b""), "chat.tools"),
        ("signatures", field(1, field(7, b"")), "chat.messages[8].signatures"),
        ("unknown_fields", b"\xa0\x3e\x00", "chat"),
        ("unknown_fields", field(500, b"xyz"), "chat"),
        ("unknown_fields", b"\xa3\x3e\xa4\x3e", "chat"),
        ("text_bytes", field(1, field(6, b"x")), "chat.messages[8].reasoning_text"),
        ("text_bytes", field(2, field(1, b"x")), "chat.tools[8].name"),
        ("fields", field(3, b""), ""),
        ("fields", field(1, field(1, b"")), ""),
    ],
)
def test_one_more_element_than_the_bound_is_refused(limit: str, element: bytes, path: str) -> None:
    limits = structs.replace(LIMITS, **{limit: 8})
    if limit != "fields":
        assert counted(chat(element * 8), limits=limits)[limit] in (8, 16)
    error = refusal(chat(element * 9), limits=limits)
    assert error.limit == limit
    assert error.field == path
    assert f"limits.elements.{limit}" in error.description
    assert "8" in error.description


@pytest.mark.parametrize(
    "ids",
    [field(1, b"\x01" * 9), field(1, b"\xff\xff\x03" * 9), b"\x08\x01" * 9, field(1, b"\x01") * 9],
    ids=["packed", "packed, 3 bytes each", "unpacked", "one packed field each"],
)
def test_token_ids_count_in_every_encoding(ids: bytes) -> None:
    limits = structs.replace(LIMITS, token_ids=9)
    assert counted(field(4, ids), limits=limits)["token_ids"] == 9
    error = refusal(field(4, ids), limits=structs.replace(LIMITS, token_ids=8))
    assert (error.limit, error.field) == ("token_ids", "prompt_tokens.token_ids")


def test_stop_texts_and_remote_classes_share_a_bound() -> None:
    data = GENERATE(stop=["a"] * 4, data_policy={"remote_classes": ["b"] * 5}).SerializeToString()
    assert counted(data)["values"] == 9
    error = refusal(data, limits=structs.replace(LIMITS, values=8))
    assert (error.limit, error.field) == ("values", "data_policy.remote_classes")


def test_a_message_that_is_given_again_adds_to_the_first() -> None:
    limits = structs.replace(LIMITS, messages=8)
    assert refusal(chat(field(1, b"")) * 9, limits=limits).limit == "messages"
    replaced = (chat(field(1, b"")) + field(3, b"prompt")) * 9
    assert refusal(replaced, limits=limits).limit == "messages"


def test_the_request_inside_another_message_is_scanned() -> None:
    limits = structs.replace(LIMITS, messages=8)
    data = field(1, chat(field(1, b"") * 9))
    error = refusal(data, inference_pb2.GenerateOnceRequest, limits)
    assert error.field == "request.chat.messages"


def test_schemas_and_arguments_have_sizes_and_a_depth() -> None:
    limits = structs.replace(LIMITS, schema_bytes=20, arguments_bytes=30, json_depth=3)

    def tool(schema: str) -> bytes:
        definition = chat_pb2.ToolDefinition(parameters_json_schema=schema)
        return GENERATE(chat={"tools": [definition]}).SerializeToString()

    def call(arguments: str) -> bytes:
        message = chat_pb2.ChatMessage(tool_calls=[chat_pb2.ToolCall(arguments_json=arguments)])
        return GENERATE(chat={"messages": [message]}).SerializeToString()

    def answer(schema: str) -> bytes:
        shape = chat_pb2.JsonSchemaFormat(schema_json=schema)
        return GENERATE(chat={"response_format": {"json_schema": shape}}).SerializeToString()

    for good in (tool('{"a": [{}]}'), tool('{"a": "[[[[[["}'), call('{"a": {"b": []}}')):
        counted(good, limits=limits)
    error = refusal(tool('{"a": [[{}]]}'), limits=limits)
    assert (error.limit, error.field) == ("json_depth", "chat.tools[0].parameters_json_schema")
    error = refusal(call("[[[["), limits=limits)
    assert (error.limit, error.field) == (
        "json_depth",
        "chat.messages[0].tool_calls.arguments_json",
    )
    assert refusal(tool(" " * 21), limits=limits).limit == "schema_bytes"
    assert refusal(answer(" " * 21), limits=limits).limit == "schema_bytes"
    assert refusal(answer("[[[["), limits=limits).limit == "json_depth"
    assert refusal(call(" " * 31), limits=limits).limit == "arguments_bytes"


def test_images_count_as_no_text() -> None:
    image = chat_pb2.ContentPart(image=chat_pb2.ImagePart(data=b"x" * 100, media_type="image/png"))
    message = chat_pb2.ChatMessage(parts=[image])
    data = GENERATE(chat={"messages": [message]}).SerializeToString()
    counted(data, limits=structs.replace(LIMITS, text_bytes=9))


def test_groups_are_unknown_fields_of_bounded_depth() -> None:
    assert counted(b"\xa3\x3e" * 32 + b"\xa4\x3e" * 32)["unknown_fields"] == 32
    assert refusal(b"\xa3\x3e" * 33 + b"\xa4\x3e" * 33).limit == "nesting"
    for broken in (b"\xa3\x3e", b"\xa4\x3e", b"\xa3\x3e\xac\x3e"):
        with pytest.raises(NotWireFormat):
            counted(broken)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x0a\x05ab",
        b"\x80",
        b"\x30" + b"\xff" * 11,
        b"\x12\x02\x0a\x05abcde",
        b"\xa1\x3e",
    ],
)
def test_broken_messages_are_no_wire_format(data: bytes) -> None:
    with pytest.raises(NotWireFormat):
        counted(data)


@pytest.mark.parametrize(
    "data",
    [
        chat(field(1, b"") * 4_000_000),
        chat(field(2, b"") * 4_000_000),
        chat(field(1, field(2, field(1, b"a"))) * 1_000_000),
        field(1, b"") * 4_000_000,
        chat(b"") * 4_000_000,
        field(7, b"") * 4_000_000,
        field(4, field(1, b"\x01" * 8_000_000)),
        field(4, b"\x08\x01" * 4_000_000),
        b"\xa0\x3e\x00" * 3_000_000,
        b"\xa3\x3e\xa4\x3e" * 2_000_000,
    ],
    ids=lambda data: f"{data[:8].hex()}…",
)
def test_the_work_is_bounded_by_the_bounds(data: bytes) -> None:
    taken = 0

    def walk() -> None:
        nonlocal taken
        for _ in scan(data, shape_of(GENERATE), LIMITS):
            taken += 1

    with pytest.raises(BoundExceeded):
        walk()
    assert taken <= LIMITS.fields // STEP_FIELDS + 1


@pytest.mark.parametrize(("limit", "number"), [("regex_bytes", 3), ("grammar_bytes", 5)])
def test_what_engines_compile_is_bounded(limit: str, number: int) -> None:
    limits = structs.replace(LIMITS, **{limit: 8})
    good = chat(field(4, field(number, b"x" * 8)))
    assert counted(good, limits=limits)["text_bytes"] == 8
    error = refusal(chat(field(4, field(number, b"x" * 9))), limits=limits)
    assert (error.limit, error.field) == (
        limit,
        f"chat.response_format.{limit.removesuffix('_bytes')}",
    )


def test_token_rules_count_as_values() -> None:
    limits = structs.replace(LIMITS, values=8)
    request = GENERATE(logit_bias=dict.fromkeys(range(5), 1.0), stop_token_ids=range(3))
    assert counted(request.SerializeToString(), limits=limits)["values"] == 8
    request.stop_token_ids.append(9)
    assert refusal(request.SerializeToString(), limits=limits).limit == "values"


def test_an_ordinary_request_is_within_the_bounds() -> None:
    counts = counted(good_request().SerializeToString())
    assert counts["messages"] == 4
    assert counts["unknown_fields"] == 0


def test_every_bound_has_its_element() -> None:
    others = {"schema_bytes", "arguments_bytes", "json_depth", "nesting", "fields"}
    others |= {"regex_bytes", "grammar_bytes"}
    named: Any = ElementLimitsConfig.__struct_fields__
    assert {element.name.lower() for element in Element} == set(named) - others
