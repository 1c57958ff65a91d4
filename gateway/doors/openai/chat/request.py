"""A body of Chat Completions as a `Generation`."""

from __future__ import annotations

from gateway.config.limits import ElementLimitsConfig
from gateway.domain import request_bounds as bounds
from gateway.domain.generation import Chat, Generation, Grammar, Regex, TextChoice, Tool
from gateway.domain.slices import Steps
from gateway.doors.http.elements import too_many
from gateway.doors.http.errors import HttpError, invalid
from gateway.doors.http.exchange import Exchange
from gateway.doors.http.json_texts import is_given, schema_text
from gateway.doors.http.system_turns import joined_system
from gateway.doors.openai.chat.body import ChatBody, ConstraintBody, ToolBody
from gateway.doors.openai.chat.messages import convert_messages
from gateway.doors.openai.wire import options
from gateway.doors.openai.wire.tools import (
    answer_schema,
    check_tools,
    function_tool,
    tool_choice,
)

_MAX_CHOICE_TEXTS = 256


def generation_steps(body: ChatBody, exchange: Exchange) -> Steps[Generation]:
    """Converts the body. Raises HttpError (INVALID) that names the field."""
    options.check_model(body.model)
    elements = exchange.services.active.config.limits.elements
    choices = 1 if body.n is None else body.n
    if not 1 <= choices <= bounds.MAX_CHOICES:
        raise invalid("n", f"{choices}: give 1 to {bounds.MAX_CHOICES}")
    asked, asked_in = body.max_completion_tokens, "max_completion_tokens"
    if asked is None and body.max_tokens is not None:
        asked, asked_in = body.max_tokens, "max_tokens"
    chat = yield from _chat(body, elements)
    most = exchange.output_tokens(body.model, asked, choices, asked_in)
    return Generation(
        request_id=exchange.request_id,
        model=body.model,
        input=chat,
        max_output_tokens=most,
        sampling=options.sampling_of(body),
        stop=options.stops_of(body),
        choices=choices,
        logprobs=_logprobs(body),
        ignore_eos=bool(body.ignore_eos),
        min_tokens=options.min_tokens_of(body, most),
        logit_bias=options.logit_bias_of(body),
        stop_token_ids=options.stop_token_ids_of(body),
    )


def _chat(body: ChatBody, elements: ElementLimitsConfig) -> Steps[Chat]:
    messages = joined_system((yield from convert_messages(body.messages, elements)))
    given, skipped = _tools(body.tools or [], elements)
    choice, tools = tool_choice(body.tool_choice, given, skipped)
    json_object = False
    json_schema = None
    form = body.response_format
    if form is not None:
        match form.type:
            case "text":
                pass
            case "json_object":
                json_object = True
            case "json_schema" if form.json_schema is not None:
                field = "response_format.json_schema"
                json_schema = answer_schema(form.json_schema, field, elements)
                json_object = json_schema is None
            case "json_schema":
                raise invalid("response_format.json_schema", "missing: give a schema")
            case other:
                fix = "give text, json_object or json_schema"
                raise invalid("response_format.type", f"{other[:40]!r}: {fix}")
    constraint = _constraint(body.structured_outputs, elements)
    if constraint is not None and (json_object or json_schema is not None):
        raise invalid("structured_outputs", "together with response_format: leave one out")
    template = body.chat_template_kwargs
    # True is the default of every server: as a wish it would only exclude some of them.
    parallel = False if body.parallel_tool_calls is False and tools else None
    return Chat(
        messages=messages,
        tools=tools,
        tool_choice=choice,
        json_object=json_object,
        json_schema=json_schema,
        constraint=constraint,
        parallel_tool_calls=parallel,
        reasoning=options.reasoning_of(body.reasoning_effort, body.reasoning, body.thinking),
        template_kwargs_json=schema_text(template, "chat_template_kwargs", elements)
        if is_given(template)
        else "",
    )


def _tools(
    bodies: list[ToolBody], elements: ElementLimitsConfig
) -> tuple[tuple[Tool, ...], frozenset[str]]:
    """Returns the functions, and the types of the tools that nobody here honours."""
    if len(bodies) > elements.tools:
        raise too_many("tools", elements.tools)
    tools = []
    skipped = set()
    for i, body in enumerate(bodies):
        if body.type == "function" and body.function is not None:
            tools.append(function_tool(body.function, f"tools[{i}].function", elements))
        elif body.type == "function":
            raise invalid(f"tools[{i}].function", "missing: describe the function")
        else:
            skipped.add(body.type)
    return check_tools(tools), frozenset(skipped)


def _logprobs(body: ChatBody) -> int | None:
    top = body.top_logprobs or 0
    if not 0 <= top <= bounds.MAX_LOGPROBS:
        raise invalid("top_logprobs", f"{top}: give 0 to {bounds.MAX_LOGPROBS}")
    if not body.logprobs:
        if top:
            raise invalid("top_logprobs", f"{top} without logprobs: set logprobs to true")
        return None
    return top


def _constraint(
    body: ConstraintBody | None, elements: ElementLimitsConfig
) -> Regex | TextChoice | Grammar | None:
    if body is None:
        return None
    given = [each for each in (body.regex, body.choice, body.grammar) if each is not None]
    if len(given) > 1:
        raise invalid("structured_outputs", "several forms of the answer: give one")
    if body.regex is not None:
        return Regex(_bounded(body.regex, "regex", elements.regex_bytes))
    if body.grammar is not None:
        return Grammar(_bounded(body.grammar, "grammar", elements.grammar_bytes))
    if body.choice is not None:
        if not 0 < len(body.choice) <= _MAX_CHOICE_TEXTS or not all(body.choice):
            text = f"{len(body.choice)} texts: give 1 to {_MAX_CHOICE_TEXTS}, none empty"
            raise invalid("structured_outputs.choice", text)
        return TextChoice(tuple(body.choice))
    return None


def _bounded(text: str, name: str, most: int) -> str:
    if not text.strip() or "\0" in text or len(text.encode()) > most:
        raise _not_a_form(name, most)
    return text


def _not_a_form(name: str, most: int) -> HttpError:
    return invalid(f"structured_outputs.{name}", f"give a text of 1 to {most} bytes without NUL")
