"""The body of /v1/messages as a chat of the domain, with its sampling and session."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import msgspec

from gateway.config.limits import ElementLimitsConfig
from gateway.domain.generation import (
    Chat,
    JsonSchema,
    NamedTool,
    Reasoning,
    ReasoningEffort,
    Sampling,
    Tool,
    ToolMode,
)
from gateway.domain.request_bounds import MAX_STOP_BYTES
from gateway.domain.slices import Steps
from gateway.doors.anthropic import wire
from gateway.doors.anthropic.content import Fault, messages_of, told
from gateway.doors.http.elements import too_many
from gateway.doors.http.json_texts import arguments_schema, schema_text
from gateway.doors.http.terms import is_session_id

_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
_CLIENT_TOOLS = frozenset({None, "custom", "function"})
"""Types of tools that the client runs. Others run at the provider's servers, or have a schema that
only its models know. They are left out: a client expects that of a server that lacks them."""
_EFFORTS = {
    "minimal": ReasoningEffort.MINIMAL,
    "low": ReasoningEffort.LOW,
    "medium": ReasoningEffort.MEDIUM,
    "high": ReasoningEffort.HIGH,
    "xhigh": ReasoningEffort.XHIGH,
    "max": ReasoningEffort.MAX,
}
_MAX_STOPS = 4


def chat_of(body: wire.MessagesBody, limits: ElementLimitsConfig, fault: Fault) -> Steps[Chat]:
    """Converts messages, tools and options. Faults are recorded with the paths of their fields.
    Raises HttpError for more elements than `limits` allows."""
    messages = yield from messages_of(body, limits, fault)
    if not body.messages:
        fault("messages", "empty: give at least one message")
    tools: list[Tool] = []
    if len(body.tools or ()) > limits.tools:
        raise too_many("tools", limits.tools)
    for number, tool in enumerate(body.tools or ()):
        if tool.type in _CLIENT_TOOLS:
            tools.append(_tool(tool, f"tools[{number}]", limits, fault))
        yield
    names = {tool.name for tool in tools}
    if len(names) < len(tools):
        fault("tools", "two tools have one name: names must differ")
    choice = body.tool_choice
    parallel = None
    if choice is not None and choice.disable_parallel_tool_use and tools:
        parallel = False
    return Chat(
        messages=messages,
        tools=tuple(tools),
        tool_choice=_tool_choice(choice, names, fault),
        json_schema=_json_schema(body, limits, fault),
        parallel_tool_calls=parallel,
        reasoning=_reasoning(body, fault),
        adaptive_thinking=body.thinking is not None and body.thinking.type == "adaptive",
    )


def sampling_of(body: wire.MessagesBody, fault: Fault) -> Sampling:
    """Converts the parameters of sampling."""
    for name, value, most in (
        ("temperature", body.temperature, 2.0),
        ("top_p", body.top_p, 1.0),
    ):
        if value is not None and not 0.0 <= value <= most:
            fault(name, f"{value}: give 0 to {most:g}")
    if body.top_k is not None and body.top_k < -1:
        fault("top_k", f"{body.top_k}: give 1 or more, or leave it out")
    # The provider takes a top_p of 0, which says the same as greedy sampling: one token is left.
    top_p = math.ulp(0.0) if body.top_p == 0 else body.top_p
    return Sampling(temperature=body.temperature, top_p=top_p, top_k=body.top_k)


def stops_of(texts: Sequence[str] | None, fault: Fault) -> tuple[str, ...]:
    """Checks the texts that end the answer. Texts of white space are left out, as the provider does
    not take them."""
    stops = tuple(text for text in texts or () if text.strip())
    if len(stops) > _MAX_STOPS:
        fault("stop_sequences", f"{len(stops)} texts: at most {_MAX_STOPS}")
    for number, text in enumerate(stops):
        if (size := len(text.encode())) > MAX_STOP_BYTES:
            fault(f"stop_sequences[{number}]", f"{size} bytes: at most {MAX_STOP_BYTES}")
    return stops


def shows_thinking(body: wire.MessagesBody) -> bool:
    """Whether the answer shows the text of the reasoning."""
    thinking = body.thinking
    return thinking is None or (thinking.type != "disabled" and thinking.display != "omitted")


def session_of(body: wire.MessagesBody) -> str:
    """The session that a client names in `metadata.user_id`: JSON of some clients; empty: none."""
    session = _user_names(body).get("session_id")
    return session if isinstance(session, str) and is_session_id(session) else ""


def end_user_of(body: wire.MessagesBody) -> str:
    """Whom the client acts for: `metadata.user_id`, of clients with JSON there the account or the
    device; empty: none."""
    user_id = None if body.metadata is None else body.metadata.user_id
    if not user_id or not user_id.startswith("{"):
        return user_id or ""
    named = _user_names(body)
    found = named.get("account_uuid") or named.get("device_id")
    return found if isinstance(found, str) else ""


def _user_names(body: wire.MessagesBody) -> dict[str, object]:
    """The JSON object that some clients send as `metadata.user_id`; empty: it is none."""
    user_id = None if body.metadata is None else body.metadata.user_id
    if not user_id or not user_id.startswith("{"):
        return {}
    try:
        return msgspec.json.decode(user_id, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _tool(tool: wire.Tool, path: str, limits: ElementLimitsConfig, fault: Fault) -> Tool:
    if _FUNCTION_NAME.match(tool.name) is None:
        fault(f"{path}.name", f"{tool.name[:80]!r}: give 1 to 128 letters, digits, _ or -")
    field = f"{path}.input_schema"
    schema = told(lambda: arguments_schema(tool.input_schema, field, limits), fault)
    return Tool(
        name=tool.name,
        description=tool.description or "",
        parameters_json_schema=schema or "",
        strict=bool(tool.strict),
    )


def _tool_choice(
    choice: wire.ToolChoice | None, names: set[str], fault: Fault
) -> ToolMode | NamedTool | None:
    if choice is None:
        return None
    match choice.type:
        case "auto":
            # Only tools of the provider were given: there is nothing to choose from here.
            return ToolMode.AUTO if names else None
        case "none":
            return ToolMode.NONE if names else None
        case "any":
            if not names:
                fault("tool_choice", "no tools to choose from: give tools that the client runs")
            return ToolMode.REQUIRED
        case "tool":
            name = choice.name or ""
            if name not in names:
                fault(
                    "tool_choice.name", f"{name[:80]!r} is none of the tools that the client runs"
                )
            return NamedTool(name=name)
        case other:
            fault("tool_choice.type", f"{other[:80]!r}: give auto, any, tool or none")
            return None


def _json_schema(
    body: wire.MessagesBody, limits: ElementLimitsConfig, fault: Fault
) -> JsonSchema | None:
    config = body.output_config
    path, form = "output_config.format", None if config is None else config.format
    if form is None:
        path, form = "output_format", body.output_format
    if form is None:
        return None
    if form.type != "json_schema":
        fault(f"{path}.type", f"{form.type[:80]!r}: give json_schema")
        return None
    text = told(lambda: schema_text(form.schema, f"{path}.schema", limits), fault)
    return JsonSchema(name="answer", schema_json=text or "", strict=True)


def _reasoning(body: wire.MessagesBody, fault: Fault) -> Reasoning | None:
    """How the model reasons. "adaptive" leaves it to the model, as no field at all does with models
    that think by themselves; for others see `Chat.adaptive_thinking`."""
    thinking = body.thinking
    wanted = None if body.output_config is None else body.output_config.effort
    effort = None
    if wanted is not None:
        effort = _EFFORTS.get(wanted)
        if effort is None:
            fault("output_config.effort", f"{wanted[:80]!r}: give one of {', '.join(_EFFORTS)}")
    match None if thinking is None else thinking.type:
        case "disabled":
            return Reasoning(thinking=False)
        case "enabled":
            budget = None if thinking is None else thinking.budget_tokens
            if budget is not None and not 0 < budget < (body.max_tokens or budget + 1):
                fault("thinking.budget_tokens", f"{budget}: give less than max_tokens, at least 1")
            return Reasoning(effort=effort, thinking=True, budget_tokens=budget)
        case None | "adaptive":
            return None if effort is None else Reasoning(effort=effort)
        case other:
            fault("thinking.type", f"{other[:80]!r}: give enabled, disabled or adaptive")
            return None
