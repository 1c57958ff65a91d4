"""Streams of all servers through a real gateway, in both dialects, streamed and as a whole."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence

import grpc
import msgspec
import pytest

from gateway.domain.choice_assembler import ChoiceAssembler
from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import ChoiceDelta
from gateway.upstream.answer_bounds import AnswerBounds
from gateway.upstream.anthropic.stream import MessageDecoder
from gateway.upstream.http.sse import SseReader
from gateway.upstream.moegate.messages import AnswerDecoder
from gateway.upstream.openai.stream import StreamDecoder
from moegate.v1 import generation_pb2, inference_pb2
from scheduler.contract import AttemptOutcome
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.pricing import RateTier, TokenRates
from tests.gateway.upstream.call_cases import TOOL_CALLS
from tests.gateway.upstream.end_cases import FAILURES, FINISH
from tests.gateway.upstream.stream_cases import Case, recorded
from tests.gateway.upstream.text_cases import TEXT
from tests.gateway.upstream.usage_cases import USAGE
from tests.misbehaving import Act, Bench, Script, Side, misbehaving
from tests.serving import METADATA, chat_request, partial_output

CASES = [*recorded(), *TOOL_CALLS, *TEXT, *FINISH, *USAGE, *FAILURES]
GOOD = [case for case in CASES if not case.right.failure]
BROKEN = [case for case in CASES if case.right.failure]
SIDES = {"openai": (Side.OPENAI, Side.LOCAL), "anthropic": (Side.ANTHROPIC,)}
RATES = TokenRates(
    row_id="test/row",
    tiers=(
        RateTier(
            uncached_input=1_000_000_000,
            cached_input=100_000_000,
            cache_write=1_250_000_000,
            output=4_000_000_000,
        ),
    ),
)


class Got(msgspec.Struct):
    """What a client got. `error`: None: the answer is complete."""

    choices: list[ChoiceDelta]
    done: generation_pb2.Done
    error: grpc.aio.AioRpcError | None = None


Ask = Callable[[Bench, generation_pb2.GenerateRequest], Awaitable[Got]]


async def streamed(bench: Bench, request: generation_pb2.GenerateRequest) -> Got:
    """The answer as a stream."""
    answer, decoder = ChoiceAssembler(), AnswerDecoder(request.choices or 1, lambda: 1, origin="o")
    done = generation_pb2.Done()
    try:
        async for message in bench.served.stub.Generate(request, metadata=METADATA):
            if message.HasField("done"):
                done = message.done
            chunk = decoder.feed(message)
            for delta in chunk.deltas if chunk else ():
                answer.add(delta)
    except grpc.aio.AioRpcError as error:
        return Got(answer.choices(), done, error)
    return Got(answer.choices(), done)


async def at_once(bench: Bench, request: generation_pb2.GenerateRequest) -> Got:
    """The answer in one message."""
    whole = inference_pb2.GenerateOnceRequest(request=request)
    try:
        response = await bench.served.stub.GenerateOnce(whole, metadata=METADATA)
    except grpc.aio.AioRpcError as error:
        return Got([], generation_pb2.Done(), error)
    decoder = AnswerDecoder(request.choices or 1, lambda: 1, origin="o")
    delta = generation_pb2.Delta(choices=response.choices)
    chunk = decoder.feed(generation_pb2.GenerateResponse(delta=delta))
    return Got(list(chunk.deltas) if chunk else [], response.done)


def differences(case: Case, got: Got) -> list[str]:
    """What is not right."""
    right, found = case.right, list[str]()

    def same(name: str, seen: object, expected: object) -> None:
        if seen != expected:
            found.append(f"{name}: {seen!r}, not {expected!r}")

    if got.error is not None:
        return [f"failed: {got.error.details()}"]
    same("choices", len(got.choices), right.choices - right.missing)
    same("missing", got.done.missing_choices, right.missing)
    for choice in got.choices:
        same("text", choice.text, right.text)
        same("reasoning", choice.reasoning_text, right.reasoning)
        reason = choice.finish_reason
        same("finish", None if reason is None else reason.name, right.finish)
        ids = [call.id for call in choice.tool_calls]
        same("ids", len({each for each in ids if each}), len(ids))
        same("indexes", [call.index for call in choice.tool_calls], list(range(len(ids))))
        calls = [(call.name, _arguments(call.arguments_json)) for call in choice.tool_calls]
        same("calls", calls, right.calls)
        if right.signatures is not None:
            same("signatures", len(choice.signatures), right.signatures)
    usage = got.done.usage
    counts = (usage.prompt_tokens, usage.completion_tokens)
    for seen, count in zip(counts, right.usage or (None, None), strict=True):
        if count is not None:
            same("usage", seen, count)
    for seen, least in zip(counts, right.least_usage or (0, 0), strict=True):
        same("least usage", seen >= least, True)
        same("a usage that cannot be", seen < 20_000, True)
    same("estimated", usage.estimated, right.estimated)
    for name in ("cached", "cache_write"):
        expected = getattr(right, name)
        if expected is not msgspec.UNSET:
            field = f"{name}_tokens"
            count = getattr(usage, field) if usage.HasField(field) else None
            same(name, count, expected)
    if right.charged_nano_usd is not None:
        same("charged", got.done.cost.charged_nano_usd, right.charged_nano_usd)
    return found


def _arguments(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return f"no JSON: {text}"


def scripts(cases: Sequence[Case]) -> Script:
    return Script([Act(frames=case.pieces()) for case in cases])


@pytest.mark.parametrize("ask", [streamed, at_once])
@pytest.mark.parametrize(
    ("dialect", "side"), [(name, side) for name, sides in SIDES.items() for side in sides]
)
async def test_a_good_answer_is_what_the_server_meant(dialect: str, side: Side, ask: Ask) -> None:
    cases = [case for case in GOOD if case.dialect == dialect]
    wrong = {}
    async with misbehaving(side, scripts(cases)) as bench:
        scheduler = bench.served.gateway.scheduler
        names = [state.facts.name for state in scheduler.core.placements]
        scheduler.use_rates(RateSnapshot(rates=dict.fromkeys(names, RATES)))
        for case in cases:
            request = chat_request(choices=case.right.choices)
            found = differences(case, await ask(bench, request))
            if found:
                wrong[case.name] = found
        assert bench.calls == len(cases), "no answer is asked for twice"
        await bench.closes()
    assert wrong == {}


@pytest.mark.parametrize("ask", [streamed, at_once])
@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
async def test_an_answer_that_breaks_off_is_never_told_as_complete(case: Case, ask: Ask) -> None:
    for side in SIDES[case.dialect]:
        # A single attempt: the failure is not mended elsewhere.
        async with misbehaving(side, Script(rest=Act(frames=case.pieces()))) as bench:
            request = chat_request(choices=case.right.choices)
            got = await ask(bench, request)
            assert got.error is not None
            if ask is streamed:
                assert [choice.text for choice in got.choices][:1] == [case.right.text]
                info, usage = partial_output(got.error)
                assert info.reason == "PARTIAL_OUTPUT"
                assert usage.estimated
                assert bench.calls == 1, "nothing is replayed"
            await bench.closes()
            failed = next(each for each in bench.settled if each.usage is not None)
            kinds = [attempt.outcome for attempt in bench.settled]
            assert AttemptOutcome.OK not in kinds
            assert failed.usage is not None


def decoded(case: Case) -> StreamDecoder | MessageDecoder:
    """The decoder of a case's dialect, after the whole stream, for a request of 16 tokens."""
    bounds = AnswerBounds(
        max_output_tokens=16, choices=case.right.choices, prompt_token_bound=lambda: 288
    )
    decoder: StreamDecoder | MessageDecoder = MessageDecoder(lambda: 7, bounds=bounds)
    if case.dialect == "openai":
        decoder = StreamDecoder(case.right.choices, prompt_tokens=lambda: 7, bounds=bounds)
    reader = SseReader()
    for piece in case.pieces():
        decoder.feed(reader.feed(piece))
    if not case.right.failure:
        decoder.feed(reader.end())
    return decoder


@pytest.mark.parametrize(
    "case", [case for case in GOOD if case.right.deviations is not None], ids=lambda case: case.name
)
def test_what_an_answer_did_not_keep_to_is_told(case: Case) -> None:
    kinds = [deviation.kind.value for deviation in decoded(case).end().deviations]
    assert kinds == case.right.deviations


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_the_kind_of_a_failure_is_told(case: Case) -> None:
    decoder = decoded(case)
    with pytest.raises(UpstreamFailure) as caught:
        decoder.end()
    assert caught.value.kind == case.right.failure
