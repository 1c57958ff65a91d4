"""Another moegate as a remote: nothing is lost there and back, and what its errors mean."""

from __future__ import annotations

from pathlib import Path

import grpc
import msgspec
import pytest
from grpc.aio import AioRpcError, Metadata
from msgspec.structs import replace

from gateway.config.gateway import GatewayConfig, HeaderConfig, RemoteConfig, SecretConfig
from gateway.config.load.check import semantic_problems
from gateway.config.load.check_remote import remote_problems
from gateway.config.remote import Feature, OtherGatewayConfig, RemoteApi
from gateway.domain import outcomes
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import (
    Chat,
    ChoiceDelta,
    Chunk,
    DeviationKind,
    FinishReason,
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
    Session,
    Signature,
    TextChoice,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolMode,
)
from gateway.domain.slices import finish
from gateway.doors.grpc import errors
from gateway.doors.grpc.hops import hops_of
from gateway.doors.grpc.requests import generation_steps
from gateway.translation.responses import delta_message, usage_message
from gateway.upstream.answer_bounds import AnswerBounds
from gateway.upstream.features import unsupported
from gateway.upstream.moegate.failures import failure_of
from gateway.upstream.moegate.messages import (
    MOEGATE_FEATURES,
    AnswerDecoder,
    generate_request,
)
from moegate.v1 import chat_pb2
from moegate.v1 import generation_pb2 as pb
from scheduler.contract import RefusalReason, Refuse, SloClass, Usage

CALL = ToolCall(index=0, id="c1", name="look", arguments_json='{"q": 1}')
NO_ARGUMENTS = '{"type": "object", "properties": {}}'
TOOL = Tool(name="look", description="Looks.", parameters_json_schema=NO_ARGUMENTS, strict=True)
CHAT = Chat(
    messages=(
        Message(role=Role.SYSTEM, parts=("Be short.",)),
        Message(
            role=Role.USER,
            parts=("What is it?", Image(url="https://a.example/b.png"), "and this"),
            name="ann",
        ),
        Message(role=Role.USER, parts=(Image(data=b"\x89PNG", media_type="image/png"),)),
        Message(role=Role.ASSISTANT, parts=(), tool_calls=(CALL,), reasoning_text="Hm."),
        Message(role=Role.TOOL, parts=("42",), tool_call_id="c1"),
    ),
    tools=(TOOL,),
    tool_choice=NamedTool(name="look"),
    json_schema=JsonSchema(name="s", schema_json='{"type": "object"}', strict=True),
    parallel_tool_calls=False,
    reasoning=Reasoning(effort=ReasoningEffort.MAX, thinking=True, budget_tokens=50),
    template_kwargs_json='{"enable_thinking": true}',
    adaptive_thinking=True,
)
FULL = Generation(
    request_id="r",
    model="moe",
    input=CHAT,
    max_output_tokens=77,
    sampling=Sampling(
        temperature=0.0,
        top_p=0.5,
        top_k=-1,
        min_p=0.1,
        presence_penalty=-1.0,
        frequency_penalty=0.0,
        repetition_penalty=1.5,
        seed=0,
    ),
    stop=("END", "."),
    choices=3,
    logprobs=0,
    ignore_eos=True,
    min_tokens=3,
    logit_bias=((1, -100.0), (7, 0.5)),
    stop_token_ids=(9, 2),
)
PLAIN = Generation(request_id="r", model="moe", input="raw", max_output_tokens=1)


@pytest.mark.parametrize(
    "generation",
    [
        FULL,
        PLAIN,
        replace(PLAIN, input=(1, 2, 3), logprobs=5),
        replace(FULL, input=replace(CHAT, tool_choice=ToolMode.REQUIRED, json_schema=None)),
        replace(FULL, input=replace(CHAT, tool_choice=None, json_schema=None, json_object=True)),
        *(
            replace(FULL, input=replace(CHAT, json_schema=None, constraint=constraint))
            for constraint in (Regex("a+"), TextChoice(("yes", "no")), Grammar('root ::= "a"'))
        ),
        replace(FULL, input=replace(CHAT, reasoning=Reasoning(thinking=False))),
    ],
)
def test_what_the_other_gateway_reads_is_what_this_one_was_asked(generation: Generation) -> None:
    assert unsupported(generation, MOEGATE_FEATURES) == ()
    proto = finish(generate_request(generation, "theirs"))
    proto = pb.GenerateRequest.FromString(proto.SerializeToString())
    assert proto.request_id == "", "the ids there are its own"
    read = finish(generation_steps(proto, 5))
    assert replace(read, request_id="r", model="moe") == generation


def test_every_field_of_a_generation_is_tried_above() -> None:
    not_sent = {"request_id", "hints", "hops", "remote_classes", "continues"}
    not_sent.add("session")  # as a hint only, see below
    not_sent |= {"slo_class", "priority"}  # in fields of their own, see below
    not_sent.add("batch_work")  # the other gateway prices by the class that it is asked for
    for name in set(Generation.__struct_fields__) - not_sent:
        assert getattr(FULL, name) != getattr(PLAIN, name) or name == "model", name
    one_of = {"json_object", "constraint"}  # tried beside it
    for name in set(Chat.__struct_fields__) - one_of - {"messages"}:
        assert getattr(CHAT, name) != getattr(Chat(messages=()), name), name


def test_it_is_told_a_hint_of_the_session_and_never_the_session() -> None:
    talking = replace(PLAIN, session=Session(tenant="team", session_id="s-1"))
    assert finish(generate_request(talking, "theirs")).session_id == ""
    assert finish(generate_request(talking, "theirs", session_id="hint")).session_id == "hint"


def test_an_answer_that_goes_on_is_no_word_of_the_api() -> None:
    going_on = replace(PLAIN, continues=True)
    assert unsupported(going_on, MOEGATE_FEATURES) == ("chat.messages",)
    with pytest.raises(ValueError, match="goes on"):
        finish(generate_request(going_on, "theirs"))


def test_it_is_told_the_class_and_the_rank_unless_its_key_decides() -> None:
    urgent = replace(PLAIN, slo_class=SloClass.BATCH, priority=-3)
    told = finish(generate_request(urgent, "theirs"))
    assert (told.slo.slo_class, told.priority) == (pb.SLO_CLASS_BATCH, -3)
    untold = finish(generate_request(urgent, "theirs", tell_slo=False))
    assert not untold.HasField("slo")
    assert untold.priority == 0
    assert not finish(generate_request(PLAIN, "theirs")).HasField("slo")


@pytest.mark.parametrize(
    ("local_only", "shared", "allowed", "told"),
    [
        (False, (), ("eu",), (False, [])),
        (True, (), ("eu",), (True, [])),
        (True, ("eu",), ("eu",), (True, [])),
        (False, ("eu", "us"), ("eu", "far"), (False, ["eu"])),
        (False, ("eu", "us"), ("far",), (True, [])),
        (False, ("eu",), (), (True, [])),
    ],
)
def test_what_it_is_told_of_data(
    local_only: bool,
    shared: tuple[str, ...],
    allowed: tuple[str, ...],
    told: tuple[bool, list[str]],
) -> None:
    generation = replace(PLAIN, remote_classes=frozenset(allowed))
    proto = finish(generate_request(generation, "m", local_only=local_only, shared_classes=shared))
    policy = proto.data_policy
    assert (policy.local_only, list(policy.remote_classes)) == told
    assert proto.HasField("data_policy") is any(told)


def test_signatures_pass_through_and_go_back_to_their_servers() -> None:
    """Each gateway on the way puts its name before the origin, and takes it off on the way back."""
    inner = Signature(origin="server", data=b"\x00sealed")
    call = ToolCall(index=0, id="c", name="f", arguments_json="{}", signatures=(inner,))
    sent = delta_message(
        Chunk(
            deltas=(ChoiceDelta(index=0, tool_calls=(call,), signatures=(inner,)),),
            output_tokens=1,
        )
    )
    chunk = AnswerDecoder(1, lambda: 9, origin="far").feed(sent)
    assert chunk is not None
    (delta,) = chunk.deltas
    outer = Signature(origin="far/server", data=inner.data)
    assert delta.signatures == delta.tool_calls[0].signatures == (outer,)

    strangers = (inner, Signature(origin="far", data=b"x"), Signature(origin="other/a", data=b"x"))
    said = Message(
        role=Role.ASSISTANT,
        parts=("Hi",),
        tool_calls=(replace(call, signatures=(outer, *strangers)),),
        signatures=(*strangers, outer),
    )
    generation = replace(PLAIN, input=Chat(messages=(said,)))
    proto = finish(generate_request(generation, "theirs", origin="far"))
    read = finish(generation_steps(proto, 5))
    assert isinstance(read.input, Chat)
    (message,) = read.input.messages
    assert message.signatures == message.tool_calls[0].signatures == (inner,)


def test_signatures_of_another_gateway_have_bounds() -> None:
    small = chat_pb2.ReasoningSignature(origin="a", data=b"x")
    large = chat_pb2.ReasoningSignature(origin="a", data=b"x" * (1 << 20))
    nameless = chat_pb2.ReasoningSignature(origin="a" * 200, data=b"x")
    reader = AnswerDecoder(1, lambda: 9, origin="far")
    kept = 0
    for found in ([large, small, nameless], [small] * 200, [small]):
        choice = pb.ChoiceDelta(text="Hi", signatures=found)
        chunk = reader.feed(pb.GenerateResponse(delta=pb.Delta(choices=[choice])))
        assert chunk is not None
        kept += len(chunk.deltas[0].signatures)
    assert kept == 1, "the large one took all the bytes"


def decoder(choices: int = 1) -> AnswerDecoder:
    return AnswerDecoder(choices, lambda: 9)


def done(**fields: object) -> pb.GenerateResponse:
    return pb.GenerateResponse(done=pb.Done(**fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "delta",
    [
        ChoiceDelta(index=0, text="ä"),
        ChoiceDelta(index=1, reasoning_text="hm"),
        ChoiceDelta(index=0, tool_calls=(CALL, replace(CALL, index=1, id="", name=""))),
        ChoiceDelta(
            index=0,
            text="ab",
            logprobs=(
                TokenLogprob(token="a", logprob=-0.5, top=(("a", -0.5), ("b", -2.0))),
                TokenLogprob(token="b", logprob=-0.25),
            ),
        ),
        *(ChoiceDelta(index=1, finish_reason=reason) for reason in FinishReason),
        ChoiceDelta(index=1, finish_reason=FinishReason.STOP, matched_stop="END"),
    ],
)
def test_a_piece_comes_back_as_it_was(delta: ChoiceDelta) -> None:
    chunk = decoder(2).feed(delta_message(Chunk(deltas=(delta,), output_tokens=1)))
    assert chunk is not None
    assert chunk.deltas == (delta,)
    assert chunk.output_tokens == (len(delta.logprobs) or delta.has_content)


@pytest.mark.parametrize(
    "usage",
    [
        Usage(prompt_tokens=5, completion_tokens=3),
        Usage(prompt_tokens=5, completion_tokens=3, cached_tokens=0, reasoning_tokens=2),
        Usage(prompt_tokens=5, completion_tokens=3, cache_write_tokens=4),
        Usage(prompt_tokens=5, completion_tokens=1, cached_tokens=5, estimated=True),
    ],
)
def test_the_account_and_the_model_come_back(usage: Usage) -> None:
    made = decoder()
    made.feed(delta_message(Chunk(deltas=(last_delta(),), output_tokens=0)))
    assert not made.ended
    assert made.feed(done(model="theirs", usage=usage_message(usage))) is None
    assert made.ended
    last = made.end()
    assert (last.usage, last.model, last.output_tokens) == (
        usage,
        "theirs",
        usage.completion_tokens,
    )


def last_delta() -> ChoiceDelta:
    return ChoiceDelta(index=0, text="abcdefgh", finish_reason=FinishReason.STOP)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage(prompt_tokens=9, completion_tokens=2, estimated=True)),
        (
            pb.Usage(prompt_tokens=-1, completion_tokens=3),
            Usage(prompt_tokens=9, completion_tokens=3, estimated=True),
        ),
        (
            pb.Usage(prompt_tokens=1, completion_tokens=1 << 40),
            Usage(prompt_tokens=1, completion_tokens=16, estimated=True),
        ),
        (
            pb.Usage(prompt_tokens=1, completion_tokens=1, cached_tokens=2),
            Usage(prompt_tokens=1, completion_tokens=1),
        ),
    ],
)
def test_a_count_that_cannot_be_true_costs_that_count(
    usage: pb.Usage | None, expected: Usage
) -> None:
    made = AnswerDecoder(1, lambda: 9, bounds=AnswerBounds(max_output_tokens=16))
    made.feed(delta_message(Chunk(deltas=(last_delta(),), output_tokens=0)))
    made.feed(done(usage=usage))
    assert made.end().usage == expected


def test_a_choice_that_the_other_gateway_says_is_missing_is_missing() -> None:
    made = decoder(2)
    made.feed(delta_message(Chunk(deltas=(last_delta(),), output_tokens=0)))
    made.feed(pb.GenerateResponse(done=pb.Done(missing_choices=1)))
    assert made.end().missing_choices == 1


def test_an_answer_that_is_not_whole_is_a_cut() -> None:
    made = decoder(2)
    made.feed(delta_message(Chunk(deltas=(last_delta(),), output_tokens=0)))
    made.feed(done())
    with pytest.raises(UpstreamFailure, match="1 of 2 choices") as caught:
        made.end()
    assert caught.value.kind is FailureKind.SERVER_ERROR


def test_a_choice_that_was_not_asked_for_is_a_fault_of_the_protocol() -> None:
    with pytest.raises(UpstreamFailure) as caught:
        decoder().feed(pb.GenerateResponse(delta=pb.Delta(choices=[pb.ChoiceDelta(index=7)])))
    assert caught.value.kind is FailureKind.PROTOCOL


def test_a_finish_reason_of_a_later_version_ends_the_answer() -> None:
    made = decoder()
    choice = pb.ChoiceDelta(text="Hi", finish_reason=99)  # type: ignore[arg-type]
    chunk = made.feed(pb.GenerateResponse(delta=pb.Delta(choices=[choice])))
    assert chunk is not None
    assert (chunk.deltas[0].text, chunk.deltas[0].finish_reason) == ("Hi", FinishReason.STOP)
    made.feed(done(model="m" * 100_000))
    last = made.end()
    assert [each.kind for each in last.deviations] == [DeviationKind.FINISH_WORD]
    assert last.model == "m" * 200


def test_a_log_probability_that_is_no_number_is_left_out() -> None:
    inf = float("inf")
    entries = [
        pb.TokenLogprob(token="a", logprob=-inf),
        pb.TokenLogprob(token="b", logprob=-1.0, top=[pb.TopLogprob(token="c", logprob=inf)]),
        pb.TokenLogprob(token="d", logprob=float("nan")),
    ]
    choice = pb.ChoiceDelta(text="abd", logprobs=entries)
    chunk = decoder().feed(pb.GenerateResponse(delta=pb.Delta(choices=[choice])))
    assert chunk is not None
    assert chunk.deltas[0].logprobs == (TokenLogprob(token="b", logprob=-1.0),)


def test_more_output_than_was_asked_for_is_cut_and_its_bound_counts() -> None:
    made = AnswerDecoder(2, lambda: 9, bounds=AnswerBounds(max_output_tokens=16, choices=2))
    chunk = made.feed(
        pb.GenerateResponse(delta=pb.Delta(choices=[pb.ChoiceDelta(text="x" * 100_000)]))
    )
    assert chunk is not None
    first, second = (each for each in chunk.deltas if each.finish_reason is not None)
    assert sum(len(each.text) for each in chunk.deltas) == 64 * 16 + 2048
    assert {each.finish_reason for each in (first, second)} == {FinishReason.LENGTH}
    assert made.ended
    last = made.end()
    assert last.usage == Usage(prompt_tokens=9, completion_tokens=32, estimated=True)
    assert [each.kind for each in last.deviations] == [DeviationKind.OUTPUT_CUT]


def told(error: errors.RpcError, *, connected: bool = True) -> UpstreamFailure:
    trailers = Metadata(*error.trailing_metadata())
    return failure_of(
        AioRpcError(error.code, Metadata(), trailers, details=error.message), connected=connected
    )


def bare(code: grpc.StatusCode, text: str, *, connected: bool = True) -> UpstreamFailure:
    return failure_of(AioRpcError(code, Metadata(), Metadata(), details=text), connected=connected)


def refused(reason: RefusalReason, retry_after_s: float | None = None) -> errors.RpcError:
    reject = Refuse(request_id="r", reason=reason, message="no", retry_after_s=retry_after_s)
    return errors.from_refused(outcomes.refused(reject))


@pytest.mark.parametrize(
    ("error", "kind", "retry_after_s"),
    [
        (refused(RefusalReason.QUEUE_FULL, 2.5), FailureKind.BUSY, 2.5),
        (refused(RefusalReason.SHED), FailureKind.BUSY, None),
        (refused(RefusalReason.UNAVAILABLE, 1.0), FailureKind.BUSY, 1.0),
        (refused(RefusalReason.ATTEMPTS_EXHAUSTED), FailureKind.SERVER_ERROR, None),
        (refused(RefusalReason.TOO_LONG), FailureKind.CONTEXT_LENGTH, None),
        (refused(RefusalReason.QUARANTINED), FailureKind.QUARANTINED, None),
        (refused(RefusalReason.NO_PLACEMENT_ALLOWED), FailureKind.BAD_REQUEST, None),
        (refused(RefusalReason.UNKNOWN_MODEL), FailureKind.MODEL_NOT_FOUND, None),
        (refused(RefusalReason.DEADLINE), FailureKind.DEADLINE, None),
        (errors.exhausted("key", "KEY_LIMIT", 7200.0), FailureKind.BUSY, 3600.0),
        (errors.quota("b", "spent", "BUDGET_SPENT", None), FailureKind.CREDIT, None),
        (errors.quota("b", "held", "BUDGET_HELD", 3.0), FailureKind.BUSY, 3.0),
        (errors.unauthenticated("key mg-secret?"), FailureKind.CREDENTIALS, None),
        (errors.denied("key x may not"), FailureKind.CREDENTIALS, None),
    ],
)
def test_what_the_gateway_there_says(
    error: errors.RpcError, kind: FailureKind, retry_after_s: float | None
) -> None:
    failure = told(error)
    assert (failure.kind, failure.retry_after_s) == (kind, retry_after_s)
    assert "mg-secret" not in str(failure)


@pytest.mark.parametrize(
    ("kind", "seen"),
    [
        (FailureKind.CONTEXT_LENGTH, FailureKind.CONTEXT_LENGTH),
        (FailureKind.CONTENT_FILTER, FailureKind.CONTENT_FILTER),
        (FailureKind.BAD_REQUEST, FailureKind.BAD_REQUEST),
        (FailureKind.DEADLINE, FailureKind.DEADLINE),
        (FailureKind.BUSY, FailureKind.BUSY),
        (FailureKind.SERVER_ERROR, FailureKind.SERVER_ERROR),
        (FailureKind.CREDENTIALS, FailureKind.SERVER_ERROR),
    ],
)
def test_what_failed_behind_it(kind: FailureKind, seen: FailureKind) -> None:
    failure = told(errors.from_failure(UpstreamFailure(kind, "no", param="temperature")))
    assert failure.kind is seen
    if kind is FailureKind.BAD_REQUEST:
        assert failure.param == "sampling.temperature"
    usage = Usage(prompt_tokens=1, completion_tokens=1)
    broken = told(errors.partial_output(UpstreamFailure(kind, "no"), usage))
    late = kind is FailureKind.DEADLINE
    assert broken.kind is (FailureKind.DEADLINE if late else FailureKind.SERVER_ERROR)


def test_the_client_is_told_once_to_shorten_the_prompt() -> None:
    there = told(errors.from_failure(UpstreamFailure(FailureKind.CONTEXT_LENGTH, "10 tokens")))
    assert errors.from_failure(there).message.count("shorten") == 1


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (bare(grpc.StatusCode.UNAVAILABLE, "Connection reset by peer"), FailureKind.SERVER_ERROR),
        (
            bare(
                grpc.StatusCode.UNAVAILABLE, "ipv4:10.0.0.9:1: Connection refused", connected=False
            ),
            FailureKind.CONNECT,
        ),
        (bare(grpc.StatusCode.RESOURCE_EXHAUSTED, "a proxy is full"), FailureKind.BUSY),
        (
            bare(grpc.StatusCode.RESOURCE_EXHAUSTED, "CLIENT: Received message larger than max"),
            FailureKind.PROTOCOL,
        ),
        (
            bare(grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max"),
            FailureKind.BAD_REQUEST,
        ),
        (bare(grpc.StatusCode.INTERNAL, "RST_STREAM"), FailureKind.SERVER_ERROR),
        (bare(grpc.StatusCode.UNIMPLEMENTED, "no such method"), FailureKind.PROTOCOL),
        (bare(grpc.StatusCode.DEADLINE_EXCEEDED, ""), FailureKind.DEADLINE),
    ],
)
def test_what_grpc_itself_says(failure: UpstreamFailure, kind: FailureKind) -> None:
    assert failure.kind is kind
    assert "10.0.0.9" not in str(failure)


@pytest.mark.parametrize("value", ["-1", "x", "", "100", "1.0", "²", b"1"])
def test_hops_that_are_no_number_are_named(value: str | bytes) -> None:
    with pytest.raises(errors.RpcError, match="moegate-hops"):
        hops_of([("moegate-hops", value)])


def test_hops() -> None:
    assert hops_of([("other", "x")]) == 0
    assert hops_of([("moegate-hops", "3")]) == 3


def remote(**fields: object) -> RemoteConfig:
    good = {"api": RemoteApi.MOEGATE, "url": "grpc://inner.example:50051"}
    base = RemoteConfig(name="far", remote_class="eu", model="moe", url="https://api.example.com")
    return msgspec.structs.replace(base, **{**good, **fields})


@pytest.mark.parametrize(
    ("made", "path"),
    [
        (remote(url="https://inner.example:1"), "url"),
        (remote(api=RemoteApi.OPENAI), "url"),
        (remote(url="grpc://inner.example"), "url"),
        (remote(url="grpc://inner.example:1/path"), "url"),
        (remote(url_prefix="/api"), "url_prefix"),
        (remote(extra_body_json="{}"), "extra_body_json"),
        (remote(can=(Feature.CONTINUATION,)), "can[0]"),
        (remote(headers=(HeaderConfig(name="moegate-hops", value="0"),)), "headers[0].name"),
        (remote(headers=(HeaderConfig(name="A-Bin", value="0"),)), "headers[0].name"),
        (remote(headers=(HeaderConfig(name="a!", value="0"),)), "headers[0].name"),
        (remote(gateway=OtherGatewayConfig(ca="ca.pem")), "gateway.ca"),
        (remote(url="grpcs://i:1", gateway=OtherGatewayConfig(ca="none.pem")), "gateway.ca"),
        (remote(url="grpcs://i:1", gateway=OtherGatewayConfig(ca="empty.pem")), "gateway.ca"),
        (remote(url="grpcs://i:1", gateway=OtherGatewayConfig(key="empty.pem")), "gateway.key"),
        (
            remote(
                url="grpcs://i:1", gateway=OtherGatewayConfig(cert="empty.pem", key="empty.pem")
            ),
            "gateway.cert",
        ),
        (
            remote(
                api=RemoteApi.OPENAI, url="https://a", gateway=OtherGatewayConfig(local_only=True)
            ),
            "gateway",
        ),
    ],
)
def test_contradictions_are_named(made: RemoteConfig, path: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    found = [problem.path for problem in remote_problems("remotes[0]", made, tmp_path)]
    assert found == [f"remotes[0].{path}"]


def test_a_shared_class_must_be_one_of_this_configuration() -> None:
    made = remote(gateway=OtherGatewayConfig(shared_classes=("eu", "eu-zro")))
    (problem,) = semantic_problems(GatewayConfig(remotes=(made,)), Path.cwd())
    assert problem.path == "remotes[0].gateway.shared_classes[1]"


def test_a_good_one_has_no_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEGATE_INNER", "mg-key")
    made = remote(
        api_key=SecretConfig(env="MOEGATE_INNER"),
        headers=(HeaderConfig(name="X-Team", value="a"),),
        gateway=OtherGatewayConfig(local_only=True, shared_classes=("eu",), max_hops=2),
    )
    assert list(remote_problems("remotes[0]", made, Path.cwd())) == []


@pytest.mark.parametrize(("asked", "told"), [(-3, -3), (0, 0), (4, 4), (9, 5)])
def test_it_is_told_no_higher_priority_than_its_key_may_ask_for(asked: int, told: int) -> None:
    request = finish(generate_request(replace(PLAIN, priority=asked), "theirs", max_priority=5))
    assert request.priority == told
