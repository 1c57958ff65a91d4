"""Turns of the Messages API as messages of the domain.

A turn of the user may hold results of tools, which become messages of their own. Turns of one role
in a row are joined, because many chat templates insist on turns that alternate. Thinking blocks
give a turn of the assistant its reasoning and signatures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.generation import Image, Message, Role, Signature, ToolCall, call_arguments
from gateway.domain.image_data import image_of_base64
from gateway.domain.slices import Steps
from gateway.doors.anthropic import wire
from gateway.doors.anthropic.thinking_signatures import signatures_of
from gateway.doors.http.elements import ElementCount
from gateway.doors.http.errors import HttpError

Fault = Callable[[str, str], None]
"""Records a fault: path of the field, description with a fix."""
Decoded = TypeVar("Decoded")
Result = TypeVar("Result")
Part = str | Image

_TEXT_OR_LIST: msgspec.json.Decoder[str | list[msgspec.Raw]] = msgspec.json.Decoder(
    str | list[msgspec.Raw]
)
_TEXT_OR_TEXTS: msgspec.json.Decoder[str | list[wire.TextBlock]] = msgspec.json.Decoder(
    str | list[wire.TextBlock]
)
_ANY_BLOCK = msgspec.json.Decoder(wire.AnyBlock)
_BLOCK: msgspec.json.Decoder[wire.Block] = msgspec.json.Decoder(wire.Block)
_ROLES = {"user": Role.USER, "assistant": Role.ASSISTANT, "system": Role.SYSTEM}
_BILLING_MARK = "x-anthropic-billing-header:"
"""Begins a system text that some clients send for the provider's billing. It differs between
conversations at its very start, so that no prefix would be cached. It is not for the model."""
_ERROR = "Error: "
"""Precedes the result of a tool that failed, since other APIs have no field for it."""


def decode(
    raw: msgspec.Raw, decoder: msgspec.json.Decoder[Decoded], path: str, fault: Fault
) -> Decoded | None:
    """Decodes a part of the body. None: it does not fit, and the fault is recorded."""
    try:
        return decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message, _, place = str(error).partition(" - at `$")
        fault(path + place.rstrip("`"), message[:200])
        return None


def told(convert: Callable[[], Result], fault: Fault) -> Result | None:
    """The result of a conversion. None: it names a field at fault, which is recorded."""
    try:
        return convert()
    except HttpError as error:
        if not error.param:
            raise
        fault(error.param, error.message.removeprefix(f"{error.param}: "))
        return None


def messages_of(
    body: wire.MessagesBody, limits: ElementLimitsConfig, fault: Fault
) -> Steps[tuple[Message, ...]]:
    """All messages of a request, the system's first. Raises HttpError for more elements than
    `limits` allows."""
    found: list[Message] = []
    count = ElementCount(limits)
    system = yield from _texts(body.system, "system", fault)
    system = [text for text in system if not text.startswith(_BILLING_MARK)]
    if any(system):
        found.append(Message(role=Role.SYSTEM, parts=tuple(system)))
    for number, turn in enumerate(body.messages):
        path = f"messages[{number}]"
        role = _ROLES.get(turn.role)
        if role is None:
            fault(f"{path}.role", f"{turn.role[:80]!r}: give user, assistant or system")
            continue
        blocks = yield from _blocks(turn.content, f"{path}.content", fault)
        if role is Role.ASSISTANT:
            for _, block in blocks:
                if isinstance(block, wire.ToolUseBlock):
                    count.check_arguments(memoryview(block.input).nbytes)
                    yield
            turns = [_assistant([block for _, block in blocks])]
        else:
            turns = yield from _others(role, blocks, fault)
        for message in turns:
            _append(found, count.add(message))
        yield
    return tuple(found)


def _append(messages: list[Message], message: Message) -> None:
    """Adds a message, or joins it with the one before."""
    last = messages[-1] if messages else None
    if last is None or last.role is not message.role or message.role is Role.TOOL:
        messages.append(message)
        return
    messages[-1] = Message(
        role=last.role,
        parts=last.parts + message.parts,
        tool_calls=last.tool_calls
        + tuple(
            msgspec.structs.replace(call, index=call.index + len(last.tool_calls))
            for call in message.tool_calls
        ),
        reasoning_text=last.reasoning_text + message.reasoning_text,
        signatures=last.signatures + message.signatures,
    )


def _texts(raw: msgspec.Raw, path: str, fault: Fault) -> Steps[list[str]]:
    """Texts of a field that is a text or blocks of text."""
    if raw == wire.NOTHING:
        return []
    blocks = yield from _blocks(raw, path, fault)
    return [block.text for _, block in blocks if isinstance(block, wire.TextBlock)]


def _blocks(raw: msgspec.Raw, path: str, fault: Fault) -> Steps[list[tuple[str, wire.Block]]]:
    """The blocks of a content, each with its path. A text is one block. Blocks of unknown types are
    left out."""
    content = decode(raw, _TEXT_OR_LIST, path, fault)
    if content is None:
        return []
    if isinstance(content, str):
        return [(path, wire.TextBlock(text=content))]
    found: list[tuple[str, wire.Block]] = []
    for number, each in enumerate(content):
        where = f"{path}[{number}]"
        kind = decode(each, _ANY_BLOCK, where, fault)
        if kind is not None and kind.type in wire.KNOWN_TYPES:
            block = decode(each, _BLOCK, where, fault)
            if block is not None:
                found.append((where, block))
        yield
    return found


def _assistant(blocks: list[wire.Block]) -> Message:
    """A turn of the model."""
    parts: list[Part] = []
    calls: list[ToolCall] = []
    reasoning: list[str] = []
    leading: list[Signature] = []
    inner: list[Signature] = []
    for block in blocks:
        match block:
            case wire.TextBlock():
                if block.text:
                    parts.append(block.text)
            case wire.ThinkingBlock() | wire.RedactedThinkingBlock():
                text = block.signature if isinstance(block, wire.ThinkingBlock) else block.data
                (inner if parts or calls else leading).extend(signatures_of(text or ""))
                if isinstance(block, wire.ThinkingBlock):
                    reasoning.append(block.thinking)
            case wire.ToolUseBlock():
                call = ToolCall(
                    index=len(calls),
                    id=block.id,
                    name=block.name,
                    arguments_json=call_arguments(bytes(block.input).decode()),
                    signatures=tuple(inner),
                )
                calls.append(call)
                inner = []
            case _:
                pass  # nothing else is the model's
    return Message(
        role=Role.ASSISTANT,
        parts=tuple(parts) if parts or calls else ("",),
        tool_calls=tuple(calls),
        reasoning_text="\n".join(reasoning),
        signatures=tuple(leading + inner),
    )


def _others(role: Role, blocks: list[tuple[str, wire.Block]], fault: Fault) -> Steps[list[Message]]:
    """A turn of the user or the system: results of tools and what else it holds, in order."""
    found: list[Message] = []
    parts: list[Part] = []
    for path, block in blocks:
        if isinstance(block, wire.ToolResultBlock):
            if parts:
                found.append(Message(role=role, parts=tuple(parts)))
                parts = []
            found.append((yield from _tool_result(block, path, fault)))
        else:
            parts += yield from _parts(block, path, fault)
    if parts or not found:
        found.append(Message(role=role, parts=tuple(parts) or ("",)))
    return found


def _tool_result(block: wire.ToolResultBlock, path: str, fault: Fault) -> Steps[Message]:
    parts: list[Part] = []
    if block.content != wire.NOTHING:
        for where, inner in (yield from _blocks(block.content, f"{path}.content", fault)):
            parts += yield from _parts(inner, where, fault)
    if block.is_error:
        first = parts[0] if parts and isinstance(parts[0], str) else ""
        if not first.lower().startswith("error"):
            parts.insert(0, _ERROR)
    return Message(role=Role.TOOL, parts=tuple(parts) or ("",), tool_call_id=block.tool_use_id)


def _parts(block: wire.Block, path: str, fault: Fault) -> Steps[list[Part]]:
    """What a block holds for the model, as texts and images."""
    match block:
        case wire.TextBlock():
            return [block.text]
        case wire.ImageBlock(source=source):
            return (yield from _image(source, f"{path}.source", fault))
        case wire.SearchResultBlock():
            texts = "\n".join(each.text for each in block.content)
            return [f"{block.title}\n{block.source}\n{texts}"]
        case wire.DocumentBlock(source=source):
            return _document(block.title, source, f"{path}.source", fault)
        case _:
            return []  # calls and thinking are the model's


def _image(
    source: wire.Base64Source | wire.UrlSource, path: str, fault: Fault
) -> Steps[list[Part]]:
    if isinstance(source, wire.UrlSource):
        if not source.url.startswith("https://"):
            fault(f"{path}.url", "not an https address")
        return [Image(url=source.url)]
    try:
        return [(yield from image_of_base64(source.data, source.media_type))]
    except ValueError as error:
        fault(path, str(error))
        return []


def _document(
    title: str | None,
    source: wire.TextSource | wire.ContentSource | wire.Base64Source | wire.UrlSource,
    path: str,
    fault: Fault,
) -> list[Part]:
    heading = [f"{title}\n"] if title else []
    match source:
        case wire.TextSource():
            return [*heading, source.data]
        case wire.ContentSource():
            blocks = decode(source.content, _TEXT_OR_TEXTS, f"{path}.content", fault)
            if isinstance(blocks, str):
                return [*heading, blocks]
            return [*heading, *(each.text for each in blocks or ())]
        case _:
            fault(path, "no model here reads such documents: give their text")
            return []
