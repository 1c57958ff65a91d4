"""Checks what a chat request says about the form of the answer, reasoning and the chat template."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.domain.generation import Grammar, Reasoning, ReasoningEffort, Regex, TextChoice
from moegate.v1 import chat_pb2

Fault = Callable[[str, str], None]
"""Records a violation: path of the field, description with a fix."""

MAX_CHOICE_TEXTS = 256
"""Most texts of which the answer must be one."""
MAX_CHOICE_TEXT_BYTES = 1024
"""Most bytes of one of them."""
EFFORTS = {
    chat_pb2.REASONING_EFFORT_MINIMAL: ReasoningEffort.MINIMAL,
    chat_pb2.REASONING_EFFORT_LOW: ReasoningEffort.LOW,
    chat_pb2.REASONING_EFFORT_MEDIUM: ReasoningEffort.MEDIUM,
    chat_pb2.REASONING_EFFORT_HIGH: ReasoningEffort.HIGH,
    chat_pb2.REASONING_EFFORT_XHIGH: ReasoningEffort.XHIGH,
    chat_pb2.REASONING_EFFORT_MAX: ReasoningEffort.MAX,
}
_OTHER_EFFORTS = (chat_pb2.REASONING_EFFORT_UNSPECIFIED, chat_pb2.REASONING_EFFORT_NONE)
_TEMPLATE_ARGUMENTS = frozenset(
    {
        *("chat_template", "tokenize", "messages", "conversation", "tools", "documents"),
        *("add_generation_prompt", "continue_final_message"),
    }
)
"""Arguments of the template that are no variables of it, or that other fields set."""


def parse_constraint(
    proto: chat_pb2.ResponseFormat, fault: Fault
) -> Regex | TextChoice | Grammar | None:
    """Converts a form of the answer other than JSON; None: none is set."""
    path = "chat.response_format"
    match proto.WhichOneof("format"):
        case "regex":
            _check_text(proto.regex, f"{path}.regex", fault)
            return Regex(proto.regex)
        case "grammar":
            _check_text(proto.grammar, f"{path}.grammar", fault)
            return Grammar(proto.grammar)
        case "choice":
            texts = tuple(proto.choice.texts)
            if not 0 < len(texts) <= MAX_CHOICE_TEXTS:
                most = MAX_CHOICE_TEXTS
                fault(f"{path}.choice.texts", f"{len(texts)} texts: give 1 to {most}")
            for i, text in enumerate(texts):
                size = len(text.encode())
                if not 0 < size <= MAX_CHOICE_TEXT_BYTES:
                    most = MAX_CHOICE_TEXT_BYTES
                    fault(f"{path}.choice.texts[{i}]", f"{size} bytes: give 1 to {most}")
            return TextChoice(texts)
        case _:
            return None


def _check_text(text: str, path: str, fault: Fault) -> None:
    if not text.strip():
        fault(path, "empty: give a text, or leave response_format out")
    elif "\0" in text:
        fault(path, "a NUL character: leave it out")


def parse_reasoning(
    proto: chat_pb2.ChatInput, max_output_tokens: int | None, fault: Fault
) -> Reasoning | None:
    """Converts the wishes for reasoning; None: there are none. `max_output_tokens`: of the request;
    None: it sets none."""
    if not proto.HasField("reasoning"):
        return None
    path, given = "chat.reasoning", proto.reasoning
    effort = EFFORTS.get(given.effort)
    thinking = given.thinking if given.HasField("thinking") else None
    budget = given.budget_tokens if given.HasField("budget_tokens") else None
    if effort is None and given.effort not in _OTHER_EFFORTS:
        fault(
            f"{path}.effort", f"{given.effort} is no effort: give REASONING_EFFORT_LOW or another"
        )
    if given.effort == chat_pb2.REASONING_EFFORT_NONE:
        if thinking:
            fault(f"{path}.thinking", "true with effort NONE: leave one of them out")
        thinking = False
    if thinking is False and effort is not None:
        fault(f"{path}.effort", f"{effort.value} without thinking: leave it out")
    if budget is not None:
        if thinking is False:
            fault(f"{path}.budget_tokens", f"{budget} without thinking: leave it out")
        elif budget == 0:
            fault(f"{path}.budget_tokens", "0: give at least 1, or thinking false")
        elif max_output_tokens is not None and budget >= max_output_tokens:
            least = f"max_output_tokens is {max_output_tokens}"
            fault(f"{path}.budget_tokens", f"{budget}: give less, as {least}")
    if effort is None and thinking is None and budget is None:
        return None
    return Reasoning(effort=effort, thinking=thinking, budget_tokens=budget)


def parse_template_kwargs(text: str, fault: Fault) -> str:
    """Checks variables of the chat template: the text of a JSON object. Empty: none."""
    if not text:
        return ""
    path = "chat.chat_template_kwargs_json"
    try:
        names = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        fault(path, f"not a JSON object: {error}")
        return ""
    for name in sorted(_TEMPLATE_ARGUMENTS & names.keys()):
        fault(path, f"{name} is no variable of a template: remove it")
    return text if names else ""
