"""Shapes of request messages, as the wire scan reads them: derived once from the descriptors."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from moegate.v1 import chat_pb2, pooling_pb2

VARINT, FIXED64, LENGTH, START_GROUP, END_GROUP, FIXED32 = range(6)
"""Wire types of protobuf."""


class Element(enum.IntEnum):
    """Kind of element that has a bound of its own. The names are those of `ElementLimitsConfig`, in
    lower case."""

    MESSAGES = 0
    PARTS = 1
    TOOLS = 2
    TOOL_CALLS = 3
    TOKEN_IDS = 4
    VALUES = 5
    SIGNATURES = 6
    TEXT_BYTES = 7
    UNKNOWN_FIELDS = 8
    INPUTS = 9


class Content(enum.IntEnum):
    """What a field holds on the wire."""

    NUMBER = 0
    MESSAGE = 1
    TEXT = 2
    OPAQUE = 3
    SCHEMA = 4
    ARGUMENTS = 5
    VARINTS = 6
    FIXED32S = 7
    FIXED64S = 8
    REGEX = 9
    GRAMMAR = 10


PACKED = frozenset({Content.VARINTS, Content.FIXED32S, Content.FIXED64S})
"""Many numbers in one field."""


class FieldShape:
    """One field with one wire type.

    Attributes:
        name: the field's name.
        content: what it holds.
        element: what its values count as; None: nothing.
        inner: shape of the message that it holds; None: it holds no message.
        is_text: whether it holds text that is no JSON.
        is_packed: whether one occurrence holds many values.
    """

    __slots__ = ("content", "element", "inner", "is_packed", "is_text", "name")

    def __init__(
        self,
        name: str,
        content: Content,
        element: Element | None,
        inner: MessageShape | None = None,
    ) -> None:
        self.name = name
        self.content = content
        self.element = element
        self.inner = inner
        self.is_text = content is Content.TEXT
        self.is_packed = content in PACKED


@dataclass(frozen=True, slots=True)
class MessageShape:
    """The fields of a message by tag (field number and wire type)."""

    fields: dict[int, FieldShape] = field(default_factory=dict)


_ELEMENTS = {
    chat_pb2.ChatInput.DESCRIPTOR.fields_by_name["messages"]: Element.MESSAGES,
    chat_pb2.ChatInput.DESCRIPTOR.fields_by_name["tools"]: Element.TOOLS,
    chat_pb2.ChatMessage.DESCRIPTOR.fields_by_name["parts"]: Element.PARTS,
    chat_pb2.ChatMessage.DESCRIPTOR.fields_by_name["tool_calls"]: Element.TOOL_CALLS,
    chat_pb2.ChatMessage.DESCRIPTOR.fields_by_name["signatures"]: Element.SIGNATURES,
    chat_pb2.ToolCall.DESCRIPTOR.fields_by_name["signatures"]: Element.SIGNATURES,
    chat_pb2.TokenInput.DESCRIPTOR.fields_by_name["token_ids"]: Element.TOKEN_IDS,
    pooling_pb2.TextInputs.DESCRIPTOR.fields_by_name["texts"]: Element.INPUTS,
    pooling_pb2.TokenInputs.DESCRIPTOR.fields_by_name["inputs"]: Element.INPUTS,
    pooling_pb2.ScoreRequest.DESCRIPTOR.fields_by_name["documents"]: Element.INPUTS,
}
"""Repeated fields with a bound of their own. All others count as `VALUES`."""
_BOUNDED_TEXTS = {
    chat_pb2.ToolDefinition.DESCRIPTOR.fields_by_name["parameters_json_schema"]: Content.SCHEMA,
    chat_pb2.JsonSchemaFormat.DESCRIPTOR.fields_by_name["schema_json"]: Content.SCHEMA,
    chat_pb2.ChatInput.DESCRIPTOR.fields_by_name["chat_template_kwargs_json"]: Content.SCHEMA,
    chat_pb2.ToolCall.DESCRIPTOR.fields_by_name["arguments_json"]: Content.ARGUMENTS,
    chat_pb2.ResponseFormat.DESCRIPTOR.fields_by_name["regex"]: Content.REGEX,
    chat_pb2.ResponseFormat.DESCRIPTOR.fields_by_name["grammar"]: Content.GRAMMAR,
}
"""Texts with a bound of their own: JSON, and what engines compile."""
_ADDRESSES = frozenset({chat_pb2.ImagePart.DESCRIPTOR.fields_by_name["url"]})
"""Texts that may hold an image."""
_FIXED32 = (
    FieldDescriptor.TYPE_FIXED32,
    FieldDescriptor.TYPE_SFIXED32,
    FieldDescriptor.TYPE_FLOAT,
)
_FIXED64 = (
    FieldDescriptor.TYPE_FIXED64,
    FieldDescriptor.TYPE_SFIXED64,
    FieldDescriptor.TYPE_DOUBLE,
)
_shapes: dict[str, MessageShape] = {}


def shape_of(message: type[Message]) -> MessageShape:
    """Returns the shape of a message type."""
    return _shape(message.DESCRIPTOR)  # type: ignore[arg-type]  # either kind of descriptor


def _shape(descriptor: Descriptor) -> MessageShape:
    """Types may refer to themselves, so a shape is known before it is complete."""
    shape = _shapes.get(descriptor.full_name)
    if shape is None:
        shape = _shapes[descriptor.full_name] = MessageShape()
        for proto_field in descriptor.fields:
            _add(shape, proto_field)
    return shape


def _add(shape: MessageShape, proto: FieldDescriptor) -> None:
    """Adds a field under each wire type that parsers accept for it."""
    element = _ELEMENTS.get(proto, Element.VALUES) if proto.is_repeated else None
    name, number = proto.name, proto.number << 3
    if proto.message_type is not None:
        inner = FieldShape(name, Content.MESSAGE, element, _shape(proto.message_type))
        shape.fields[number | LENGTH] = inner
    elif proto.type == FieldDescriptor.TYPE_BYTES or proto in _ADDRESSES:
        shape.fields[number | LENGTH] = FieldShape(name, Content.OPAQUE, element)
    elif proto.type == FieldDescriptor.TYPE_STRING:
        content = _BOUNDED_TEXTS.get(proto, Content.TEXT)
        shape.fields[number | LENGTH] = FieldShape(name, content, element)
    else:
        wire_type, packed = VARINT, Content.VARINTS
        if proto.type in _FIXED32:
            wire_type, packed = FIXED32, Content.FIXED32S
        elif proto.type in _FIXED64:
            wire_type, packed = FIXED64, Content.FIXED64S
        shape.fields[number | wire_type] = FieldShape(name, Content.NUMBER, element)
        if proto.is_repeated:
            shape.fields[number | LENGTH] = FieldShape(name, packed, element)
