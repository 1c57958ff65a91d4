"""What the API offers, as a real vLLM honours it: tools, formats, sampling, choices, limits.

The model is tiny and random: only what a grammar forces, or what vLLM counts, can be asserted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import grpc
import pytest
from google.rpc import error_details_pb2

from moegate.v1 import chat_pb2, generation_pb2, inference_pb2
from tests import serving
from tests.serving import GREEDY, METADATA, Serving, chat_request, detail, read_stream

# Every grammar lets white space through, of which a random model never tires: a penalty ends it.
TIRING = generation_pb2.Sampling(temperature=0.0, seed=1, frequency_penalty=2.0)
PROMPT = "What is the weather in Rome?"
# Short whatever the model likes: the grammar leaves it few choices.
CITIES = ["Paris", "Rome"]
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "enum": CITIES},
            "days": {"type": "integer", "minimum": 1, "maximum": 9},
            "note": {"type": "string", "maxLength": 8},
        },
        "required": ["city", "days", "note"],
        "additionalProperties": False,
    }
)
ENOUGH_TOKENS = 400
"""For any answer within the schema, with the white space that the grammar lets through."""


@dataclass(slots=True)
class Heard:
    """The pieces of one streamed choice, joined as a client joins them."""

    text: str = ""
    finish_reason: int = 0
    calls: dict[int, chat_pb2.ToolCall] = field(default_factory=dict)
    call_pieces: int = 0
    logprobs: list[generation_pb2.TokenLogprob] = field(default_factory=list)


async def hear(
    gateway: Serving, request: generation_pb2.GenerateRequest
) -> tuple[dict[int, Heard], generation_pb2.Done]:
    """A stream's choices by index, and its end."""
    choices: dict[int, Heard] = {}
    done = None
    call = gateway.stub.Generate(request, metadata=METADATA)
    while (message := await call.read()) is not grpc.aio.EOF:
        assert isinstance(message, generation_pb2.GenerateResponse)
        assert done is None, "a message after done"
        if message.WhichOneof("event") == "done":
            done = message.done
            continue
        for delta in message.delta.choices:
            heard = choices.setdefault(delta.index, Heard())
            assert not heard.finish_reason, "output after a choice's end"
            heard.text += delta.text
            heard.finish_reason = delta.finish_reason
            heard.logprobs.extend(delta.logprobs)
            for piece in delta.tool_calls:
                heard.call_pieces += 1
                whole = heard.calls.setdefault(piece.index, chat_pb2.ToolCall(index=piece.index))
                whole.id = whole.id or piece.id
                whole.name = whole.name or piece.name
                whole.arguments_json += piece.arguments_json
    assert done is not None
    return choices, done


async def once(
    gateway: Serving, request: generation_pb2.GenerateRequest
) -> inference_pb2.GenerateOnceResponse:
    response = await gateway.stub.GenerateOnce(
        inference_pb2.GenerateOnceRequest(request=request), metadata=METADATA
    )
    assert isinstance(response, inference_pb2.GenerateOnceResponse)
    return response


def shaped_chat(
    *,
    tool_choice: chat_pb2.ToolChoice | None = None,
    response_format: chat_pb2.ResponseFormat | None = None,
    **fields: object,
) -> generation_pb2.GenerateRequest:
    """A chat that repeats itself exactly, with the two tools if there is a `tool_choice`."""
    request = chat_request(
        PROMPT, **{"sampling": TIRING, "max_output_tokens": ENOUGH_TOKENS} | fields
    )
    if tool_choice is not None:
        for name in ("weather", "tides"):
            request.chat.tools.add(
                name=name, description=f"The {name} of a city.", parameters_json_schema=SCHEMA
            )
        request.chat.tool_choice.CopyFrom(tool_choice)
    if response_format is not None:
        request.chat.response_format.CopyFrom(response_format)
    return request


def check_fits_schema(text: str) -> None:
    value = json.loads(text)
    assert set(value) == {"city", "days", "note"}
    assert value["city"] in CITIES
    assert isinstance(value["days"], int)
    assert 1 <= value["days"] <= 9
    assert len(value["note"]) <= 8


REQUIRED = chat_pb2.ToolChoice(mode=chat_pb2.TOOL_CHOICE_MODE_REQUIRED)
NAMED = chat_pb2.ToolChoice(function_name="tides")


@pytest.mark.parametrize("tool_choice", [REQUIRED, NAMED], ids=["required", "named"])
async def test_a_forced_tool_call_comes_in_pieces_that_join(
    gateway: Serving, tool_choice: chat_pb2.ToolChoice
) -> None:
    # vLLM itself says "stop" where the function is named.
    finish_reason = generation_pb2.FINISH_REASON_TOOL_CALLS
    request = shaped_chat(tool_choice=tool_choice)
    choices, done = await hear(gateway, request)
    heard = choices[0]
    assert heard.finish_reason == finish_reason
    assert heard.call_pieces > 2, "streamed, not sent in one piece"
    assert sorted(heard.calls) == list(range(len(heard.calls)))
    for call in heard.calls.values():
        assert call.id
        assert call.name in ("weather", "tides")
        check_fits_schema(call.arguments_json)
    assert heard.calls[0].name == "tides" or tool_choice is REQUIRED
    assert len({call.id for call in heard.calls.values()}) == len(heard.calls)
    assert done.usage.completion_tokens > 2

    response = await once(gateway, request)
    [choice] = response.choices
    assert choice.finish_reason == finish_reason
    assert [(call.index, call.name, call.arguments_json) for call in choice.tool_calls] == [
        (call.index, call.name, call.arguments_json) for call in heard.calls.values()
    ]
    assert choice.text == heard.text


@pytest.mark.parametrize("mode", ["AUTO", "NONE", "UNSPECIFIED"])
async def test_tools_may_be_offered_without_force(gateway: Serving, mode: str) -> None:
    tool_choice = chat_pb2.ToolChoice(mode=f"TOOL_CHOICE_MODE_{mode}")
    request = shaped_chat(tool_choice=tool_choice, max_output_tokens=8, ignore_eos=True)
    choices, done = await hear(gateway, request)
    assert choices[0].text, "a random model calls no tool unless it must"
    assert not choices[0].calls
    assert choices[0].finish_reason == generation_pb2.FINISH_REASON_LENGTH
    assert done.usage.completion_tokens == 8


async def test_an_answered_tool_call_can_be_told_back(gateway: Serving) -> None:
    request = shaped_chat(tool_choice=NAMED)
    choices, _ = await hear(gateway, request)
    request.chat.messages.add(role=chat_pb2.ROLE_ASSISTANT, tool_calls=[choices[0].calls[0]])
    request.chat.messages.add(
        role=chat_pb2.ROLE_TOOL,
        tool_call_id=choices[0].calls[0].id,
        parts=[chat_pb2.ContentPart(text='{"sun": true}')],
    )
    request.chat.tool_choice.mode = chat_pb2.TOOL_CHOICE_MODE_NONE
    request.max_output_tokens = 4
    _, done = await hear(gateway, request)
    assert done.usage.completion_tokens > 0


async def test_an_answer_fits_the_schema(gateway: Serving) -> None:
    json_schema = chat_pb2.JsonSchemaFormat(name="plan", schema_json=SCHEMA, strict=True)
    request = shaped_chat(response_format=chat_pb2.ResponseFormat(json_schema=json_schema))
    choices, _ = await hear(gateway, request)
    assert choices[0].finish_reason == generation_pb2.FINISH_REASON_STOP
    check_fits_schema(choices[0].text)
    response = await once(gateway, request)
    assert response.choices[0].text == choices[0].text


async def test_a_json_object_begins_as_one(gateway: Serving) -> None:
    request = shaped_chat(
        response_format=chat_pb2.ResponseFormat(json_object=True), max_output_tokens=ENOUGH_TOKENS
    )
    choices, _ = await hear(gateway, request)
    if choices[0].finish_reason == generation_pb2.FINISH_REASON_STOP:
        assert isinstance(json.loads(choices[0].text), dict)
    else:
        # Nothing in the format makes a random model close its strings.
        assert choices[0].text.lstrip().startswith("{")


@pytest.mark.parametrize("rivals", [0, 1, 5])
@pytest.mark.parametrize("raw", [False, True], ids=["chat", "raw"])
async def test_every_token_comes_with_its_logprobs(
    gateway: Serving, raw: bool, rivals: int
) -> None:
    request = chat_request(
        PROMPT, sampling=GREEDY, logprobs=rivals, max_output_tokens=6, ignore_eos=True
    )
    if raw:
        request.prompt = PROMPT
    choices, done = await hear(gateway, request)
    assert done.usage.completion_tokens == len(choices[0].logprobs) == 6
    for entry in choices[0].logprobs:
        assert entry.logprob <= 0
        assert len(entry.top) >= rivals
        if rivals:
            # Greedy: the token that was drawn is the likeliest.
            assert max(top.logprob for top in entry.top) == pytest.approx(entry.logprob, abs=1e-6)
    response = await once(gateway, request)
    assert [entry.token for entry in response.choices[0].logprobs] == [
        entry.token for entry in choices[0].logprobs
    ]


@pytest.mark.parametrize("raw", [False, True], ids=["chat", "raw"])
async def test_the_second_identical_prompt_is_read_from_the_cache(
    gateway: Serving, raw: bool
) -> None:
    prompt = f"Dialects ({raw}) of a mixture. " * 100
    request = chat_request(prompt, sampling=GREEDY, max_output_tokens=2)
    if raw:
        request.prompt = prompt
    first = await once(gateway, request)
    second = await once(gateway, request)
    for response in (first, second):
        assert response.done.usage.HasField("cached_tokens")
    assert second.done.usage.cached_tokens > first.done.usage.cached_tokens
    assert second.done.usage.cached_tokens < second.done.usage.prompt_tokens
    assert first.done.usage.prompt_tokens == second.done.usage.prompt_tokens


@pytest.mark.parametrize("kind", ["chat", "raw", "tokens"])
async def test_a_prompt_beyond_the_context_names_the_field(gateway: Serving, kind: str) -> None:
    if kind == "tokens":
        request = generation_pb2.GenerateRequest(
            model=serving.MODEL, prompt_tokens=chat_pb2.TokenInput(token_ids=[5] * 9000)
        )
    else:
        # Few bytes a token: the gateway's own estimate lets it pass, vLLM counts.
        request = chat_request("1 2 3 4 5 " * 1800)
        if kind == "raw":
            request.prompt = "1 2 3 4 5 " * 1800
    error = await refusal(gateway, request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    [violation] = violations(error)
    assert violation.field == "input", "the API's word, not vLLM's"
    assert "8192" in violation.description


async def test_an_output_limit_beyond_the_context_names_the_field(gateway: Serving) -> None:
    error = await refusal(gateway, chat_request(PROMPT, max_output_tokens=9000))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    [violation] = violations(error)
    assert violation.field == "max_output_tokens", "the API's word, not vLLM's"
    assert "8192" in violation.description


def chat_with_image() -> generation_pb2.GenerateRequest:
    request = chat_request(PROMPT)
    request.chat.messages[0].parts.add(
        image=chat_pb2.ImagePart(data=b"no picture", media_type="image/png")
    )
    return request


def chat_with_schema(schema_json: str) -> generation_pb2.GenerateRequest:
    json_schema = chat_pb2.JsonSchemaFormat(name="bad", schema_json=schema_json)
    return shaped_chat(response_format=chat_pb2.ResponseFormat(json_schema=json_schema))


# Some of these vLLM refuses under HTTP 200, in the stream.
ONLY_VLLM_KNOWS = {
    "a token id beyond the vocabulary": generation_pb2.GenerateRequest(
        model=serving.MODEL, prompt_tokens=chat_pb2.TokenInput(token_ids=[5, 999_999])
    ),
    "greedy choices, which are all the same": chat_request(PROMPT, choices=2, sampling=GREEDY),
    "a type that no schema has": chat_with_schema('{"type": "no such type"}'),
    "a pattern that looks behind": chat_with_schema('{"type": "string", "pattern": "(?<=a)b"}'),
    "a picture for a model without eyes": chat_with_image(),
}


@pytest.mark.parametrize("name", ONLY_VLLM_KNOWS)
async def test_a_fault_that_only_vllm_sees_is_the_clients(gateway: Serving, name: str) -> None:
    error = await refusal(gateway, ONLY_VLLM_KNOWS[name])
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    [violation] = violations(error)
    assert violation.field
    assert violation.description
    # It says nothing about the server.
    assert all(state.serving for state in gateway.gateway.scheduler.core.placements)


@pytest.mark.parametrize("vllm_server", ["python"], indirect=True)  # in Rust: one choice
async def test_vllm_takes_the_most_choices_and_logprobs(gateway: Serving) -> None:
    request = chat_request(
        PROMPT,
        choices=16,
        logprobs=20,
        max_output_tokens=2,
        ignore_eos=True,
        sampling=generation_pb2.Sampling(temperature=1.0),
    )
    choices, done = await hear(gateway, request)
    assert sorted(choices) == list(range(16))
    assert all(len(entry.top) >= 20 for heard in choices.values() for entry in heard.logprobs)
    assert done.usage.completion_tokens == 32


@pytest.mark.parametrize("vllm_server", ["python"], indirect=True)  # in Rust: one choice
async def test_two_choices_stream_side_by_side(gateway: Serving) -> None:
    request = chat_request(
        PROMPT,
        choices=2,
        max_output_tokens=12,
        ignore_eos=True,
        sampling=generation_pb2.Sampling(temperature=1.5, seed=7),
    )
    choices, done = await hear(gateway, request)
    assert sorted(choices) == [0, 1]
    for heard in choices.values():
        assert heard.text
        assert heard.finish_reason == generation_pb2.FINISH_REASON_LENGTH
    assert choices[0].text != choices[1].text
    assert done.usage.completion_tokens == 24
    assert not done.usage.estimated


SAMPLING = {
    "temperature": generation_pb2.Sampling(temperature=2.0),
    "greedy": generation_pb2.Sampling(temperature=0.0),
    "top_p": generation_pb2.Sampling(top_p=0.5),
    "least top_p": generation_pb2.Sampling(top_p=1e-6),
    "top_k": generation_pb2.Sampling(top_k=5),
    "top_k of all, 0": generation_pb2.Sampling(top_k=0),
    "top_k of all, -1": generation_pb2.Sampling(top_k=-1),
    "top_k beyond the vocabulary": generation_pb2.Sampling(top_k=2**31 - 1),
    "min_p": generation_pb2.Sampling(min_p=0.1),
    "min_p of 1": generation_pb2.Sampling(min_p=1.0),
    "presence_penalty": generation_pb2.Sampling(presence_penalty=-2.0),
    "frequency_penalty": generation_pb2.Sampling(frequency_penalty=2.0),
    "repetition_penalty": generation_pb2.Sampling(repetition_penalty=1.2),
    "least repetition_penalty": generation_pb2.Sampling(repetition_penalty=0.01),
    "seed": generation_pb2.Sampling(seed=42),
    "least seed": generation_pb2.Sampling(seed=-(2**63)),
    "most seed": generation_pb2.Sampling(seed=2**63 - 1),
}


@pytest.mark.parametrize("raw", [False, True], ids=["chat", "raw"])
@pytest.mark.parametrize("name", SAMPLING)
async def test_vllm_takes_every_sampling_parameter(gateway: Serving, name: str, raw: bool) -> None:
    await check_taken(gateway, SAMPLING[name], raw=raw)


async def test_vllm_takes_the_most_repetition_penalty(gateway: Serving) -> None:
    await check_taken(gateway, generation_pb2.Sampling(repetition_penalty=100.0), raw=True)


@pytest.mark.parametrize("vllm_server", ["python"], indirect=True)  # in Rust: at most 2 in chats
async def test_vllm_takes_the_most_repetition_penalty_in_chats(gateway: Serving) -> None:
    await check_taken(gateway, generation_pb2.Sampling(repetition_penalty=100.0), raw=False)


async def check_taken(gateway: Serving, sampling: generation_pb2.Sampling, *, raw: bool) -> None:
    request = chat_request(PROMPT, sampling=sampling, max_output_tokens=3, ignore_eos=True)
    if raw:
        request.prompt = PROMPT
    seen = await read_stream(gateway.stub.Generate(request, metadata=METADATA))
    assert seen.done is not None
    assert seen.done.usage.completion_tokens == 3


async def test_a_seed_repeats_an_answer_and_another_does_not(gateway: Serving) -> None:
    texts = []
    for seed in (11, 11, 12):
        request = chat_request(
            PROMPT,
            sampling=generation_pb2.Sampling(temperature=1.5, seed=seed),
            max_output_tokens=16,
            ignore_eos=True,
        )
        texts.append((await once(gateway, request)).choices[0].text)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("raw", [False, True], ids=["chat", "raw"])
async def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(
    gateway: Serving, raw: bool
) -> None:
    request = chat_request(PROMPT, sampling=GREEDY, max_output_tokens=24, ignore_eos=True)
    if raw:
        request.prompt = PROMPT
    whole = (await once(gateway, request)).choices[0].text
    stop = whole[10:13]
    request.stop.extend([stop, "never written", "\x00", "ß" * 512])
    choices, _ = await hear(gateway, request)
    assert choices[0].text == whole[: whole.index(stop)]
    assert choices[0].finish_reason == generation_pb2.FINISH_REASON_STOP
    assert (await once(gateway, request)).choices[0].text == choices[0].text


async def refusal(
    gateway: Serving, request: generation_pb2.GenerateRequest
) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_stream(gateway.stub.Generate(request, metadata=METADATA))
    return caught.value


def violations(error: grpc.aio.AioRpcError) -> list[error_details_pb2.BadRequest.FieldViolation]:
    return list(detail(error, error_details_pb2.BadRequest).field_violations)
