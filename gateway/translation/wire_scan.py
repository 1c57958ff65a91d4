"""Counts the elements of a request on the wire, before a parser makes objects of them.

The scan walks the protobuf wire format and stops at the first bound that is exceeded. Its work is
therefore bounded by the bounds, not by the size of the message. It accepts every message that the
parser accepts and that keeps the bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.slices import Steps
from gateway.translation.json_depth import deeper_than
from gateway.translation.wire_shapes import (
    END_GROUP,
    FIXED32,
    FIXED64,
    LENGTH,
    START_GROUP,
    VARINT,
    Content,
    Element,
    FieldShape,
    MessageShape,
)

STEP_FIELDS = 512
"""Fields between two yields, about half a millisecond."""
STEP_BYTES = 262_144
"""Bytes of packed numbers between two yields."""
_MAX_VARINT_BYTES = 10
_WIDTHS = {FIXED64: 8, FIXED32: 4}
_CONTINUED = bytes(range(128, 256))
"""Bytes of a varint other than its last."""
_UNITS = {
    Element.MESSAGES: "messages",
    Element.PARTS: "content parts",
    Element.TOOLS: "tools",
    Element.TOOL_CALLS: "tool calls",
    Element.TOKEN_IDS: "token ids",
    Element.VALUES: "values of repeated fields",
    Element.SIGNATURES: "signatures",
    Element.TEXT_BYTES: "bytes of text",
    Element.UNKNOWN_FIELDS: "unknown fields",
    Element.INPUTS: "inputs",
}
_INDEXED = {"messages": Element.MESSAGES, "tools": Element.TOOLS}


class NotWireFormat(Exception):
    """The bytes are no protobuf message."""


_NAMES = tuple(element.name.lower() for element in Element)
_BOUNDS: Callable[[ElementLimitsConfig], tuple[int, ...]] = attrgetter(*_NAMES)
"""The bounds in the order of `Element`. Names of enum members are slow to read, twice a message."""


class BoundExceeded(Exception):
    """A request holds more than a bound allows.

    Attributes:
        field: path of the field at which the bound was exceeded; empty: the whole message.
        description: the bound and the fix.
        limit: name of the bound in `ElementLimitsConfig`.
    """

    def __init__(self, field: str, description: str, limit: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description
        self.limit = limit


def scan(data: bytes, shape: MessageShape, limits: ElementLimitsConfig) -> Steps[dict[str, int]]:
    """Returns the number of elements by kind, and of all `fields`. The keys are the names of the
    limits. Raises BoundExceeded or NotWireFormat."""
    walk = _Scan(data, limits)
    yield from walk.message(shape)
    return walk.counts()


class _Scan:
    """One walk over a message. `_left`: what each bound still allows."""

    __slots__ = ("_data", "_fields_left", "_left", "_limits", "_names")

    def __init__(self, data: bytes, limits: ElementLimitsConfig) -> None:
        self._data = data
        self._limits = limits
        self._left: list[int] = [*_BOUNDS(limits)]
        self._fields_left = limits.fields
        self._names: list[str] = []

    def counts(self) -> dict[str, int]:
        """Returns the elements that were counted."""
        bounds = _BOUNDS(self._limits)
        counts = {
            name: bound - left for name, bound, left in zip(_NAMES, bounds, self._left, strict=True)
        }
        return counts | {"fields": self._limits.fields - self._fields_left}

    def message(self, shape: MessageShape) -> Steps[None]:
        """Walks the whole message. Messages inside it are walked with a stack, because a generator
        for each would take most of the time."""
        data, names, left = self._data, self._names, self._left
        position, end = 0, len(data)
        fields = shape.fields
        outer: list[tuple[dict[int, FieldShape], int]] = []
        while True:
            if position == end:
                if not outer:
                    self._check_fields()
                    return
                fields, end = outer.pop()
                names.pop()
                continue
            self._fields_left -= 1
            if self._fields_left % STEP_FIELDS == 0:
                self._check_fields()
                yield
            tag = data[position]
            position += 1
            if tag > 127:
                tag, position = self._varint(position - 1, end)
            field = fields.get(tag)
            if field is None:
                position = yield from self._unknown(tag, position, end)
                continue
            element = field.element
            wire_type = tag & 7
            if wire_type != LENGTH:
                if element is not None:
                    self._count(element, 1, field.name)
                position = self._number(wire_type, position, end)
                continue
            if position < end and data[position] < 128:
                after = position + 1 + data[position]
                position += 1
                if after > end:
                    raise NotWireFormat
            else:
                size, position = self._size(position, end)
                after = position + size
            if element is not None and not field.is_packed:
                left[element] -= 1
                if left[element] < 0:
                    self._count(element, 0, field.name)
            if field.inner is not None:
                if position < after:
                    outer.append((fields, end))
                    names.append(field.name)
                    self._check_nesting(len(outer))
                    fields, end = field.inner.fields, after
                    continue
            elif field.is_text:
                left[Element.TEXT_BYTES] -= after - position
                if left[Element.TEXT_BYTES] < 0:
                    self._count(Element.TEXT_BYTES, 0, field.name)
            else:
                yield from self._long(field, position, after)
            position = after

    def _long(self, field: FieldShape, start: int, end: int) -> Steps[None]:
        """Examines packed numbers, JSON texts and what engines compile."""
        size = end - start
        match field.content:
            case Content.VARINTS:
                assert field.element is not None
                for first in range(start, end, STEP_BYTES):
                    piece = self._data[first : min(end, first + STEP_BYTES)]
                    self._count(field.element, len(piece.translate(None, _CONTINUED)), field.name)
                    yield
            case Content.FIXED32S | Content.FIXED64S:
                assert field.element is not None
                width = 4 if field.content is Content.FIXED32S else 8
                self._count(field.element, size // width, field.name)
            case Content.SCHEMA | Content.ARGUMENTS | Content.REGEX | Content.GRAMMAR:
                limit = f"{field.content.name.lower()}_bytes"
                most: int = getattr(self._limits, limit)
                if size > most:
                    raise self._exceeded(limit, f"{size} bytes: at most {most}", field.name)
                self._count(Element.TEXT_BYTES, size, field.name)
                if field.content in (Content.REGEX, Content.GRAMMAR):
                    return
                depth = self._limits.json_depth
                if (yield from deeper_than(self._data[start:end], depth)):
                    description = f"JSON nested deeper than {depth}"
                    raise self._exceeded("json_depth", description, field.name)
            case _:
                pass  # only the size of the whole message bounds images and signatures

    def _unknown(self, tag: int, position: int, end: int) -> Steps[int]:
        """Skips a field that the shape does not have, a group with all that it holds. Returns the
        position behind it."""
        open_groups: list[int] = []
        while True:
            wire_type, number = tag & 7, tag >> 3
            if wire_type != END_GROUP:
                self._count(Element.UNKNOWN_FIELDS, 1)
            if not number:
                raise NotWireFormat
            if wire_type == START_GROUP:
                open_groups.append(number)
                self._check_nesting(len(open_groups))
            elif wire_type == END_GROUP:
                if not open_groups or open_groups.pop() != number:
                    raise NotWireFormat
            elif wire_type == LENGTH:
                size, position = self._size(position, end)
                position += size
            else:
                position = self._number(wire_type, position, end)
            if not open_groups:
                return position
            self._fields_left -= 1
            if self._fields_left % STEP_FIELDS == 0:
                self._check_fields()
                yield
            tag, position = self._varint(position, end)

    def _number(self, wire_type: int, position: int, end: int) -> int:
        """Returns the position behind a number."""
        if wire_type == VARINT:
            return self._varint(position, end)[1]
        if wire_type not in _WIDTHS:
            raise NotWireFormat
        position += _WIDTHS[wire_type]
        if position > end:
            raise NotWireFormat
        return position

    def _size(self, position: int, end: int) -> tuple[int, int]:
        """Returns the size of a field with one, and the position behind the size."""
        size, position = self._varint(position, end)
        if size > end - position:
            raise NotWireFormat
        return size, position

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """Returns the number at a position, and the position behind it."""
        value = shift = 0
        for at in range(position, min(end, position + _MAX_VARINT_BYTES)):
            byte = self._data[at]
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at + 1
            shift += 7
        raise NotWireFormat

    def _check_fields(self) -> None:
        if self._fields_left < 0:
            most = self._limits.fields
            raise self._exceeded("fields", f"more than {most} fields in all: send fewer")

    def _check_nesting(self, depth: int) -> None:
        if depth > self._limits.nesting:
            raise self._exceeded("nesting", f"nested deeper than {self._limits.nesting}")

    def _count(self, element: Element, number: int, name: str = "") -> None:
        """Counts elements. Raises BoundExceeded."""
        self._left[element] -= number
        if self._left[element] < 0:
            limit = element.name.lower()
            most: int = getattr(self._limits, limit)
            raise self._exceeded(limit, f"more than {most} {_UNITS[element]}: send fewer", name)

    def _exceeded(self, limit: str, description: str, name: str = "") -> BoundExceeded:
        outer = [self._indexed(inner) for inner in self._names]
        path = ".".join([*outer, name] if name else outer)
        fix = f"{description} (limits.elements.{limit} of the gateway)"
        return BoundExceeded(path, fix, limit)

    def _indexed(self, name: str) -> str:
        """Adds the index to a message or tool of the chat."""
        element = _INDEXED.get(name)
        if element is None:
            return name
        most: int = getattr(self._limits, name)
        return f"{name}[{most - self._left[element] - 1}]"
