"""Which features a generation needs, and which field of the API is blamed for each."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from gateway.config.remote import Feature
from gateway.domain.generation import (
    Chat,
    Generation,
    Grammar,
    Image,
    JsonSchema,
    Message,
    NamedTool,
    Reasoning,
    ReasoningEffort,
    Regex,
    Role,
    Sampling,
    TextChoice,
    Tool,
    ToolCall,
    ToolMode,
)
from gateway.domain.pooling import EmbeddingInput, ScoringInput
from gateway.upstream.features import Capabilities, capabilities, unsupported

USER = Message(role=Role.USER, parts=("Hello",))
SYSTEM = Message(role=Role.SYSTEM, parts=("Be short.",))
PLAIN = Generation(request_id="r", model="m", input=Chat(messages=(USER,)), max_output_tokens=8)
TOOL = Tool(name="t", description="", parameters_json_schema="{}")
CALL = ToolCall(index=0, id="c", name="t", arguments_json="{}")


@dataclass(frozen=True)
class Case:
    """A generation that needs one feature, and the field that asks for it."""

    generation: Generation
    feature: Feature
    field: str
    also: frozenset[Feature] = frozenset()
    """Further features that it needs."""


def sampling(**fields: object) -> Generation:
    return replace(PLAIN, sampling=replace(Sampling(), **fields))


def chat(*messages: Message, **fields: object) -> Generation:
    return replace(PLAIN, input=replace(Chat(messages=messages or (USER,)), **fields))


def embedding(**fields: object) -> Generation:
    return replace(PLAIN, input=replace(EmbeddingInput(inputs=("a",)), **fields))


CASES = [
    Case(embedding(dimensions=8), Feature.DIMENSIONS, "dimensions"),
    Case(embedding(truncate_tokens=8), Feature.TRUNCATION, "truncate_tokens"),
    Case(embedding(inputs=((1, 2),)), Feature.PROMPT_TOKENS, "tokens"),
    Case(
        replace(PLAIN, input=ScoringInput(query="q", documents=("d",), truncate_tokens=-1)),
        Feature.TRUNCATION,
        "truncate_tokens",
    ),
    Case(sampling(temperature=0.0), Feature.TEMPERATURE, "sampling.temperature"),
    Case(sampling(top_p=1.0), Feature.TOP_P, "sampling.top_p"),
    Case(chat(tool_choice=ToolMode.NONE), Feature.TOOL_CHOICE_NONE, "chat.tool_choice.mode"),
    Case(
        chat(tool_choice=ToolMode.REQUIRED), Feature.TOOL_CHOICE_REQUIRED, "chat.tool_choice.mode"
    ),
    Case(
        chat(tool_choice=NamedTool(name="t")),
        Feature.TOOL_CHOICE_NAMED,
        "chat.tool_choice.function_name",
    ),
    Case(
        chat(USER, Message(role=Role.ASSISTANT, parts=(), tool_calls=(CALL, CALL))),
        Feature.PARALLEL_TOOL_CALLS,
        "chat.messages[1].tool_calls",
        also=frozenset({Feature.TOOLS}),
    ),
    Case(
        chat(tools=(TOOL, replace(TOOL, name="u", strict=True))),
        Feature.STRICT,
        "chat.tools[1].strict",
        also=frozenset({Feature.TOOLS}),
    ),
    Case(
        chat(json_schema=JsonSchema(name="a", schema_json="{}", strict=True)),
        Feature.STRICT,
        "chat.response_format.json_schema.strict",
        also=frozenset({Feature.JSON_SCHEMA}),
    ),
    Case(chat(SYSTEM, USER), Feature.SYSTEM, "chat.messages[0].role"),
    Case(
        chat(USER, SYSTEM),
        Feature.LATE_SYSTEM,
        "chat.messages[1].role",
        also=frozenset({Feature.SYSTEM}),
    ),
    Case(sampling(top_k=1), Feature.TOP_K, "sampling.top_k"),
    Case(sampling(min_p=0.1), Feature.MIN_P, "sampling.min_p"),
    Case(
        sampling(repetition_penalty=1.1), Feature.REPETITION_PENALTY, "sampling.repetition_penalty"
    ),
    Case(sampling(presence_penalty=0.1), Feature.PENALTIES, "sampling.presence_penalty"),
    Case(sampling(frequency_penalty=0.1), Feature.PENALTIES, "sampling.frequency_penalty"),
    Case(sampling(seed=0), Feature.SEED, "sampling.seed"),
    Case(replace(PLAIN, ignore_eos=True), Feature.IGNORE_EOS, "ignore_eos"),
    Case(replace(PLAIN, min_tokens=2), Feature.MIN_TOKENS, "min_tokens"),
    Case(replace(PLAIN, logit_bias=((1, 2.0),)), Feature.LOGIT_BIAS, "logit_bias"),
    Case(replace(PLAIN, stop_token_ids=(1,)), Feature.STOP_TOKEN_IDS, "stop_token_ids"),
    Case(chat(constraint=Regex("a")), Feature.REGEX, "chat.response_format.regex"),
    Case(chat(constraint=TextChoice(("a",))), Feature.TEXT_CHOICE, "chat.response_format.choice"),
    Case(chat(constraint=Grammar("a")), Feature.GRAMMAR, "chat.response_format.grammar"),
    Case(chat(parallel_tool_calls=False), Feature.ONE_TOOL_CALL, "chat.parallel_tool_calls"),
    Case(
        chat(template_kwargs_json='{"a": 1}'),
        Feature.CHAT_TEMPLATE_KWARGS,
        "chat.chat_template_kwargs_json",
    ),
    Case(
        chat(reasoning=Reasoning(effort=ReasoningEffort.LOW)),
        Feature.REASONING_EFFORT,
        "chat.reasoning.effort",
    ),
    *(
        Case(
            chat(reasoning=Reasoning(effort=effort)),
            feature,
            "chat.reasoning.effort",
            also=frozenset({Feature.REASONING_EFFORT}),
        )
        for effort, feature in (
            (ReasoningEffort.MINIMAL, Feature.EFFORT_MINIMAL),
            (ReasoningEffort.XHIGH, Feature.EFFORT_XHIGH),
            (ReasoningEffort.MAX, Feature.EFFORT_MAX),
        )
    ),
    Case(chat(reasoning=Reasoning(thinking=True)), Feature.THINKING, "chat.reasoning.thinking"),
    Case(chat(reasoning=Reasoning(thinking=False)), Feature.NO_THINKING, "chat.reasoning.thinking"),
    Case(
        chat(reasoning=Reasoning(budget_tokens=9)),
        Feature.THINKING_BUDGET,
        "chat.reasoning.budget_tokens",
        also=frozenset({Feature.THINKING}),
    ),
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
    assert unsupported(case.generation, case.also | {case.feature}) == ()


def test_a_plain_chat_needs_nothing_and_every_feature_has_a_case() -> None:
    assert unsupported(PLAIN, frozenset()) == ()
    assert {case.feature for case in CASES} == set(Feature)


EVERYTHING = frozenset(Feature)
BOTH = sampling(temperature=0.5, top_p=0.9, seed=1)


def lacking(*cannot: str, drop: tuple[Feature, ...] = ()) -> Capabilities:
    return capabilities(EVERYTHING, cannot=cannot, drop=drop)


def test_features_that_are_refused_together_may_be_used_alone() -> None:
    made = lacking("temperature+top_p")
    assert made.features == EVERYTHING
    assert made.unsupported(BOTH) == ("sampling.temperature+sampling.top_p",)
    assert made.unsupported(sampling(temperature=0.5)) == ()
    assert made.unsupported(sampling(top_p=0.5)) == ()
    assert made.unsupported(PLAIN) == ()


def test_any_features_can_be_refused_together() -> None:
    asked = chat(tools=(TOOL,), json_object=True)
    made = lacking("json_object+tools", "images")
    assert made.unsupported(asked) == ("chat.response_format.json_object+chat.tools",)
    assert made.unsupported(chat(tools=(TOOL,))) == ()
    three = lacking("seed+temperature+top_p")
    assert three.unsupported(BOTH) == ("sampling.seed+sampling.temperature+sampling.top_p",)
    assert three.unsupported(sampling(temperature=0.5, top_p=0.9)) == ()


def test_a_feature_that_is_lacking_alone_is_named_once() -> None:
    made = lacking("top_p", "temperature+top_p")
    assert made.unsupported(BOTH) == ("sampling.top_p",)


def test_nothing_is_left_out_unless_the_operator_says_so() -> None:
    assert lacking("temperature+top_p").fitted(BOTH) is BOTH


@pytest.mark.parametrize(
    ("cannot", "drop", "left"),
    [
        (("temperature+top_p",), (Feature.TOP_P,), {"temperature": 0.5, "seed": 1}),
        (("temperature+top_p",), (Feature.TEMPERATURE,), {"top_p": 0.9, "seed": 1}),
        (
            ("temperature+top_p",),
            (Feature.TOP_P, Feature.TEMPERATURE),
            {"temperature": 0.5, "seed": 1},
        ),
        (("temperature", "top_p"), (Feature.TOP_P, Feature.TEMPERATURE), {"seed": 1}),
        (("temperature+top_p",), (Feature.SEED,), {"temperature": 0.5, "top_p": 0.9, "seed": 1}),
        (("top_p", "temperature+top_p"), (Feature.TOP_P,), {"temperature": 0.5, "seed": 1}),
    ],
)
def test_no_more_is_left_out_than_needed(
    cannot: tuple[str, ...], drop: tuple[Feature, ...], left: dict[str, float]
) -> None:
    made = lacking(*cannot, drop=drop)
    assert made.fitted(BOTH) == sampling(**left)
    assert made.fitted(PLAIN) is PLAIN
    alone = sampling(min_p=0.1)
    assert made.fitted(alone) is alone


def test_both_penalties_are_left_out() -> None:
    made = lacking("penalties", drop=(Feature.PENALTIES,))
    asked = sampling(presence_penalty=0.1, frequency_penalty=0.1, seed=1)
    assert made.fitted(asked) == sampling(seed=1)
    assert made.unsupported(made.fitted(asked)) == ()
