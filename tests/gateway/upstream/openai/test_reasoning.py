"""How OpenAI-shaped APIs are told to reason, what the answer must look like, and tokens' rules."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from gateway.config.remote import (
    EFFORT_FEATURES,
    REASONING_EXPRESSED,
    Feature,
    ReasoningRequest,
    usual_reasoning_request,
)
from gateway.domain.generation import (
    Generation,
    Grammar,
    Reasoning,
    ReasoningEffort,
    Regex,
    TextChoice,
)
from gateway.domain.slices import finish
from gateway.upstream.features import capabilities
from gateway.upstream.openai.body import BodyOptions, generation_body, openai_features
from gateway.upstream.openai.reasoning import REFUSED_REASONING
from gateway.upstream.vllm.body import tokenize_body, vllm_body
from tests.gateway.upstream.openai.test_body import GENERATION, HELLO, WEATHER, chat_body

BOTH = {"enable_thinking": True, "thinking": True}
NEITHER = {"enable_thinking": False, "thinking": False}


def asked(reasoning: Reasoning) -> Generation:
    return replace(GENERATION, input=replace(HELLO, reasoning=reasoning))


def added(generation: Generation, request: ReasoningRequest) -> dict[str, Any]:
    """Fields that the reasoning adds to the body."""
    options = BodyOptions(features=openai_features(request), reasoning_request=request)
    plain = msgspec.json.decode(finish(generation_body(GENERATION, "up", options)))
    body = msgspec.json.decode(finish(generation_body(generation, "up", options)))
    return {name: value for name, value in body.items() if name not in plain}


HIGH = Reasoning(effort=ReasoningEffort.HIGH)
MAX = Reasoning(effort=ReasoningEffort.MAX)
ON, OFF = Reasoning(thinking=True), Reasoning(thinking=False)
BUDGET = Reasoning(budget_tokens=5)


@pytest.mark.parametrize(
    ("request_fields", "reasoning", "body"),
    [
        (ReasoningRequest.REASONING_EFFORT, HIGH, {"reasoning_effort": "high"}),
        (ReasoningRequest.REASONING_EFFORT, OFF, {"reasoning_effort": "none"}),
        (ReasoningRequest.REASONING, HIGH, {"reasoning": {"effort": "high"}}),
        (ReasoningRequest.REASONING, ON, {"reasoning": {"enabled": True}}),
        (ReasoningRequest.REASONING, OFF, {"reasoning": {"effort": "none"}}),
        (ReasoningRequest.REASONING, BUDGET, {"reasoning": {"max_tokens": 5}}),
        (ReasoningRequest.THINKING, ON, {"thinking": {"type": "enabled"}}),
        (ReasoningRequest.THINKING, OFF, {"thinking": {"type": "disabled"}}),
        (ReasoningRequest.THINKING_EFFORT, HIGH, {"reasoning_effort": "high"}),
        (ReasoningRequest.THINKING_EFFORT, MAX, {"reasoning_effort": "max"}),
        (ReasoningRequest.THINKING_EFFORT, OFF, {"thinking": {"type": "disabled"}}),
        (
            ReasoningRequest.THINKING_EFFORT,
            Reasoning(effort=ReasoningEffort.LOW, thinking=True),
            {"reasoning_effort": "low", "thinking": {"type": "enabled"}},
        ),
        (ReasoningRequest.CHAT_TEMPLATE, HIGH, {"reasoning_effort": "high"}),
        (ReasoningRequest.CHAT_TEMPLATE, ON, {"chat_template_kwargs": BOTH}),
        (
            ReasoningRequest.CHAT_TEMPLATE,
            OFF,
            {"reasoning_effort": "none", "chat_template_kwargs": NEITHER},
        ),
        (
            ReasoningRequest.CHAT_TEMPLATE,
            BUDGET,
            {"thinking_token_budget": 5, "chat_template_kwargs": BOTH},
        ),
    ],
)
def test_each_kind_of_api_has_its_own_fields(
    request_fields: ReasoningRequest, reasoning: Reasoning, body: dict[str, Any]
) -> None:
    assert added(asked(reasoning), request_fields) == body


@pytest.mark.parametrize("request_fields", ReasoningRequest)
@pytest.mark.parametrize("reasoning", [HIGH, MAX, ON, OFF, BUDGET])
def test_what_the_fields_cannot_say_is_refused_and_never_left_out(
    request_fields: ReasoningRequest, reasoning: Reasoning
) -> None:
    can = capabilities(openai_features(request_fields))
    if can.unsupported(asked(reasoning)):
        with pytest.raises(ValueError, match=r"chat\.reasoning"):
            added(asked(reasoning), request_fields)
    else:
        assert added(asked(reasoning), request_fields)


@pytest.mark.parametrize("effort", ReasoningEffort)
@pytest.mark.parametrize(
    "request_fields", [ReasoningRequest.REASONING_EFFORT, ReasoningRequest.CHAT_TEMPLATE]
)
def test_every_effort_is_said_in_openais_words(
    request_fields: ReasoningRequest, effort: ReasoningEffort
) -> None:
    body = added(asked(Reasoning(effort=effort)), request_fields)
    assert body == {"reasoning_effort": effort.value}


@pytest.mark.parametrize(
    ("effort", "feature"),
    [
        (ReasoningEffort.MINIMAL, Feature.EFFORT_MINIMAL),
        (ReasoningEffort.XHIGH, Feature.EFFORT_XHIGH),
        (ReasoningEffort.MAX, Feature.EFFORT_MAX),
    ],
)
def test_an_effort_that_a_model_lacks_is_refused(effort: ReasoningEffort, feature: Feature) -> None:
    usual = openai_features(ReasoningRequest.REASONING_EFFORT)
    lacks = capabilities(usual, cannot=[feature.value])
    assert lacks.unsupported(asked(Reasoning(effort=effort))) == ("chat.reasoning.effort",)
    assert lacks.unsupported(asked(HIGH)) == ()
    none = capabilities(usual, cannot=[each.value for each in EFFORT_FEATURES])
    assert none.unsupported(asked(Reasoning(effort=effort))) == ("chat.reasoning.effort",)


def test_openrouter_takes_an_effort_or_a_budget() -> None:
    request = ReasoningRequest.REASONING
    can = capabilities(openai_features(request), together=REFUSED_REASONING[request])
    both = Reasoning(effort=ReasoningEffort.LOW, budget_tokens=5)
    [fields] = can.unsupported(asked(both))
    assert set(fields.split("+")) == {"chat.reasoning.effort", "chat.reasoning.budget_tokens"}
    assert can.unsupported(asked(HIGH)) == ()


@pytest.mark.parametrize(
    ("url", "request_fields"),
    [
        ("https://openrouter.ai/api", ReasoningRequest.REASONING),
        ("https://API.deepseek.com:443", ReasoningRequest.THINKING_EFFORT),
        ("https://api.openai.com", ReasoningRequest.REASONING_EFFORT),
        ("http://[::1", ReasoningRequest.REASONING_EFFORT),
    ],
)
def test_hosts_that_are_known(url: str, request_fields: ReasoningRequest) -> None:
    assert usual_reasoning_request(url) is request_fields


def test_features_follow_the_fields() -> None:
    for request, features in REASONING_EXPRESSED.items():
        assert features <= openai_features(request)
    assert Feature.THINKING not in openai_features(ReasoningRequest.REASONING_EFFORT)


def test_variables_of_the_template_are_merged() -> None:
    chat = replace(HELLO, reasoning=ON, template_kwargs_json='{"thinking": 1, "deep": [2]}')
    extra = {"chat_template_kwargs": msgspec.Raw(b'{"deep": 0, "lang": "de"}')}
    made = replace(GENERATION, input=chat)
    variables = {"lang": "de", "enable_thinking": True, "thinking": 1, "deep": [2]}
    for body in (vllm_body(made, "up", 1, extra), tokenize_body(made, "up", extra)):
        assert msgspec.json.decode(finish(body))["chat_template_kwargs"] == variables
    plain = msgspec.json.decode(finish(vllm_body(GENERATION, "up", 1, extra)))
    assert plain["chat_template_kwargs"] == {"deep": 0, "lang": "de"}


def test_extra_fields_give_way_to_those_of_the_request() -> None:
    extra = {"min_tokens": msgspec.Raw(b"3"), "watermarking": msgspec.Raw(b"true")}
    body = msgspec.json.decode(finish(vllm_body(replace(GENERATION, min_tokens=2), "up", 1, extra)))
    assert (body["min_tokens"], body["watermarking"]) == (2, True)


@pytest.mark.parametrize(
    ("constraint", "body"),
    [
        (Regex("a+"), {"regex": "a+"}),
        (TextChoice(("yes", "no")), {"choice": ["yes", "no"]}),
        (Grammar('root ::= "a"'), {"grammar": 'root ::= "a"'}),
    ],
)
def test_forms_of_the_answer(
    constraint: Regex | TextChoice | Grammar, body: dict[str, Any]
) -> None:
    assert chat_body(constraint=constraint)["structured_outputs"] == body


def test_rules_for_tokens() -> None:
    made = replace(GENERATION, min_tokens=2, logit_bias=((7, -100.0),), stop_token_ids=(1, 2))
    body = msgspec.json.decode(finish(vllm_body(made, "up")))
    assert (body["min_tokens"], body["logit_bias"]) == (2, {"7": -100.0})
    assert body["stop_token_ids"] == [1, 2]


def test_one_tool_call_is_said_where_there_are_tools() -> None:
    assert chat_body(tools=(WEATHER,), parallel_tool_calls=False)["parallel_tool_calls"] is False
    assert chat_body(tools=(WEATHER,), parallel_tool_calls=True)["parallel_tool_calls"] is True
    assert "parallel_tool_calls" not in chat_body(tools=(WEATHER,))
    options = BodyOptions(features=frozenset({Feature.TOOLS}))
    chat = replace(HELLO, tools=(WEATHER,), parallel_tool_calls=True)
    body = finish(generation_body(replace(GENERATION, input=chat), "up", options))
    assert "parallel_tool_calls" not in msgspec.json.decode(body), "it is the default"
