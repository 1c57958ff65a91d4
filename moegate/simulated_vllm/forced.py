"""What a request forces: the text of a structured output, or a call of a tool and its pieces."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from moegate.simulated_vllm.failures import BadForm, bad_value
from moegate.simulated_vllm.forms.grammars import shortest_text
from moegate.simulated_vllm.forms.json_values import value_of
from moegate.simulated_vllm.forms.regexes import Unsupported, shortest_match
from moegate.simulated_vllm.wire import (
    FunctionCall,
    GenerationBody,
    StructuredOutputs,
    ToolCall,
    ToolCallDelta,
)
from simulation.output import Output
from simulation.tokenizer import encode

_NO_TOOLS = "When using `tool_choice`, `tools` must be set."
_UNKNOWN_TOOL = "The tool specified in `tool_choice` does not match any of the specified `tools`"
_TWO_FORMS = (
    "You can only use one kind of constraints for structured outputs ('json', 'regex' or 'choice')."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForcedAnswer:
    """What the model writes.

    Attributes:
        text: the text, in a call the arguments.
        tool: name of the function that is called; None: no call.
        finish_reason: reason of an answer that ends by itself.
    """

    text: str
    tool: str | None = None
    finish_reason: str = "stop"

    @property
    def prefix(self) -> str:
        """What the engine generates before the text: the parser of tool calls removes it."""
        return "" if self.tool is None else f'<tool_call>\n{{"name": "{self.tool}", "arguments": '

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All that the engine generates. A token never crosses the ends of the text."""
        suffix = "" if self.tool is None else "}\n</tool_call>"
        return (*encode(self.prefix), *encode(self.text), *encode(suffix))


def forced_answer(
    body: GenerationBody, is_chat: bool, calls: Sequence[tuple[str, str]] = ()
) -> ForcedAnswer | None:
    """Returns what the request forces; None: nothing. Raises Refused, of a form BadForm.

    `calls`: pairs of a tool and its arguments. The first tool that a chat offers is called, unless
    the chat has the result of a call already.
    """
    try:
        if is_chat and (call := _forced_call(body) or _wanted_call(body, calls)) is not None:
            return call
        text = _structured(body, is_chat)
    except (Unsupported, RecursionError) as error:
        raise BadForm(f"Grammar error: {error}") from error
    return None if text is None else ForcedAnswer(text=text)


def _forced_call(body: GenerationBody) -> ForcedAnswer | None:
    choice, tools = body.tool_choice, _functions(body.tools or [])
    if choice is None or choice == "none":
        return None
    if not tools:
        raise bad_value("tool_choice", _NO_TOOLS)
    if choice == "auto":
        return None
    if choice == "required":
        name = next(iter(tools))
        text = _json(value_of(tools[name]))
        return ForcedAnswer(text=text, tool=name, finish_reason="tool_calls")
    if not isinstance(choice, dict):
        raise bad_value("tool_choice", f"Invalid value for `tool_choice`: {choice}!", choice)
    name = (choice.get("function") or {}).get("name", "")
    if name not in tools:
        raise bad_value("tool_choice", _UNKNOWN_TOOL)
    return ForcedAnswer(text=_json(value_of(tools[name])), tool=name)


def _wanted_call(body: GenerationBody, calls: Sequence[tuple[str, str]]) -> ForcedAnswer | None:
    messages = body.messages or []
    if not calls or body.tool_choice == "none" or any(each.role == "tool" for each in messages):
        return None
    offered = _functions(body.tools or [])
    for name, arguments in calls:
        if name in offered:
            return ForcedAnswer(text=arguments, tool=name, finish_reason="tool_calls")
    return None


def _functions(tools: list[Any]) -> dict[str, Any]:
    """Schemas of the arguments by the name of the function."""
    functions = [tool.get("function") for tool in tools if isinstance(tool, dict)]
    return {
        str(each.get("name")): each.get("parameters") or {"type": "object"}
        for each in functions
        if isinstance(each, dict)
    }


def _structured(body: GenerationBody, is_chat: bool) -> str | None:
    form = body.structured_outputs or StructuredOutputs()
    if sum(each is not None for each in (form.json, form.regex, form.choice)) > 1:
        raise bad_value(None, _TWO_FORMS)
    if form.regex is not None:
        return shortest_match(form.regex)
    if form.choice is not None:
        if not form.choice:
            raise bad_value(None, "Choice '[]' cannot be an empty list")
        return form.choice[0]
    if form.grammar is not None:
        return shortest_text(form.grammar)
    if form.json is not None:
        return _json(value_of(form.json))
    if not is_chat or body.response_format is None:
        return "{}" if form.json_object else None
    match body.response_format.get("type"):
        case "json_object":
            return "{}"
        case "json_schema":
            schema = (body.response_format.get("json_schema") or {}).get("schema", {})
            return _json(value_of(schema))
        case _:
            return None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def tool_calls(call: ForcedAnswer, output: Output, text: str) -> list[ToolCall]:
    """Returns the calls of an answer that has ended with this text, reasoning apart; empty: it was
    cut before the name was complete."""
    delta = CallDeltas(call, output).advance(text)
    if delta is None or delta.id is UNSET:
        return []
    function = FunctionCall(name=call.tool, arguments=delta.function.arguments or "")
    return [ToolCall(id=call_id(output), type="function", function=function)]


def call_id(output: Output) -> str:
    """Returns the id of the call."""
    return f"chatcmpl-tool-{output.seed:016x}"


class CallDeltas:
    """Finds the pieces of the call in the text of one choice as it grows."""

    def __init__(self, call: ForcedAnswer, output: Output) -> None:
        self._call = call
        self._id = call_id(output)
        self._seen_chars = 0
        self._begin_chars = len(call.prefix)
        self._end_chars = self._begin_chars + len(call.text)

    def advance(self, new_text: str) -> ToolCallDelta | None:
        """The piece of the call in the new text; None: there is none."""
        before = self._seen_chars
        after = self._seen_chars = before + len(new_text)
        names = before < self._begin_chars <= after
        start = max(before, self._begin_chars) - self._begin_chars
        end = min(after, self._end_chars) - self._begin_chars
        arguments = self._call.text[start:end] if end > start else None
        if names:
            function = FunctionCall(name=self._call.tool, arguments=arguments)
            return ToolCallDelta(self._id, "function", 0, function)
        if arguments is None:
            return None
        return ToolCallDelta(UNSET, UNSET, 0, FunctionCall(arguments=arguments))
