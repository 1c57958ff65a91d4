"""Tools, the choice among them, and the form of the answer, as Chat Completions and Responses have
them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence

import msgspec

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.generation import JsonSchema, NamedTool, Tool, ToolMode
from gateway.doors.http.errors import HttpError, invalid
from gateway.doors.http.json_texts import arguments_schema, is_given, schema_text

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z")
_SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


class FunctionBody(msgspec.Struct, kw_only=True, gc=False):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None


def function_tool(body: FunctionBody, field: str, elements: ElementLimitsConfig) -> Tool:
    """Raises HttpError (INVALID). `field`: path for errors."""
    if _NAME.match(body.name) is None:
        fix = 'give 1 to 128 letters, digits or "_-"'
        raise invalid(f"{field}.name", f"{body.name[:80]!r}: {fix}")
    return Tool(
        name=body.name,
        description=body.description or "",
        parameters_json_schema=arguments_schema(body.parameters, f"{field}.parameters", elements),
        strict=bool(body.strict),
    )


def check_tools(tools: Sequence[Tool]) -> tuple[Tool, ...]:
    """Raises HttpError (INVALID) if two have one name."""
    names = [tool.name for tool in tools]
    if len(set(names)) != len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise invalid("tools", f"two tools have the name {twice!r}: names must differ")
    return tuple(tools)


class AllowedTool(msgspec.Struct, kw_only=True, gc=False):
    """A tool of `allowed_tools`; its name stands here, or below `function`."""

    name: str | None = None
    function: AllowedTool | None = None

    @property
    def tool_name(self) -> str:
        """The name; empty: none."""
        return self.name or (self.function.name if self.function is not None else None) or ""


class AllowedTools(msgspec.Struct, kw_only=True):
    """`allowed_tools` of a choice."""

    mode: str = "auto"
    tools: list[AllowedTool] = []


class ChoiceBody(msgspec.Struct, kw_only=True):
    """`tool_choice` as an object: of Chat Completions, or of Responses, which has the fields of
    `function` and `allowed_tools` beside `type`."""

    type: str = ""
    name: str | None = None
    function: AllowedTool | None = None
    allowed_tools: AllowedTools | None = None
    mode: str = "auto"
    tools: list[AllowedTool] | None = None


def tool_choice(
    body: str | ChoiceBody | None, tools: tuple[Tool, ...], skipped: Collection[str] = ()
) -> tuple[ToolMode | NamedTool | None, tuple[Tool, ...]]:
    """Returns the choice and the tools that are left for it. `skipped`: types of tools that the
    request has and that nobody here honours; a choice among them is no choice.

    Raises HttpError (INVALID).
    """
    if body is None:
        return None, tools
    if isinstance(body, str):
        return _mode(body, tools, skipped), tools
    if body.type == "allowed_tools":
        allowed = body.allowed_tools
        named = (allowed.tools if allowed is not None else body.tools) or []
        mode = allowed.mode if allowed is not None else body.mode
        names = {each.tool_name for each in named}
        left = tuple(tool for tool in tools if tool.name in names)
        return _mode(mode, left, skipped), left
    if body.type != "function":
        if body.type in skipped:
            return None, tools
        raise _unknown(body.type)
    name = body.name or (body.function.tool_name if body.function is not None else "")
    if all(tool.name != name for tool in tools):
        raise invalid("tool_choice", f"{name[:80]!r} is none of tools")
    return NamedTool(name=name), tools


def _mode(text: str, tools: tuple[Tool, ...], skipped: Collection[str]) -> ToolMode | None:
    try:
        mode = ToolMode(text)
    except ValueError:
        raise _unknown(text) from None
    if not tools:
        if mode is ToolMode.REQUIRED and not skipped:
            raise invalid("tool_choice", "required without tools: give some, or leave it out")
        return None
    return mode


def _unknown(text: str) -> HttpError:
    return invalid("tool_choice", f"{text[:80]!r}: give none, auto, required or a function")


class SchemaBody(msgspec.Struct, kw_only=True):
    """A JSON schema of the answer."""

    name: str = "answer"
    schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None


def answer_schema(body: SchemaBody, field: str, elements: ElementLimitsConfig) -> JsonSchema | None:
    """The schema; None: it is absent, and any JSON object will do. Raises HttpError (INVALID)."""
    if not is_given(body.schema):
        return None
    if _SCHEMA_NAME.match(body.name) is None:
        fix = "give 1 to 64 letters, digits, underscores or dashes"
        raise invalid(f"{field}.name", f"{body.name[:80]!r}: {fix}")
    return JsonSchema(
        name=body.name,
        schema_json=schema_text(body.schema, f"{field}.schema", elements),
        strict=bool(body.strict),
    )
