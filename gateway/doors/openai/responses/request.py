"""A body of Responses as a `Generation`, and what of it stands in the answer."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from gateway.config.limits import ElementLimitsConfig
from gateway.domain import request_bounds as bounds
from gateway.domain.generation import Chat, Generation, JsonSchema, Message, Role, Tool
from gateway.domain.slices import Steps
from gateway.doors.http.elements import too_many
from gateway.doors.http.errors import ErrorKind, HttpError, invalid
from gateway.doors.http.exchange import Exchange
from gateway.doors.http.json_texts import is_given, schema_text
from gateway.doors.http.system_turns import joined_system
from gateway.doors.openai.responses.body import FormatBody, ResponsesBody, ToolBody
from gateway.doors.openai.responses.items import convert_items
from gateway.doors.openai.wire import options
from gateway.doors.openai.wire.tools import (
    FunctionBody,
    SchemaBody,
    answer_schema,
    check_tools,
    function_tool,
    tool_choice,
)

LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"


def generation_steps(
    body: ResponsesBody, before: tuple[Message, ...], exchange: Exchange
) -> Steps[Generation]:
    """Converts the body. `before`: messages of the previous response. Raises HttpError (INVALID)
    that names the field."""
    options.check_model(body.model)
    if body.background:
        text = "background responses are not served: leave background out"
        raise HttpError(ErrorKind.INVALID, text, param="background")
    if is_given(body.conversation):
        raise invalid("conversation", "none is stored here: send its items in input")
    if is_given(body.prompt):
        raise invalid("prompt", "none is stored here: send its text in instructions or input")
    elements = exchange.services.active.config.limits.elements
    messages = yield from convert_items(body.input, before, elements)
    if body.instructions:
        messages = (Message(role=Role.SYSTEM, parts=(body.instructions,)), *messages)
    given, skipped = _tools(body.tools or [], elements)
    choice, tools = tool_choice(body.tool_choice, given, skipped)
    json_object, json_schema = _form(None if body.text is None else body.text.format, elements)
    asked = body.max_output_tokens
    most = exchange.output_tokens(body.model, asked, 1, "max_output_tokens")
    template = body.chat_template_kwargs
    return Generation(
        request_id=exchange.request_id,
        model=body.model,
        input=Chat(
            messages=joined_system(messages),
            tools=tools,
            tool_choice=choice,
            json_object=json_object,
            json_schema=json_schema,
            parallel_tool_calls=False if body.parallel_tool_calls is False and tools else None,
            reasoning=options.reasoning_of(None, body.reasoning),
            template_kwargs_json=schema_text(template, "chat_template_kwargs", elements)
            if is_given(template)
            else "",
        ),
        max_output_tokens=most,
        sampling=options.sampling_of(body),
        stop=options.stops_of(body),
        logprobs=_logprobs(body),
        min_tokens=options.min_tokens_of(body, most),
        logit_bias=options.logit_bias_of(body),
        stop_token_ids=options.stop_token_ids_of(body),
    )


def _tools(
    bodies: list[ToolBody], elements: ElementLimitsConfig
) -> tuple[tuple[Tool, ...], frozenset[str]]:
    """Returns the functions, and the types of the tools that nobody here honours."""
    if len(bodies) > elements.tools:
        raise too_many("tools", elements.tools)
    tools = []
    for i, body in enumerate(bodies):
        if body.type == "function":
            function = FunctionBody(
                name=body.name,
                description=body.description,
                parameters=body.parameters,
                strict=body.strict,
            )
            tools.append(function_tool(function, f"tools[{i}]", elements))
    skipped = frozenset(body.type for body in bodies if body.type != "function")
    return check_tools(tools), skipped


def _form(form: FormatBody | None, elements: ElementLimitsConfig) -> tuple[bool, JsonSchema | None]:
    """Returns whether the answer is any JSON object, and its schema."""
    match "text" if form is None else form.type:
        case "text":
            return False, None
        case "json_object":
            return True, None
        case "json_schema" if form is not None:
            body = SchemaBody(name=form.name, schema=form.schema, strict=form.strict)
            schema = answer_schema(body, "text.format", elements)
            return schema is None, schema
        case other:
            fix = "give text, json_object or json_schema"
            raise invalid("text.format.type", f"{other[:40]!r}: {fix}")


def _logprobs(body: ResponsesBody) -> int | None:
    top = body.top_logprobs or 0
    if not 0 <= top <= bounds.MAX_LOGPROBS:
        raise invalid("top_logprobs", f"{top}: give 0 to {bounds.MAX_LOGPROBS}")
    return top if top or LOGPROBS in (body.include or ()) else None


def answer_head(body: ResponsesBody, response_id: str, *, is_stored: bool) -> dict[str, Any]:
    """The fields of the answer that repeat the request. The schema wants all of them."""
    reasoning, form = body.reasoning, None if body.text is None else body.text.format
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "presence_penalty": body.presence_penalty or 0.0,
        "frequency_penalty": body.frequency_penalty or 0.0,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {
            "effort": None if reasoning is None else reasoning.effort,
            "summary": None if reasoning is None else reasoning.summary,
        },
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": is_stored,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": _form_again(form)},
        "tool_choice": body.tool_choice or "auto",
        "tools": [_tool_again(tool) for tool in body.tools or () if tool.type == "function"],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


def _form_again(form: FormatBody | None) -> dict[str, Any]:
    if form is None or form.type != "json_schema":
        return {"type": "text" if form is None else form.type}
    schema = form.schema if is_given(form.schema) else msgspec.Raw(b"{}")
    return {
        "type": form.type,
        "name": form.name,
        "description": None,
        "schema": schema,
        "strict": bool(form.strict),
    }


def _tool_again(tool: ToolBody) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters if is_given(tool.parameters) else None,
        "strict": bool(tool.strict),
    }
