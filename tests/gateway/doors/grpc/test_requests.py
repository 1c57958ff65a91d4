"""A client's request: what is refused, with which field path and which words."""

from __future__ import annotations

import json
import math

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from gateway.domain.generation import (
    Chat,
    Image,
    NamedTool,
    Reasoning,
    ReasoningEffort,
    Role,
    Signature,
    TextChoice,
    ToolMode,
)
from gateway.domain.slices import finish
from gateway.doors.grpc.errors import RpcError
from gateway.doors.grpc.requests import generation_steps
from moegate.v1 import chat_pb2 as chat
from moegate.v1 import generation_pb2 as pb


def user(text: str = "hi") -> chat.ChatMessage:
    return chat.ChatMessage(role=chat.ROLE_USER, parts=[chat.ContentPart(text=text)])


def good(**fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(
        **{"model": "moe", "chat": chat.ChatInput(messages=[user()]), **fields}  # type: ignore[arg-type]
    )


def with_chat(**fields: object) -> pb.GenerateRequest:
    merged = {"messages": [user()], **fields}
    return good(chat=chat.ChatInput(**merged))  # type: ignore[arg-type]


def violations(proto: pb.GenerateRequest) -> dict[str, str]:
    with pytest.raises(RpcError) as caught:
        finish(generation_steps(proto, 100))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    [detail] = caught.value.details
    assert isinstance(detail, error_details_pb2.BadRequest)
    return {v.field: v.description for v in detail.field_violations}


def test_a_plain_chat_takes_the_defaults() -> None:
    generation = finish(generation_steps(good(), 100))
    assert isinstance(generation.input, Chat)
    assert generation.input.messages[0].role is Role.USER
    assert generation.input.messages[0].parts == ("hi",)
    assert (generation.max_output_tokens, generation.choices) == (100, 1)
    assert generation.logprobs is None
    assert generation.sampling.temperature is None
    assert len(generation.request_id) == 24


def test_every_field_arrives() -> None:
    generation = finish(
        generation_steps(
            good(
                prompt="raw",
                sampling=pb.Sampling(temperature=0.0, top_p=0.5, top_k=-1, seed=-7),
                max_output_tokens=5,
                stop=["a", "b"],
                choices=3,
                logprobs=0,
                ignore_eos=True,
                request_id="mine:1",
            ),
            100,
        )
    )
    assert generation.input == "raw"
    assert generation.sampling.temperature == 0.0
    assert (generation.sampling.top_k, generation.sampling.seed) == (-1, -7)
    assert (generation.stop, generation.choices, generation.logprobs) == (("a", "b"), 3, 0)
    assert (generation.max_output_tokens, generation.ignore_eos) == (5, True)
    assert generation.request_id == "mine:1"
    tokens = finish(generation_steps(good(prompt_tokens=chat.TokenInput(token_ids=[1, 2])), 100))
    assert tokens.input == (1, 2)


def sealed(**fields: object) -> chat.ReasoningSignature:
    return chat.ReasoningSignature(**{"origin": "server", "data": b"x", **fields})  # type: ignore[arg-type]


def said(role: chat.Role = chat.ROLE_ASSISTANT, **fields: object) -> pb.GenerateRequest:
    message = chat.ChatMessage(role=role, parts=[chat.ContentPart(text="Hi")], **fields)  # type: ignore[arg-type]
    return with_chat(messages=[message])


def test_signatures_arrive() -> None:
    call = chat.ToolCall(id="c", name="f", signatures=[sealed(data=b"call")])
    generation = finish(generation_steps(said(signatures=[sealed()], tool_calls=[call]), 100))
    assert isinstance(generation.input, Chat)
    (message,) = generation.input.messages
    assert message.signatures == (Signature(origin="server", data=b"x"),)
    assert message.tool_calls[0].signatures == (Signature(origin="server", data=b"call"),)


@pytest.mark.parametrize(
    ("proto", "field", "words"),
    [
        (said(chat.ROLE_USER, signatures=[sealed()]), "signatures", "only ROLE_ASSISTANT"),
        (said(signatures=[sealed()] * 129), "signatures", "129: at most 128"),
        (
            said(
                signatures=[sealed()] * 65,
                tool_calls=[chat.ToolCall(id="c", name="f", signatures=[sealed()] * 64)],
            ),
            "signatures",
            "129: at most 128",
        ),
        (said(signatures=[sealed(data=b"x" * 600_000)] * 2), "signatures", "1200000 bytes"),
        (said(signatures=[sealed(origin="")]), "signatures[0].origin", "0 bytes"),
        (said(signatures=[sealed(origin="ä" * 65)]), "signatures[0].origin", "130 bytes"),
        (said(signatures=[sealed(), sealed(data=b"")]), "signatures[1].data", "empty"),
        (
            said(tool_calls=[chat.ToolCall(id="c", name="f", signatures=[sealed(data=b"")])]),
            "tool_calls[0].signatures[0].data",
            "empty",
        ),
    ],
)
def test_signatures_have_bounds(proto: pb.GenerateRequest, field: str, words: str) -> None:
    found = violations(proto)
    assert words in found[f"chat.messages[0].{field}"], found


def test_tools_pictures_and_schemas_arrive() -> None:
    steps = generation_steps(
        with_chat(
            messages=[
                chat.ChatMessage(
                    role=chat.ROLE_USER,
                    parts=[
                        chat.ContentPart(text="what is it?"),
                        chat.ContentPart(
                            image=chat.ImagePart(data=b"\x89PNG", media_type="image/png")
                        ),
                    ],
                )
            ],
            tools=[chat.ToolDefinition(name="look", parameters_json_schema='{"type":"object"}')],
            tool_choice=chat.ToolChoice(function_name="look"),
            response_format=chat.ResponseFormat(
                json_schema=chat.JsonSchemaFormat(name="shape", schema_json="{}", strict=True)
            ),
        ),
        100,
    )
    generation = finish(steps)
    assert isinstance(generation.input, Chat)
    assert generation.input.messages[0].parts[1] == Image(data=b"\x89PNG", media_type="image/png")
    assert generation.input.tool_choice == NamedTool(name="look")
    assert generation.input.json_schema is not None
    assert generation.input.json_schema.strict
    required = with_chat(
        tools=[chat.ToolDefinition(name="look")],
        tool_choice=chat.ToolChoice(mode=chat.TOOL_CHOICE_MODE_REQUIRED),
    )
    parsed = finish(generation_steps(required, 100)).input
    assert isinstance(parsed, Chat)
    assert parsed.tool_choice is ToolMode.REQUIRED


CASES = {
    "model": good(model=""),
    "input": pb.GenerateRequest(model="moe"),
    "prompt": good(prompt=""),
    "prompt_tokens.token_ids": good(prompt_tokens=chat.TokenInput()),
    "chat.messages": good(chat=chat.ChatInput()),
    "chat.messages[0].role": with_chat(
        messages=[chat.ChatMessage(parts=[chat.ContentPart(text="x")])]
    ),
    "chat.messages[0].parts": with_chat(messages=[chat.ChatMessage(role=chat.ROLE_USER)]),
    "chat.messages[0].parts[0]": with_chat(
        messages=[chat.ChatMessage(role=chat.ROLE_USER, parts=[chat.ContentPart()])]
    ),
    "chat.messages[0].tool_call_id": with_chat(
        messages=[chat.ChatMessage(role=chat.ROLE_TOOL, parts=[chat.ContentPart(text="x")])]
    ),
    "chat.messages[0].tool_calls": with_chat(
        messages=[
            chat.ChatMessage(
                role=chat.ROLE_USER,
                parts=[chat.ContentPart(text="x")],
                tool_calls=[chat.ToolCall(name="f")],
            )
        ]
    ),
    "chat.messages[0].parts[0].image.url": with_chat(
        messages=[
            chat.ChatMessage(
                role=chat.ROLE_USER,
                parts=[chat.ContentPart(image=chat.ImagePart(url="file:///etc/passwd"))],
            )
        ]
    ),
    "chat.tools[0].name": with_chat(tools=[chat.ToolDefinition(name="no spaces")]),
    "chat.tools": with_chat(tools=[chat.ToolDefinition(name="f"), chat.ToolDefinition(name="f")]),
    "chat.tools[0].parameters_json_schema": with_chat(
        tools=[chat.ToolDefinition(name="f", parameters_json_schema="[1]")]
    ),
    "chat.tool_choice.function_name": with_chat(tool_choice=chat.ToolChoice(function_name="f")),
    "chat.response_format.json_schema.schema_json": with_chat(
        response_format=chat.ResponseFormat(
            json_schema=chat.JsonSchemaFormat(name="s", schema_json="{")
        )
    ),
    "sampling.temperature": good(sampling=pb.Sampling(temperature=2.5)),
    "sampling.top_p": good(sampling=pb.Sampling(top_p=0.0)),
    "sampling.min_p": good(sampling=pb.Sampling(min_p=math.nan)),
    "sampling.repetition_penalty": good(sampling=pb.Sampling(repetition_penalty=math.inf)),
    "sampling.presence_penalty": good(sampling=pb.Sampling(presence_penalty=-math.inf)),
    "sampling.frequency_penalty": good(sampling=pb.Sampling(frequency_penalty=2.0000001)),
    "sampling.top_k": good(sampling=pb.Sampling(top_k=-2)),
    "max_output_tokens": good(max_output_tokens=0),
    "stop": good(stop=["x"] * 5),
    "stop[1]": good(stop=["x", ""]),
    "choices": good(choices=17),
    "logprobs": good(logprobs=21),
    "slo.ttft": good(slo=pb.Slo(ttft=Duration(seconds=-1))),
    "slo.tpot": good(slo=pb.Slo(tpot=Duration())),
    "slo.slo_class": good(slo=pb.Slo(slo_class=9)),  # type: ignore[arg-type]
    "priority": good(priority=11),
    "session_id": good(session_id="x" * 129),
    "request_id": good(request_id="no spaces"),
    "max_cost_nano_usd": good(max_cost_nano_usd=0),
    "idempotency_key": good(idempotency_key="x" * 129),
}


@pytest.mark.parametrize(("field", "proto"), CASES.items(), ids=CASES.keys())
def test_a_fault_names_its_field(field: str, proto: pb.GenerateRequest) -> None:
    assert list(violations(proto)) == [field]


@pytest.mark.parametrize("value", [5e-324, 1e-40, 0.0099, -1.0, 100.1, math.nan])
def test_no_penalty_makes_an_engines_logits_nan(value: float) -> None:
    assert violations(good(sampling=pb.Sampling(repetition_penalty=value))) == {
        "sampling.repetition_penalty": f"{value}: give 0.01 to 100"
    }
    finish(generation_steps(good(sampling=pb.Sampling(repetition_penalty=0.01)), 100))


def test_a_session_is_named_as_every_ledger_can_keep_it() -> None:
    assert violations(good(session_id="a\0b")) == {
        "session_id": "'a\\x00b': leave NUL characters out"
    }
    finish(generation_steps(good(session_id="Ünal 7\t"), 100))  # anything else may be in it


def test_all_faults_are_told_together_and_with_their_values() -> None:
    found = violations(
        pb.GenerateRequest(sampling=pb.Sampling(temperature=9.0), priority=-11, choices=99)
    )
    assert list(found) == ["model", "input", "sampling.temperature", "priority", "choices"]
    assert found["sampling.temperature"] == "9.0: give 0 to 2"
    assert found["priority"] == "-11: give -10 to 10"


def test_at_most_twenty_faults_are_collected_and_the_check_ends() -> None:
    messages = [chat.ChatMessage(role=chat.ROLE_UNSPECIFIED)] * 1000  # two faults each
    with pytest.raises(RpcError) as caught:
        finish(generation_steps(good(chat=chat.ChatInput(messages=messages)), 100))
    [detail] = caught.value.details
    assert isinstance(detail, error_details_pb2.BadRequest)
    assert 1 < len(detail.field_violations) <= 20
    assert "at least" in detail.field_violations[-1].description
    assert caught.value.message.endswith("; and more: mend these first")
    steps = generation_steps(good(chat=chat.ChatInput(messages=messages)), 100)
    with pytest.raises(RpcError):
        assert sum(1 for _ in steps) <= 20


def test_exactly_twenty_faults_are_all_there_are() -> None:
    messages = [chat.ChatMessage(role=chat.ROLE_UNSPECIFIED)] * 10
    with pytest.raises(RpcError) as caught:
        finish(generation_steps(good(chat=chat.ChatInput(messages=messages)), 100))
    assert "at least" not in caught.value.message
    assert "and more" not in caught.value.message


def test_long_values_are_shortened_in_faults() -> None:
    image = chat.ContentPart(image=chat.ImagePart(data=b"x", media_type="y" * 100_000))
    found = violations(with_chat(messages=[chat.ChatMessage(role=chat.ROLE_USER, parts=[image])]))
    assert len(found["chat.messages[0].parts[0].image.media_type"]) < 200


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("image/jpg", "image/jpeg"),
        ("IMAGE/JPG", "image/jpeg"),
        ("image/pjpeg", "image/jpeg"),
        ("image/jpeg; charset=binary", "image/jpeg"),
        (" image/PNG ", "image/png"),
        ("image/webp", "image/webp"),
    ],
)
def test_media_types_become_the_registered_ones(given: str, sent: str) -> None:
    image = chat.ContentPart(image=chat.ImagePart(data=b"x", media_type=given))
    proto = with_chat(messages=[chat.ChatMessage(role=chat.ROLE_USER, parts=[image])])
    parsed = finish(generation_steps(proto, 100)).input
    assert isinstance(parsed, Chat)
    assert parsed.messages[0].parts == (Image(data=b"x", media_type=sent),)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("", {"type": "object", "properties": {}}),
        ("{}", {"type": "object", "properties": {}}),
        ('{"type": "object"}', {"type": "object", "properties": {}}),
        ('{"type": null}', {"type": "object", "properties": {}}),
        (
            '{"type": ["object", "null"], "properties": {"a": 1.50}}',
            {"type": "object", "properties": {"a": 1.5}},
        ),
        (
            '{"properties": {"a": {"type": "string"}}, "required": ["a"]}',
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        ),
        (
            '{"anyOf": [{}], "$defs": {}}',
            {"type": "object", "properties": {}, "anyOf": [{}], "$defs": {}},
        ),
    ],
)
def test_schemas_of_tools_are_of_type_object(given: str, sent: dict[str, object]) -> None:
    tool = chat.ToolDefinition(name="f", parameters_json_schema=given)
    parsed = finish(generation_steps(with_chat(tools=[tool]), 100)).input
    assert isinstance(parsed, Chat)
    assert json.loads(parsed.tools[0].parameters_json_schema) == sent


def test_a_complete_schema_stays_as_it_is() -> None:
    schema = '{ "properties":{}, "type" : "object" }'
    tool = chat.ToolDefinition(name="f", parameters_json_schema=schema)
    parsed = finish(generation_steps(with_chat(tools=[tool]), 100)).input
    assert isinstance(parsed, Chat)
    assert parsed.tools[0].parameters_json_schema == schema


def test_reasoning_forms_and_token_rules_arrive() -> None:
    tool = chat.ToolDefinition(name="f")
    proto = with_chat(
        tools=[tool],
        parallel_tool_calls=False,
        reasoning=chat.Reasoning(effort=chat.REASONING_EFFORT_LOW, budget_tokens=9),
        chat_template_kwargs_json='{"deep": true}',
        response_format=chat.ResponseFormat(choice=chat.ChoiceFormat(texts=["yes", "no"])),
    )
    proto.min_tokens, proto.max_output_tokens = 3, 10
    proto.logit_bias.update({7: -100.0, 2: 0.5})
    proto.stop_token_ids.extend([4, 4, 5])
    generation = finish(generation_steps(proto, 100))
    assert (generation.min_tokens, generation.stop_token_ids) == (3, (4, 5))
    assert generation.logit_bias == ((2, 0.5), (7, -100.0))
    asked = generation.input
    assert isinstance(asked, Chat)
    assert asked.parallel_tool_calls is False
    assert asked.reasoning == Reasoning(effort=ReasoningEffort.LOW, budget_tokens=9)
    assert asked.template_kwargs_json == '{"deep": true}'
    assert asked.constraint == TextChoice(("yes", "no"))


@pytest.mark.parametrize(
    ("given", "effort"),
    [
        (chat.REASONING_EFFORT_MINIMAL, ReasoningEffort.MINIMAL),
        (chat.REASONING_EFFORT_HIGH, ReasoningEffort.HIGH),
        (chat.REASONING_EFFORT_XHIGH, ReasoningEffort.XHIGH),
        (chat.REASONING_EFFORT_MAX, ReasoningEffort.MAX),
    ],
)
def test_efforts(given: chat.ReasoningEffort, effort: ReasoningEffort) -> None:
    asked = finish(generation_steps(reasoned(effort=given), 100)).input
    assert isinstance(asked, Chat)
    assert asked.reasoning == Reasoning(effort=effort)


def test_no_effort_is_no_thinking() -> None:
    none = chat.Reasoning(effort=chat.REASONING_EFFORT_NONE)
    asked = finish(generation_steps(with_chat(reasoning=none), 100)).input
    assert isinstance(asked, Chat)
    assert asked.reasoning == Reasoning(thinking=False)
    asked = finish(generation_steps(with_chat(reasoning=chat.Reasoning()), 100)).input
    assert isinstance(asked, Chat)
    assert asked.reasoning is None


def reasoned(**fields: object) -> pb.GenerateRequest:
    return with_chat(reasoning=chat.Reasoning(**fields))  # type: ignore[arg-type]


def formed(**fields: object) -> pb.GenerateRequest:
    return with_chat(response_format=chat.ResponseFormat(**fields))  # type: ignore[arg-type]


def of_texts(*texts: str) -> pb.GenerateRequest:
    return formed(choice=chat.ChoiceFormat(texts=texts))


@pytest.mark.parametrize(
    ("proto", "field", "words"),
    [
        (good(min_tokens=101), "min_tokens", "at most max_output_tokens, which is 100"),
        (good(logit_bias={5: 100.5}), "logit_bias[5]", "give -100 to 100"),
        (good(logit_bias={5: math.nan}), "logit_bias[5]", "nan"),
        (good(logit_bias={2**31: 1.0}), "logit_bias[2147483648]", "no token id"),
        (good(logit_bias=dict.fromkeys(range(301), 1.0)), "logit_bias", "301 tokens: at most 300"),
        (good(stop_token_ids=[1, 2**31]), "stop_token_ids[1]", "no token id"),
        (good(stop_token_ids=range(129)), "stop_token_ids", "129 token ids: at most 128"),
        (with_chat(parallel_tool_calls=True), "chat.parallel_tool_calls", "no tools"),
        (reasoned(effort=99), "chat.reasoning.effort", "99 is no effort"),
        (reasoned(effort=1, thinking=True), "chat.reasoning.thinking", "effort NONE"),
        (reasoned(effort=3, thinking=False), "chat.reasoning.effort", "low without thinking"),
        (reasoned(thinking=False, budget_tokens=3), "chat.reasoning.budget_tokens", "without"),
        (reasoned(budget_tokens=0), "chat.reasoning.budget_tokens", "at least 1"),
        (formed(regex=" "), "chat.response_format.regex", "empty"),
        (formed(regex="a\0"), "chat.response_format.regex", "NUL"),
        (formed(grammar=""), "chat.response_format.grammar", "empty"),
        (of_texts(), "chat.response_format.choice.texts", "0 texts: give 1 to 256"),
        (of_texts("a", ""), "chat.response_format.choice.texts[1]", "0 bytes"),
        (of_texts("x" * 1025), "chat.response_format.choice.texts[0]", "1025 bytes"),
        (with_chat(chat_template_kwargs_json="[1]"), "chat.chat_template_kwargs_json", "object"),
        (
            with_chat(chat_template_kwargs_json='{"chat_template": "x"}'),
            "chat.chat_template_kwargs_json",
            "chat_template is no variable",
        ),
    ],
)
def test_reasoning_forms_and_token_rules_have_bounds(
    proto: pb.GenerateRequest, field: str, words: str
) -> None:
    found = violations(proto)
    assert words in found[field], found


def test_a_budget_is_less_than_the_output() -> None:
    proto = reasoned(budget_tokens=50)
    proto.max_output_tokens = 50
    assert "max_output_tokens is 50" in violations(proto)["chat.reasoning.budget_tokens"]
