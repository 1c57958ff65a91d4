"""Which features a generation needs, and which field of the API is blamed for each."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from gateway.config.remote import Feature
from gateway.domain.generation import (
    Chat,
    Generation,
    Image,
    JsonSchema,
    Message,
    Role,
    Sampling,
    Tool,
    ToolCall,
)
from gateway.upstream.features import unsupported

USER = Message(role=Role.USER, parts=("Hello",))
PLAIN = Generation(request_id="r", model="m", input=Chat(messages=(USER,)), max_output_tokens=8)
TOOL = Tool(name="t", description="", parameters_json_schema="{}")
CALL = ToolCall(index=0, id="c", name="t", arguments_json="{}")


@dataclass(frozen=True)
class Case:
    """A generation that needs one feature, and the field that asks for it."""

    generation: Generation
    feature: Feature
    field: str


def sampling(**fields: object) -> Generation:
    return replace(PLAIN, sampling=replace(Sampling(), **fields))


def chat(*messages: Message, **fields: object) -> Generation:
    return replace(PLAIN, input=replace(Chat(messages=messages or (USER,)), **fields))


CASES = [
    Case(sampling(top_k=1), Feature.TOP_K, "sampling.top_k"),
    Case(sampling(min_p=0.1), Feature.MIN_P, "sampling.min_p"),
    Case(
        sampling(repetition_penalty=1.1), Feature.REPETITION_PENALTY, "sampling.repetition_penalty"
    ),
    Case(sampling(presence_penalty=0.1), Feature.PENALTIES, "sampling.presence_penalty"),
    Case(sampling(frequency_penalty=0.1), Feature.PENALTIES, "sampling.frequency_penalty"),
    Case(sampling(seed=0), Feature.SEED, "sampling.seed"),
    Case(replace(PLAIN, ignore_eos=True), Feature.IGNORE_EOS, "ignore_eos"),
    Case(replace(PLAIN, choices=2), Feature.CHOICES, "choices"),
    Case(replace(PLAIN, logprobs=0), Feature.LOGPROBS, "logprobs"),
    Case(replace(PLAIN, stop=("x",)), Feature.STOP, "stop"),
    Case(replace(PLAIN, continues=True), Feature.CONTINUATION, "chat.messages"),
    Case(replace(PLAIN, input="Hello"), Feature.PROMPT, "prompt"),
    Case(replace(PLAIN, input=(1, 2)), Feature.PROMPT_TOKENS, "prompt_tokens"),
    Case(chat(tools=(TOOL,)), Feature.TOOLS, "chat.tools"),
    Case(chat(json_object=True), Feature.JSON_OBJECT, "chat.response_format.json_object"),
    Case(
        chat(json_schema=JsonSchema(name="a", schema_json="{}", strict=False)),
        Feature.JSON_SCHEMA,
        "chat.response_format.json_schema",
    ),
    Case(chat(USER, replace(USER, name="Ann")), Feature.NAMES, "chat.messages[1].name"),
    Case(
        chat(USER, Message(role=Role.ASSISTANT, parts=(), tool_calls=(CALL,))),
        Feature.TOOLS,
        "chat.messages[1].tool_calls",
    ),
    Case(
        chat(USER, Message(role=Role.TOOL, parts=("1",), tool_call_id="c")),
        Feature.TOOLS,
        "chat.messages[1]",
    ),
    Case(
        chat(Message(role=Role.USER, parts=("a", Image(url="https://x/y")))),
        Feature.IMAGES,
        "chat.messages[0].parts",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.field)
def test_the_field_that_needs_a_feature_is_named(case: Case) -> None:
    everything = frozenset(Feature)
    assert unsupported(case.generation, everything) == ()
    assert unsupported(case.generation, everything - {case.feature}) == (case.field,)
    assert unsupported(case.generation, frozenset({case.feature})) == ()


def test_a_plain_chat_needs_nothing_and_every_feature_has_a_case() -> None:
    assert unsupported(PLAIN, frozenset()) == ()
    assert {case.feature for case in CASES} == set(Feature)
