"""Messages of Chat Completions, converted into those of the domain."""

from __future__ import annotations

import msgspec

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.generation import Image, Message, Role, ToolCall, call_arguments
from gateway.domain.slices import Steps
from gateway.doors.http.elements import ElementCount
from gateway.doors.http.errors import HttpError, invalid
from gateway.doors.http.images import image_of_url
from gateway.doors.openai.chat.body import Call, MessageBody, Part
from gateway.doors.openai.wire.reasoning_details import Thought, open_details

_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.TOOL,
    "function": Role.TOOL,
}
ESCAPE_BYTES = 6
"""Longest escape in a JSON text that begins with one backslash: `\\u0041`."""
SHORT_BYTES = 65_536
"""Arguments that are converted in one step."""
_TEXT_TYPES = frozenset({"text", "input_text", "output_text"})


def convert_messages(
    bodies: list[MessageBody], elements: ElementLimitsConfig
) -> Steps[tuple[Message, ...]]:
    """Raises HttpError (INVALID) that names the message and the field."""
    if not bodies:
        raise invalid("messages", "empty: give at least one message")
    count = ElementCount(elements)
    messages = []
    for i, body in enumerate(bodies):
        messages.append(count.add((yield from _message(body, f"messages[{i}]", count))))
        yield
    return tuple(messages)


def _message(body: MessageBody, field: str, count: ElementCount) -> Steps[Message]:
    role = _ROLES.get(body.role)
    if role is None:
        shown = f"{body.role[:40]!r}: give system, developer, user, assistant or tool"
        raise invalid(f"{field}.role", shown)
    thoughts: list[str] = []
    parts = yield from _parts(body, field, thoughts)
    kept = open_details(body.reasoning_details or ())
    calls: list[ToolCall] = []
    if role is Role.ASSISTANT:
        for i, call in enumerate(body.tool_calls or ()):
            calls.append((yield from _call(call, i, kept, count)))
        if body.refusal:
            parts += (body.refusal,)
    if role is Role.TOOL and not (body.tool_call_id or body.name):
        raise invalid(f"{field}.tool_call_id", "missing: name the call that this answers")
    if not parts and not calls:
        parts = ("",)
    reasoning = body.reasoning_content or body.reasoning or "".join(thoughts)
    return Message(
        role=role,
        parts=parts,
        name=(body.name or "") if role is not Role.TOOL else "",
        tool_calls=tuple(calls),
        tool_call_id=(body.tool_call_id or body.name or "") if role is Role.TOOL else "",
        reasoning_text=reasoning if role is Role.ASSISTANT else "",
        signatures=kept.signatures if role is Role.ASSISTANT else (),
    )


def _parts(body: MessageBody, field: str, thoughts: list[str]) -> Steps[tuple[str | Image, ...]]:
    """Texts and images of a message. Reasoning among them, as Mistral has it, is added to
    `thoughts`."""
    content = body.content
    if content is None:
        return ()
    if isinstance(content, str):
        return (content,)
    found: list[str | Image] = []
    for i, part in enumerate(content):
        if isinstance(part, str):
            found.append(part)
        elif part.type == "thinking":
            thoughts.append(_thinking(part))
        else:
            found.append((yield from _part(part, f"{field}.content[{i}]")))
    return tuple(found)


def _part(part: Part, field: str) -> Steps[str | Image]:
    if part.type in _TEXT_TYPES:
        if part.text is None:
            raise invalid(f"{field}.text", "missing: give a text")
        return part.text
    if part.type == "refusal":
        return part.refusal or ""
    if part.type in ("image_url", "input_image"):
        image = part.image_url
        if image is None:
            raise invalid(f"{field}.image_url", "missing: give an https address or a data URL")
        url = image if isinstance(image, str) else image.url
        return (yield from image_of_url(url, f"{field}.image_url"))
    raise _unknown_part(part.type, field)


def _unknown_part(kind: str, field: str) -> HttpError:
    return invalid(f"{field}.type", f"{kind[:40]!r} is not served here: give text or image_url")


def _thinking(part: Part) -> str:
    thinking = part.thinking
    if isinstance(thinking, str):
        return thinking
    return "".join(inner.text or "" for inner in thinking or ())


def _call(body: Call, index: int, kept: Thought, count: ElementCount) -> Steps[ToolCall]:
    name, arguments = "", "{}"
    if body.function is not None:
        name = body.function.name
        arguments = yield from _arguments(body.function.arguments, count)
    elif body.custom is not None:
        name = body.custom.name
        arguments = msgspec.json.encode({"input": body.custom.input}).decode()
    return ToolCall(
        index=index,
        id=body.id or f"call_{index}",
        name=name,
        arguments_json=arguments,
        signatures=kept.call_signatures.get(index, ()),
    )


def _arguments(raw: msgspec.Raw, count: ElementCount) -> Steps[str]:
    """Arguments as JSON text: those of the text, or the object that some clients send instead.
    Raises HttpError (INVALID) for too many, as far as that is known before they are decoded."""
    text = bytes(raw)
    is_text = text.startswith(b'"')
    if len(text) > SHORT_BYTES:
        yield
        escapes = text.count(b"\\") if is_text else 0
        yield
        count.check_arguments(len(text) - ESCAPE_BYTES * escapes)
    if not is_text:
        return text.decode() if text.startswith(b"{") else "{}"
    return call_arguments(msgspec.json.decode(text, type=str))
