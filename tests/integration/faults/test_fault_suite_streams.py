"""The fault suite, second part: faults in the middle of an answer, accounts that are wrong, clients
that leave, and what is done about slow and cut answers where that is switched on."""

from __future__ import annotations

import asyncio

import grpc
import msgspec
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gateway.config.gateway import RemoteConfig
from gateway.config.remote import FailuresConfig, Feature, HedgingConfig
from moegate.v1 import chat_pb2, generation_pb2
from scheduler.contract import AttemptOutcome
from tests.misbehaving import (
    CONTINUING_SIDES,
    INPUT_NANO_USD,
    OUTPUT_NANO_USD,
    PROMPT_TOKENS,
    REMOTE_SIDES,
    SIDES,
    Act,
    Bench,
    Script,
    Side,
    misbehaving,
)
from tests.serving import METADATA, Streamed, chat_request, first_message, read_stream, until

ANSWER = " w1 w2 w3"

IN_THE_MIDDLE = {
    "cut after 2 tokens": Act(tokens=2, end="cut"),
    "stalls": Act(tokens=2, end="hang"),
    "malformed chunk": Act(tokens=2, end="garbage"),
    "error in the stream": Act(tokens=2, end="error"),
    "ends without a finish": Act(tokens=2, end="unfinished"),
}


async def stream(bench: Bench, request: generation_pb2.GenerateRequest | None = None) -> Streamed:
    call = bench.served.stub.Generate(request or chat_request(), metadata=METADATA)
    return await read_stream(call)


async def partial(bench: Bench) -> tuple[str, grpc.aio.AioRpcError]:
    """What came of a stream that breaks off, and how it ended."""
    call = bench.served.stub.Generate(chat_request(), metadata=METADATA)
    text = ""
    try:
        while True:
            message = await first_message(call)
            assert not message.HasField("done")
            text += "".join(choice.text for choice in message.delta.choices)
    except grpc.aio.AioRpcError as error:
        return text, error


@pytest.mark.parametrize("name", IN_THE_MIDDLE)
@pytest.mark.parametrize("side", SIDES)
async def test_after_content_the_client_is_told(side: Side, name: str) -> None:
    script = Script([IN_THE_MIDDLE[name]])
    async with misbehaving(side, script, script) as bench:
        text, error = await partial(bench)
        assert text == " w1 w2"
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        status = rpc_status.from_call(error)
        assert status is not None
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert info.reason == "PARTIAL_OUTPUT"
        trailers = dict(error.trailing_metadata() or ())
        assert trailers["grpc-retry-pushback-ms"] == "-1"
        usage = generation_pb2.Usage.FromString(bytes(trailers["moegate-usage-bin"]))
        assert (usage.completion_tokens, usage.estimated) == (2, True)
        assert bench.calls == 1, "nothing is replayed"
        await bench.closes()
        (attempt,) = bench.settled
        assert (attempt.outcome, attempt.final) == (AttemptOutcome.FAILED, True)
        assert attempt.usage is not None
        # Two tokens were handed over: they are charged, and the prompt that they took.
        expected = attempt.usage.prompt_tokens * INPUT_NANO_USD + 2 * OUTPUT_NANO_USD
        assert attempt.charged_nano_usd == expected


@pytest.mark.parametrize("side", SIDES)
async def test_a_missing_end_marker_is_no_fault(side: Side) -> None:
    async with misbehaving(side, Script([Act(end="no_marker")])) as bench:
        seen = await stream(bench)
        assert seen.texts == {0: ANSWER}
        assert seen.done is not None
        assert seen.done.usage.completion_tokens == 3
        await bench.closes()


@pytest.mark.parametrize(
    ("told", "counted", "estimated"),
    [
        (None, (None, 3), True),
        ((-7, 3), (None, 3), True),
        ((1 << 60, 3), (None, 3), True),
        ((PROMPT_TOKENS, -1), (None, 3), True),
        ((PROMPT_TOKENS, 700), (PROMPT_TOKENS, 700), False),
    ],
)
@pytest.mark.parametrize("side", REMOTE_SIDES)
async def test_a_wrong_account_of_a_remote(
    side: Side,
    told: tuple[int, int] | None,
    counted: tuple[int | None, int],
    estimated: bool,
) -> None:
    async with misbehaving(side, Script([Act(usage=told)])) as bench:
        seen = await stream(bench)
        assert seen.texts == {0: ANSWER}
        assert seen.done is not None
        usage = seen.done.usage
        assert usage.estimated is estimated
        prompt, completion = counted
        if prompt is not None:
            assert usage.prompt_tokens == prompt
        else:
            assert 1 <= usage.prompt_tokens <= 100, "an estimate from the text"
        if not estimated or told is None:
            assert usage.completion_tokens == completion
        assert 0 <= usage.completion_tokens <= 1000
        cost = usage.prompt_tokens * INPUT_NANO_USD + usage.completion_tokens * OUTPUT_NANO_USD
        assert seen.done.cost.charged_nano_usd == cost
        basis = generation_pb2.COST_BASIS_LIST_PRICE
        assert (seen.done.cost.basis != basis) is estimated
        await bench.closes()


@pytest.mark.parametrize("side", SIDES)
async def test_a_client_that_leaves_ends_the_upstream_and_pays_for_what_ran(side: Side) -> None:
    async with misbehaving(side, Script([Act(tokens=2, end="hang")])) as bench:
        call = bench.served.stub.Generate(chat_request(), metadata=METADATA)
        await first_message(call)
        call.cancel()
        await until(lambda: bench.upstreams[0].left == 1)
        await bench.closes()
        (attempt,) = bench.settled
        assert (attempt.outcome, attempt.final) == (AttemptOutcome.CANCELLED, True)
        assert attempt.charged_nano_usd is not None
        assert attempt.charged_nano_usd >= OUTPUT_NANO_USD


@pytest.mark.parametrize("side", SIDES)
async def test_a_deadline_ends_the_upstream(side: Side) -> None:
    async with misbehaving(side, Script([Act(first_token_s=60)])) as bench:
        call = bench.served.stub.Generate(chat_request(), metadata=METADATA, timeout=0.5)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_stream(call)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: bench.upstreams[0].left == 1)
        await bench.closes()


HEDGED = FailuresConfig(hedging=HedgingConfig(after_s=0.1, share=1.0))


@pytest.mark.parametrize("side", SIDES)
async def test_a_slow_first_token_is_hedged_and_the_loser_is_waste(side: Side) -> None:
    script = Script([Act(first_token_s=60)])
    async with misbehaving(side, script, script, failures=HEDGED) as bench:
        seen = await stream(bench)
        assert seen.texts == {0: ANSWER}
        assert seen.done is not None
        assert seen.done.route.reason.startswith("hedge: ")
        await until(lambda: sum(upstream.left for upstream in bench.upstreams) == 1)
        await bench.closes()
        (lost,) = bench.of(AttemptOutcome.SUPERSEDED)
        (won,) = bench.of(AttemptOutcome.OK)
        assert lost.placement != won.placement
        assert lost.request_id == won.request_id
        assert (lost.charged_nano_usd, lost.final) == (0, False)
        cost = PROMPT_TOKENS * INPUT_NANO_USD + 3 * OUTPUT_NANO_USD
        assert seen.done.cost.charged_nano_usd == won.charged_nano_usd == cost


@pytest.mark.parametrize("side", SIDES)
async def test_the_first_may_still_win(side: Side) -> None:
    script = Script([Act(first_token_s=0.3), Act(first_token_s=60)])
    async with misbehaving(side, script, script, failures=HEDGED) as bench:
        seen = await stream(bench)
        assert seen.texts == {0: ANSWER}
        assert bench.calls == 2
        await bench.closes()
        assert len(bench.of(AttemptOutcome.SUPERSEDED)) == 1


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("side", SIDES)
async def test_a_hedge_or_its_first_that_fails_leaves_the_other(side: Side, which: int) -> None:
    slow, bad = Act(first_token_s=0.5), Act(silent_s=0.2, status=500)
    script = Script([bad, slow] if which == 0 else [slow, bad])
    async with misbehaving(side, script, script, failures=HEDGED) as bench:
        seen = await stream(bench)
        assert seen.texts == {0: ANSWER}
        assert bench.calls == 2
        await bench.closes()


@pytest.mark.parametrize("side", SIDES)
async def test_two_that_fail_while_they_race_end_the_request(side: Side) -> None:
    script = Script(rest=Act(silent_s=0.2, status=500))
    async with misbehaving(side, script, script, script, failures=HEDGED) as bench:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream(bench)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await bench.closes()


@pytest.mark.parametrize("side", SIDES)
async def test_a_client_that_leaves_a_race_ends_both(side: Side) -> None:
    script = Script(rest=Act(first_token_s=60))
    async with misbehaving(side, script, script, failures=HEDGED) as bench:
        call = bench.served.stub.Generate(chat_request(), metadata=METADATA)
        await until(lambda: bench.calls == 2)
        call.cancel()
        await until(lambda: sum(upstream.left for upstream in bench.upstreams) == 2)
        await bench.closes()


async def test_hedges_are_a_share_of_the_requests() -> None:
    script = Script(rest=Act(first_token_s=0.25))
    failures = FailuresConfig(hedging=HedgingConfig(after_s=0.05, share=0.01))
    async with misbehaving(Side.LOCAL, script, script, failures=failures) as bench:
        await asyncio.gather(*(stream(bench) for _ in range(20)))
        assert bench.calls == 24, "four of a reserve, and a hundredth"
        await bench.closes()


def continuing(remote: RemoteConfig) -> RemoteConfig:
    return msgspec.structs.replace(remote, can=(Feature.CONTINUATION,))


CONTINUED = FailuresConfig(continue_cut_answers=True)


@pytest.mark.parametrize("side", CONTINUING_SIDES)
async def test_a_cut_answer_is_gone_on_with_where_that_is_switched_on(side: Side) -> None:
    script = Script([Act(tokens=2, end="cut"), Act(tokens=1, usage=(PROMPT_TOKENS + 2, 1))])
    async with misbehaving(side, script, script, failures=CONTINUED, change=continuing) as bench:
        seen = await stream(bench)
        assert seen.texts == {0: " w1 w2 w1"}
        assert seen.done is not None
        # The client's prompt is what the first attempt was estimated at; the rest is counted.
        assert seen.done.usage.completion_tokens == 3
        assert len(seen.done.route.attempts) == 2
        body = max((b for u in bench.upstreams for b in u.bodies), key=lambda b: len(str(b)))
        *_, last = body["messages"]
        assert last["role"] == "assistant"
        assert " w1 w2" in str(last["content"])
        assert body["max_tokens"] == 14
        if side is Side.LOCAL:
            assert body["continue_final_message"] is True
            assert body["add_generation_prompt"] is False
        await bench.closes()
        broken, answered = bench.settled
        assert (broken.outcome, broken.final) == (AttemptOutcome.FAILED, False)
        assert broken.charged_nano_usd is not None
        assert answered.charged_nano_usd is not None
        whole = broken.charged_nano_usd + answered.charged_nano_usd
        assert seen.done.cost.charged_nano_usd == whole


@pytest.mark.parametrize("name", ["off", "a schema", "a stop text", "no remote can", "tools"])
async def test_a_cut_answer_is_not_gone_on_with_otherwise(name: str) -> None:
    act = Act(tokens=2, end="cut")
    schema = chat_pb2.JsonSchemaFormat(name="a", schema_json="{}")
    fields: dict[str, object] = {}
    if name == "a stop text":
        fields["stop"] = ["END"]
    request = chat_request(**fields)  # type: ignore[arg-type]
    if name == "a schema":
        request.chat.response_format.json_schema.CopyFrom(schema)
    if name == "tools":
        request.chat.tools.add(name="f")
    script = Script([act])
    failures = FailuresConfig() if name == "off" else CONTINUED
    change = (lambda remote: remote) if name == "no remote can" else continuing
    async with misbehaving(Side.OPENAI, script, script, failures=failures, change=change) as bench:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream(bench, request)
        assert "incomplete" in (caught.value.details() or "")
        assert bench.calls == 1
        await bench.closes()
        assert sum(attempt.final for attempt in bench.settled) <= 1


@pytest.mark.parametrize("side", CONTINUING_SIDES)
async def test_a_continuation_that_fails_too_is_told_as_incomplete(side: Side) -> None:
    script = Script([Act(tokens=2, end="cut")], rest=Act(status=400))
    async with misbehaving(side, script, script, failures=CONTINUED, change=continuing) as bench:
        text, error = await partial(bench)
        assert text == " w1 w2"
        assert "incomplete" in (error.details() or "")
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        await bench.closes()
