"""Items of a Responses input, converted into messages of the domain.

Reasoning, text and calls of one turn are items of their own there, and one message here.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.generation import Image, Message, Role, ToolCall, call_arguments
from gateway.domain.slices import Steps
from gateway.doors.http.elements import ElementCount
from gateway.doors.http.errors import invalid
from gateway.doors.http.images import image_of_url
from gateway.doors.openai.responses.body import Item, Part
from gateway.doors.openai.wire.reasoning_details import Thought, open_thought

_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
}
_TEXT_TYPES = frozenset({"input_text", "output_text", "text", "summary_text", "reasoning_text"})
_CALLS = frozenset({"function_call", "custom_tool_call"})
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})


def convert_items(
    given: str | list[Item], before: tuple[Message, ...], elements: ElementLimitsConfig
) -> Steps[tuple[Message, ...]]:
    """Returns the messages. `before`: those of the previous response. Raises HttpError (INVALID)
    that names the item and the field."""
    count = ElementCount(elements)
    messages = [count.add(message) for message in before]
    if isinstance(given, str):
        return (*messages, count.add(Message(role=Role.USER, parts=(given,))))
    turn = _Turn()
    for i, item in enumerate(given):
        field = f"input[{i}]"
        if item.type == "reasoning":
            thought = _thought(item)
            # Signatures without text belong to the call that follows, in the same turn.
            messages += map(count.add, turn.ended(turn.has_output and bool(thought.text)))
            turn.think(thought)
        elif item.type in _CALLS:
            turn.call(item, field)
        elif item.type == "message" and item.role == "assistant":
            messages += map(count.add, turn.ended(bool(turn.calls)))
            turn.parts += yield from _parts(item.content, f"{field}.content")
        elif item.type == "message":
            messages += map(count.add, turn.ended())
            messages.append(count.add((yield from _message(item, field))))
        elif item.type in _OUTPUTS:
            messages += map(count.add, turn.ended())
            messages.append(count.add((yield from _output(item, field))))
        # Other items are those of servers' tools, which have run elsewhere.
        yield
    messages += map(count.add, turn.ended())
    if not messages:
        raise invalid("input", "no message: give a text or at least one item")
    return tuple(messages)


class _Turn:
    """The turn of the assistant that is being read."""

    def __init__(self) -> None:
        self.parts: list[str | Image] = []
        self.calls: list[ToolCall] = []
        self.thought = Thought()

    @property
    def has_output(self) -> bool:
        """Whether something follows the reasoning."""
        return bool(self.parts or self.calls)

    def think(self, found: Thought) -> None:
        """Adds reasoning."""
        self.thought = Thought(
            text=self.thought.text + found.text,
            signatures=self.thought.signatures + found.signatures,
            call_signatures=self.thought.call_signatures | found.call_signatures,
        )

    def call(self, item: Item, field: str) -> None:
        """Adds a tool call."""
        if not item.call_id or not item.name:
            raise invalid(f"{field}.call_id", "a call has call_id and name: give both")
        arguments = call_arguments(item.arguments or "")
        if item.type == "custom_tool_call":
            arguments = msgspec.json.encode({"input": item.input or ""}).decode()
        index = len(self.calls)
        self.calls.append(
            ToolCall(
                index=index,
                id=item.call_id,
                name=item.name,
                arguments_json=arguments,
                signatures=self.thought.call_signatures.get(index, ()),
            )
        )

    def ended(self, ends: bool = True) -> tuple[Message, ...]:
        """The message of the turn, after which the next one begins; nothing if it goes on, or has
        not begun."""
        if not ends or not (self.has_output or self.thought.text):
            return ()
        message = Message(
            role=Role.ASSISTANT,
            parts=tuple(self.parts) or (() if self.calls else ("",)),
            tool_calls=tuple(self.calls),
            reasoning_text=self.thought.text,
            signatures=self.thought.signatures,
        )
        self.parts, self.calls, self.thought = [], [], Thought()
        return (message,)


def _thought(item: Item) -> Thought:
    """The reasoning of an item. What was sealed counts more than what clients may shorten."""
    found = open_thought(item.encrypted_content)
    if found.text:
        return found
    content = item.content if isinstance(item.content, list) else ()
    return msgspec.structs.replace(found, text=_text(content) or _text(item.summary or ()))


def _message(item: Item, field: str) -> Steps[Message]:
    role = _ROLES.get(item.role or "")
    if role is None:
        shown = f"{(item.role or '')[:40]!r}: give user, assistant, system or developer"
        raise invalid(f"{field}.role", shown)
    parts = yield from _parts(item.content, f"{field}.content")
    return Message(role=role, parts=parts or ("",))


def _output(item: Item, field: str) -> Steps[Message]:
    if not item.call_id:
        raise invalid(f"{field}.call_id", "missing: name the call that this answers")
    parts = (yield from _parts(item.output, f"{field}.output")) or ("",)
    return Message(role=Role.TOOL, parts=parts, tool_call_id=item.call_id)


def _parts(content: str | list[Part] | None, field: str) -> Steps[tuple[str | Image, ...]]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (content,)
    found = []
    for i, part in enumerate(content):
        found.append((yield from _part(part, f"{field}[{i}]")))
    return tuple(found)


def _part(part: Part, field: str) -> Steps[str | Image]:
    if part.type in _TEXT_TYPES:
        return part.text or ""
    if part.type == "refusal":
        return part.refusal or ""
    if part.type == "input_image":
        if part.image_url is None:
            raise invalid(f"{field}.image_url", "missing: give an https address or a data URL")
        return (yield from image_of_url(part.image_url, f"{field}.image_url"))
    shown = f"{part.type[:40]!r} is not served here: give input_text or input_image"
    raise invalid(f"{field}.type", shown)


def _text(parts: Iterable[Part]) -> str:
    return "\n\n".join(part.text for part in parts if part.text)
