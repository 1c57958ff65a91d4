"""The options of a generation, the same for whole answers, streams, quotes and counts."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, TypeVar

from google.protobuf.duration_pb2 import Duration

from moegate.client.messages import Chat, Tool, chat_messages, tool_definition
from moegate.v1 import chat_pb2, generation_pb2

SloClass = Literal["interactive", "standard", "batch"]
Fields = TypeVar("Fields", generation_pb2.GenerateRequest, generation_pb2.Sampling)
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class GenerationOptions(TypedDict, total=False):
    """Options of a generation. Absent ones take the server's or the model's defaults.

    Attributes:
        system: instructions that precede the messages.
        tools: functions that the model may call.
        tool_choice: "auto", "none", "required", or the name of the function that must be called.
        parallel_tool_calls: whether one answer may hold several calls.
        json_schema: JSON Schema that the answer must fit; `Answer.json` reads it.
        regex, choices_of, grammar: other shapes of the answer; one at most.
        effort, thinking, thinking_budget_tokens: how the model reasons before it answers.
        temperature, top_p, top_k, min_p, seed, presence_penalty, frequency_penalty,
            repetition_penalty, logit_bias: how tokens are drawn.
        max_output_tokens, min_tokens, stop, stop_token_ids, ignore_eos: when the answer ends.
        choices, logprobs: answers to make, and likeliest tokens told at each step.
        slo_class: "interactive", "standard" or "batch".
        ttft_s, tpot_s: time to first token and per output token that are aimed at, in seconds.
        priority: rank within the class, -10 to 10.
        session_id: requests of one session go to one place where that pays.
        labels, end_user: for reports: what the caller wants to tell apart, and whom it acts for.
        local_only: never leaves the self-hosted servers.
        remote_classes: classes of remotes that may serve it.
        max_cost_nano_usd: most that it may be charged.
        request_id: for logs, traces and `explain`.
        idempotency_key: absent: a random one, so that a retry is never charged twice.
    """

    system: str
    tools: Sequence[Tool]
    tool_choice: str
    parallel_tool_calls: bool
    json_schema: Mapping[str, Any]
    regex: str
    choices_of: Sequence[str]
    grammar: str
    effort: Effort
    thinking: bool
    thinking_budget_tokens: int
    chat_template_kwargs: Mapping[str, Any]
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[int, float]
    max_output_tokens: int
    min_tokens: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    choices: int
    logprobs: int
    slo_class: SloClass
    ttft_s: float
    tpot_s: float
    priority: int
    session_id: str
    labels: Mapping[str, str]
    end_user: str
    local_only: bool
    remote_classes: Sequence[str]
    max_cost_nano_usd: int
    request_id: str
    idempotency_key: str


_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)
_PLAIN = (
    *("max_output_tokens", "min_tokens", "stop", "stop_token_ids", "ignore_eos", "logit_bias"),
    *("choices", "logprobs", "priority", "session_id", "max_cost_nano_usd", "request_id"),
    *("labels", "end_user"),
)
"""Options that are fields of the request, of the same name."""
_MODES: Mapping[str, chat_pb2.ToolChoiceMode] = {
    "auto": chat_pb2.TOOL_CHOICE_MODE_AUTO,
    "none": chat_pb2.TOOL_CHOICE_MODE_NONE,
    "required": chat_pb2.TOOL_CHOICE_MODE_REQUIRED,
}
_SHAPES = ("json_schema", "regex", "choices_of", "grammar")
_KNOWN = frozenset(GenerationOptions.__annotations__)


def generate_request(
    model: str, chat: Chat, options: GenerationOptions
) -> generation_pb2.GenerateRequest:
    """The request as a proto. Raises ValueError or TypeError, which name the option."""
    if unknown := sorted(set(options) - _KNOWN):
        raise TypeError(f"{unknown[0]}: no such option; see GenerationOptions")
    given: dict[str, Any] = dict(options)
    request = generation_pb2.GenerateRequest(
        model=model,
        chat=_chat_input(chat, options),
        idempotency_key=options.get("idempotency_key", "") or uuid.uuid4().hex,
    )
    _merge(request, given, _PLAIN)
    if any(name in given for name in _SAMPLING):
        _merge(request.sampling, given, _SAMPLING)
    if "slo_class" in options:
        request.slo.slo_class = slo_class_of(options["slo_class"])
    for name, field in (("ttft_s", "ttft"), ("tpot_s", "tpot")):
        if name in given:
            getattr(request.slo, field).CopyFrom(_duration(name, given[name]))
    if options.get("local_only"):
        request.data_policy.local_only = True
    if "remote_classes" in options:
        request.data_policy.remote_classes.extend(options["remote_classes"])
    return request


def slo_class_of(name: str) -> generation_pb2.SloClass:
    """The class of service of a name. Raises ValueError."""
    found: generation_pb2.SloClass = _enum(generation_pb2.SloClass, "SLO_CLASS_", "slo_class", name)
    return found


def _merge(message: Fields, given: Mapping[str, Any], names: Sequence[str]) -> None:
    """Sets the fields of these names that are given. Raises TypeError or ValueError."""
    for name in names:
        if name in given:
            try:
                message.MergeFrom(type(message)(**{name: given[name]}))
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}: {given[name]!r:.100}: {error}") from None


def _chat_input(chat: Chat, options: GenerationOptions) -> chat_pb2.ChatInput:
    given: dict[str, Any] = dict(options)
    messages = chat_messages(chat)
    if system := options.get("system"):
        part = chat_pb2.ContentPart(text=system)
        messages.insert(0, chat_pb2.ChatMessage(role=chat_pb2.ROLE_SYSTEM, parts=[part]))
    found = chat_pb2.ChatInput(
        messages=messages, tools=[tool_definition(tool) for tool in options.get("tools", ())]
    )
    if choice := options.get("tool_choice"):
        if choice in _MODES:
            found.tool_choice.mode = _MODES[choice]
        else:
            found.tool_choice.function_name = choice
    if "parallel_tool_calls" in options:
        found.parallel_tool_calls = options["parallel_tool_calls"]
    if "effort" in options:
        found.reasoning.effort = _enum(
            chat_pb2.ReasoningEffort, "REASONING_EFFORT_", "effort", options["effort"]
        )
    if "thinking" in options:
        found.reasoning.thinking = options["thinking"]
    if "thinking_budget_tokens" in options:
        found.reasoning.budget_tokens = options["thinking_budget_tokens"]
    if "chat_template_kwargs" in options:
        found.chat_template_kwargs_json = json.dumps(options["chat_template_kwargs"])
    shapes = [name for name in _SHAPES if name in given]
    if len(shapes) > 1:
        raise ValueError(f"{shapes[1]}: an answer has one shape, and {shapes[0]} is given too")
    if shapes:
        _set_shape(found.response_format, shapes[0], given[shapes[0]])
    return found


def _set_shape(form: chat_pb2.ResponseFormat, name: str, value: Any) -> None:
    match name:
        case "json_schema":
            schema = chat_pb2.JsonSchemaFormat(
                name="answer", schema_json=json.dumps(value), strict=True
            )
            form.json_schema.CopyFrom(schema)
        case "choices_of":
            form.choice.texts.extend(value)
        case _:
            setattr(form, name, value)


def _enum(kind: Any, prefix: str, option: str, value: str) -> Any:
    """A value of a proto's enum by its name in the options."""
    name = f"{prefix}{str(value).upper()}"
    if name not in kind.keys() or name.endswith("_UNSPECIFIED"):  # noqa: SIM118 - no mapping
        known = [key.removeprefix(prefix).lower() for key in kind.keys()[1:]]
        raise ValueError(f"{option}: {value!r} is none of {known}")
    return kind.Value(name)


def _duration(option: str, seconds: float) -> Duration:
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(f"{option}: {seconds!r} is no number of seconds above 0")
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
