"""What a chat consists of: messages, their parts, tools and tool calls."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from moegate.v1 import chat_pb2

Role = Literal["system", "user", "assistant", "tool"]
_ROLES: Mapping[str, chat_pb2.Role] = {
    "system": chat_pb2.ROLE_SYSTEM,
    "user": chat_pb2.ROLE_USER,
    "assistant": chat_pb2.ROLE_ASSISTANT,
    "tool": chat_pb2.ROLE_TOOL,
}


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: its bytes with their media type, or the https address of one.

    `media_type`: of `data`, such as "image/png".
    """

    data: bytes = b""
    media_type: str = ""
    url: str = ""

    def __post_init__(self) -> None:
        if bool(self.data) == bool(self.url):
            raise ValueError("Image: give either data with its media_type, or url")


@dataclass(frozen=True, slots=True)
class Signature:
    """Opaque data by which a server recognises its own reasoning. `origin`: the server."""

    origin: str
    data: bytes


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for. `arguments_json`: the arguments, as JSON text."""

    id: str
    name: str
    arguments_json: str
    signatures: tuple[Signature, ...] = ()

    @property
    def arguments(self) -> Any:
        """The arguments, parsed. Raises ValueError: the model wrote no JSON."""
        return json.loads(self.arguments_json or "{}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    Attributes:
        name: letters, digits, underscore and dash, at most 64 characters.
        description: what it does, for the model.
        parameters: JSON Schema of its arguments.
        strict: the engine must hold the arguments to the schema.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat. `Answer.message` makes the assistant's, `tool_result` that of a tool.

    Attributes:
        content: a text, or texts and pictures in their order.
        tool_calls: calls that the assistant asked for in this turn.
        tool_call_id: for a tool's result, the call that it answers.
        reasoning: reasoning of an earlier assistant's turn.
        signatures: of that reasoning.
    """

    role: Role
    content: str | Sequence[str | Image] = ""
    tool_calls: Sequence[ToolCall] = ()
    tool_call_id: str = ""
    reasoning: str = ""
    signatures: Sequence[Signature] = ()


def tool_result(call: ToolCall, content: str | Sequence[str | Image]) -> Message:
    """The message that answers a tool call."""
    return Message("tool", content, tool_call_id=call.id)


Chat: TypeAlias = str | Message | Sequence[Message]
"""A chat: one text of the user, one message, or all messages so far."""


def chat_messages(chat: Chat) -> list[chat_pb2.ChatMessage]:
    """The messages as protos. Raises ValueError or TypeError, which name the fault."""
    if isinstance(chat, str):
        chat = (Message("user", chat),)
    elif isinstance(chat, Message):
        chat = (chat,)
    return [_message(number, message) for number, message in enumerate(chat)]


def _message(number: int, message: Message) -> chat_pb2.ChatMessage:
    if not isinstance(message, Message):
        raise TypeError(f"messages[{number}]: a Message is needed, not {type(message).__name__}")
    if message.role not in _ROLES:
        raise ValueError(f"messages[{number}].role: {message.role!r} is none of {list(_ROLES)}")
    parts = [message.content] if isinstance(message.content, str) else message.content
    return chat_pb2.ChatMessage(
        role=_ROLES[message.role],
        parts=[_part(part) for part in parts if part != ""],
        tool_calls=[_tool_call(call) for call in message.tool_calls],
        tool_call_id=message.tool_call_id,
        reasoning_text=message.reasoning,
        signatures=[_signature(one) for one in message.signatures],
    )


def _part(part: str | Image) -> chat_pb2.ContentPart:
    if isinstance(part, str):
        return chat_pb2.ContentPart(text=part)
    if part.url:
        return chat_pb2.ContentPart(image=chat_pb2.ImagePart(url=part.url))
    image = chat_pb2.ImagePart(data=part.data, media_type=part.media_type)
    return chat_pb2.ContentPart(image=image)


def _tool_call(call: ToolCall) -> chat_pb2.ToolCall:
    return chat_pb2.ToolCall(
        id=call.id,
        name=call.name,
        arguments_json=call.arguments_json,
        signatures=[_signature(one) for one in call.signatures],
    )


def _signature(signature: Signature) -> chat_pb2.ReasoningSignature:
    return chat_pb2.ReasoningSignature(origin=signature.origin, data=signature.data)


def tool_definition(tool: Tool) -> chat_pb2.ToolDefinition:
    """The tool as a proto."""
    return chat_pb2.ToolDefinition(
        name=tool.name,
        description=tool.description,
        parameters_json_schema="" if tool.parameters is None else json.dumps(tool.parameters),
        strict=tool.strict,
    )
