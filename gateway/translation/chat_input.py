"""Checks the chat part of a request and converts it into domain values.

Violations are recorded with their field paths, so that the client receives up to `MAX_FAULTS` of
them at once. The work is divided into steps, because a chat may have thousands of messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from gateway.domain.generation import (
    MAX_ORIGIN_BYTES,
    MAX_SIGNATURE_BYTES,
    MAX_SIGNATURES,
    Chat,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Role,
    Signature,
    Tool,
    ToolCall,
    ToolMode,
)
from gateway.domain.image_data import DATA_URL, image_of_data_url, image_type
from gateway.domain.slices import Steps
from gateway.translation.argument_schema import NO_ARGUMENTS, object_schema
from gateway.translation.chat_options import (
    parse_constraint,
    parse_reasoning,
    parse_template_kwargs,
)
from moegate.v1 import chat_pb2

ROLES = {
    chat_pb2.ROLE_SYSTEM: Role.SYSTEM,
    chat_pb2.ROLE_USER: Role.USER,
    chat_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
    chat_pb2.ROLE_TOOL: Role.TOOL,
}
TOOL_MODES = {
    chat_pb2.TOOL_CHOICE_MODE_UNSPECIFIED: None,
    chat_pb2.TOOL_CHOICE_MODE_AUTO: ToolMode.AUTO,
    chat_pb2.TOOL_CHOICE_MODE_NONE: ToolMode.NONE,
    chat_pb2.TOOL_CHOICE_MODE_REQUIRED: ToolMode.REQUIRED,
}
_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


MAX_FAULTS = 20
"""Most violations that are collected. The check of a request ends with the next one."""
SHOWN_CHARACTERS = 80
"""Of a value in the description of a violation."""


class EnoughFaults(Exception):
    """A request has more than `MAX_FAULTS` violations."""


class Violations(list[tuple[str, str]]):
    """Violations of a request: pairs of field path and description with a fix."""

    def add(self, field: str, description: str) -> None:
        """Records a violation. Raises EnoughFaults if `MAX_FAULTS` are recorded already."""
        if len(self) >= MAX_FAULTS:
            raise EnoughFaults
        self.append((field, description))

    def check(self, good: bool, field: str, description: str) -> None:
        """Records a violation unless `good`."""
        if not good:
            self.add(field, description)


def parse_chat(
    proto: chat_pb2.ChatInput, violations: Violations, max_output_tokens: int | None = None
) -> Steps[Chat]:
    """Converts a chat. Invalid parts are recorded in `violations` and left out.
    `max_output_tokens`: of the request; None: it sets none. Raises EnoughFaults."""
    violations.check(len(proto.messages) > 0, "chat.messages", "empty: give at least one message")
    messages = []
    for i, message in enumerate(proto.messages):
        messages.append((yield from _parse_message(message, i, violations)))
    tools = []
    for i, tool in enumerate(proto.tools):
        tools.append(_parse_tool(tool, f"chat.tools[{i}]", violations))
        yield
    names = [tool.name for tool in tools]
    violations.check(
        len(set(names)) == len(names), "chat.tools", "two tools have one name: names must differ"
    )
    format_proto = proto.response_format
    json_schema = None
    if format_proto.WhichOneof("format") == "json_schema":
        json_schema = _parse_schema(format_proto.json_schema, violations)
    parallel = proto.parallel_tool_calls if proto.HasField("parallel_tool_calls") else None
    violations.check(
        parallel is None or bool(tools),
        "chat.parallel_tool_calls",
        "no tools to call: give chat.tools, or leave it out",
    )
    return Chat(
        messages=tuple(messages),
        tools=tuple(tools),
        tool_choice=_parse_tool_choice(proto.tool_choice, names, violations),
        json_object=format_proto.json_object,
        json_schema=json_schema,
        constraint=parse_constraint(format_proto, violations.add),
        parallel_tool_calls=parallel,
        reasoning=parse_reasoning(proto, max_output_tokens, violations.add),
        template_kwargs_json=parse_template_kwargs(proto.chat_template_kwargs_json, violations.add),
        adaptive_thinking=proto.adaptive_thinking,
    )


def _parse_message(
    proto: chat_pb2.ChatMessage, index: int, violations: Violations
) -> Steps[Message]:
    def fault(field: str, description: str) -> None:
        violations.add(f"chat.messages[{index}].{field}", description)

    role = ROLES.get(proto.role)
    if role is None:
        fault("role", f"{proto.role}: give ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT or ROLE_TOOL")
        role = Role.USER
    tool_calls = []
    for i, call in enumerate(proto.tool_calls):
        tool_calls.append(
            ToolCall(
                index=i,
                id=call.id,
                name=call.name,
                arguments_json=call.arguments_json,
                signatures=parse_signatures(call.signatures),
            )
        )
        yield
    if not proto.parts and not (tool_calls and role is Role.ASSISTANT):
        fault("parts", "empty: give a text part")
    if role is Role.TOOL and not proto.tool_call_id:
        fault("tool_call_id", "empty: name the call that this ROLE_TOOL message answers")
    if tool_calls and role is not Role.ASSISTANT:
        fault("tool_calls", "only ROLE_ASSISTANT messages hold tool calls")
    signatures = parse_signatures(proto.signatures)
    _check_signatures(signatures, tool_calls, f"chat.messages[{index}]", violations)
    if signatures and role is not Role.ASSISTANT:
        fault("signatures", "only ROLE_ASSISTANT messages hold signatures")
    parts: list[str | Image] = []
    for i, part in enumerate(proto.parts):
        if part.WhichOneof("part") == "text":
            parts.append(part.text)
        else:
            where = f"chat.messages[{index}].parts[{i}]"
            parts.append((yield from _parse_other(part, where, violations)))
        yield
    return Message(
        role=role,
        parts=tuple(parts),
        name=proto.name,
        tool_calls=tuple(tool_calls),
        tool_call_id=proto.tool_call_id,
        reasoning_text=proto.reasoning_text,
        signatures=signatures,
    )


def parse_signatures(protos: Iterable[chat_pb2.ReasoningSignature]) -> tuple[Signature, ...]:
    """Converts signatures."""
    return tuple(Signature(origin=proto.origin, data=proto.data) for proto in protos)


def _check_signatures(
    signatures: tuple[Signature, ...],
    calls: Sequence[ToolCall],
    path: str,
    violations: Violations,
) -> None:
    """Checks the signatures of a message and of its tool calls."""
    fields = [(f"{path}.signatures[{i}]", each) for i, each in enumerate(signatures)]
    for call in calls:
        where = f"{path}.tool_calls[{call.index}].signatures"
        fields += ((f"{where}[{i}]", each) for i, each in enumerate(call.signatures))
    if not fields:
        return
    if len(fields) > MAX_SIGNATURES:
        violations.add(f"{path}.signatures", f"{len(fields)}: at most {MAX_SIGNATURES}")
        return
    size = sum(len(each.data) for _, each in fields)
    violations.check(
        size <= MAX_SIGNATURE_BYTES,
        f"{path}.signatures",
        f"{size} bytes: at most {MAX_SIGNATURE_BYTES} in one message",
    )
    for field, each in fields:
        origin_bytes = len(each.origin.encode())
        violations.check(
            0 < origin_bytes <= MAX_ORIGIN_BYTES,
            f"{field}.origin",
            f"{origin_bytes} bytes: give back the origin that came with the answer",
        )
        violations.check(
            bool(each.data), f"{field}.data", "empty: give back the data that came with the answer"
        )


def _parse_other(
    proto: chat_pb2.ContentPart, path: str, violations: Violations
) -> Steps[str | Image]:
    """Converts a message part other than text."""
    if proto.WhichOneof("part") is None:
        violations.add(path, "empty: set text or image")
        return ""
    image, field = proto.image, f"{path}.image"
    try:
        match image.WhichOneof("source"):
            case "data":
                field = f"{path}.image.media_type"
                return Image(data=image.data, media_type=image_type(image.media_type))
            case "url" if image.url.startswith(DATA_URL):
                field = f"{path}.image.url"
                return (yield from image_of_data_url(image.url))
            case "url":
                violations.check(
                    image.url.startswith("https://"), f"{path}.image.url", "not an https address"
                )
                return Image(url=image.url)
            case _:
                violations.add(field, "empty: set data or url")
    except ValueError as error:
        violations.add(field, str(error))
    return Image()


def _parse_tool(proto: chat_pb2.ToolDefinition, path: str, violations: Violations) -> Tool:
    violations.check(
        _FUNCTION_NAME.match(proto.name) is not None,
        f"{path}.name",
        f"{proto.name[:SHOWN_CHARACTERS]!r}: give 1 to 64 letters, digits, underscores or dashes",
    )
    schema = proto.parameters_json_schema or NO_ARGUMENTS
    if _check_json_object(schema, f"{path}.parameters_json_schema", violations):
        schema = object_schema(schema)
    return Tool(
        name=proto.name,
        description=proto.description,
        parameters_json_schema=schema,
        strict=proto.strict,
    )


def _parse_tool_choice(
    proto: chat_pb2.ToolChoice, names: list[str], violations: Violations
) -> ToolMode | NamedTool | None:
    if proto.WhichOneof("choice") == "function_name":
        violations.check(
            proto.function_name in names,
            "chat.tool_choice.function_name",
            f"{proto.function_name[:SHOWN_CHARACTERS]!r} is none of chat.tools",
        )
        return NamedTool(name=proto.function_name)
    mode = TOOL_MODES.get(proto.mode)
    violations.check(
        bool(names) or mode in (None, ToolMode.NONE),
        "chat.tool_choice.mode",
        "no tools to choose from: give chat.tools, or leave it out",
    )
    return mode


def _parse_schema(proto: chat_pb2.JsonSchemaFormat, violations: Violations) -> JsonSchema:
    path = "chat.response_format.json_schema"
    violations.check(
        _FUNCTION_NAME.match(proto.name) is not None,
        f"{path}.name",
        f"{proto.name[:SHOWN_CHARACTERS]!r}: give 1 to 64 letters, digits, underscores or dashes",
    )
    _check_json_object(proto.schema_json, f"{path}.schema_json", violations)
    return JsonSchema(name=proto.name, schema_json=proto.schema_json, strict=proto.strict)


def _check_json_object(text: str, path: str, violations: Violations) -> bool:
    """Records a violation and returns False unless the text is a JSON object."""
    try:
        msgspec.json.decode(text, type=dict)
    except (msgspec.DecodeError, RecursionError) as error:
        violations.add(path, f"not a JSON object: {error}")
        return False
    return True
