"""The fault suite, first part: faults before the first token, on own servers and on remotes.

After each fault all accounting closes and no task is left (`Bench.closes`).
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from pathlib import Path

import grpc
import msgspec
import pytest
import trustme
from aiohttp import web
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gateway.config.gateway import RemoteConfig
from gateway.config.limits import LimitsConfig
from gateway.upstream.http.connections import STALE_S
from moegate.v1 import generation_pb2, inference_pb2
from scheduler.contract import AttemptOutcome
from tests.misbehaving import (
    GOOD,
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
from tests.serving import METADATA, chat_request, read_stream

ANSWER = " w1 w2 w3"
BUSY = Act(status=429, error="busy")


async def ask(bench: Bench) -> generation_pb2.Done:
    """A stream that ends well."""
    call = bench.served.stub.Generate(chat_request(), metadata=METADATA)
    seen = await read_stream(call)
    assert seen.texts == {0: ANSWER}
    assert seen.done is not None
    return seen.done


async def refused(bench: Bench) -> grpc.aio.AioRpcError:
    """A stream that is refused before content."""
    call = bench.served.stub.Generate(chat_request(), metadata=METADATA)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_stream(call)
    return caught.value


def pushback_ms(error: grpc.aio.AioRpcError) -> int:
    return int(str(dict(error.trailing_metadata() or ())["grpc-retry-pushback-ms"]))


ONCE = {
    "500": Act(status=500),
    "503": Act(status=503, error="full"),
    "429": BUSY,
    "408": Act(status=408),
    # Later than a pooled connection that turns out stale, which is tried once more.
    "reset": Act(end="reset", silent_s=STALE_S + 0.2),
    "accepts and does not answer": Act(silent_s=60),
    "headers and no token": Act(first_token_s=60),
    "cut before a token": Act(tokens=0, end="cut"),
    "malformed chunk": Act(tokens=0, end="garbage"),
    "error in the stream": Act(tokens=0, end="error"),
    "ends without a finish": Act(tokens=0, end="unfinished"),
    "402 spend cap": Act(status=402, error="spend"),
    "401 wrong key": Act(status=401, error="key"),
    "404 no such model": Act(status=404),
    "a redirect": Act(status=302),
}


@pytest.mark.parametrize("name", ONCE)
@pytest.mark.parametrize("side", SIDES)
async def test_a_fault_before_content_is_mended_elsewhere(side: Side, name: str) -> None:
    script = Script([ONCE[name]])
    async with misbehaving(side, script, script) as bench:
        done = await ask(bench)
        first, second = done.route.attempts
        assert first.placement != second.placement
        assert (first.outcome, second.outcome) == (first.outcome, "ok")
        assert first.outcome != "ok"
        assert bench.calls == 2
        await bench.closes()
        failed, answered = bench.settled
        assert (failed.outcome, failed.final) == (AttemptOutcome.RETRYABLE, False)
        assert (answered.outcome, answered.final) == (AttemptOutcome.OK, True)


async def test_a_pooled_connection_that_is_stale_is_nobodys_fault() -> None:
    """The probes have left a connection in the pool, which breaks under the first request."""
    script = Script([Act(end="reset")])
    async with misbehaving(Side.LOCAL, script) as bench:
        done = await ask(bench)
        assert [attempt.outcome for attempt in done.route.attempts] == ["ok"]
        assert bench.calls == 2
        (attempt,) = bench.settled
        assert (attempt.outcome, attempt.final) == (AttemptOutcome.OK, True)


@pytest.mark.parametrize("side", SIDES)
async def test_the_bill_over_a_failover_is_that_of_the_answer(side: Side) -> None:
    script = Script([Act(tokens=0, end="cut"), Act(status=500)], rest=GOOD)
    async with misbehaving(side, script, script, script) as bench:
        done = await ask(bench)
        assert len(done.route.attempts) == 3
        cost = PROMPT_TOKENS * INPUT_NANO_USD + 3 * OUTPUT_NANO_USD
        assert done.cost.charged_nano_usd == cost
        assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (PROMPT_TOKENS, 3)
        await bench.closes()
        assert [attempt.charged_nano_usd for attempt in bench.settled] == [0, 0, cost]


@pytest.mark.parametrize("side", SIDES)
async def test_retry_after_is_honoured(side: Side) -> None:
    script = Script([Act(status=429, error="busy", retry_after="1")])
    async with misbehaving(side, script) as bench:
        error = await refused(bench)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert pushback_ms(error) == 1000
        await ask(bench)  # waits in the queue until the second is over
        first_s, second_s = bench.upstreams[0].calls
        assert second_s - first_s >= 0.99
        await bench.closes()


@pytest.mark.parametrize("side", SIDES)
async def test_a_persistent_429_is_asked_less_and_less(side: Side) -> None:
    limits = LimitsConfig(default_deadline_s=1.5)
    async with misbehaving(side, Script(rest=BUSY), limits=limits) as bench:
        errors = await asyncio.gather(*(refused(bench) for _ in range(20)))
        codes = {error.code() for error in errors}
        assert codes <= {
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        }
        met = bench.calls
        for _ in range(3):
            await refused(bench)
        # Pauses of 0.5, 1, 2 s and more, and after the second pause one trial at a time.
        assert bench.calls - met <= 5
        later = bench.upstreams[0].calls[met:]
        assert all(b - a >= 0.45 for a, b in itertools.pairwise(later))
        await bench.closes(perhaps=20)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("act", [Act(status=503, error="full"), Act(status=500)])
async def test_a_server_that_always_fails_is_left_alone(side: Side, act: Act) -> None:
    async with misbehaving(side, Script(rest=act), Script()) as bench:
        for _ in range(30):
            await ask(bench)
        bad, good = bench.upstreams
        assert len(good.calls) == 30
        # The breaker opens after five failures; each half-open probe is one more.
        assert len(bad.calls) <= 8
        await bench.closes()


@pytest.mark.parametrize("side", SIDES)
async def test_a_fleet_that_only_fails_is_not_stormed(side: Side) -> None:
    bad = Script(rest=Act(status=500))
    async with misbehaving(side, bad, bad) as bench:
        errors = [await refused(bench) for _ in range(40)]
        assert {error.code() for error in errors} == {grpc.StatusCode.UNAVAILABLE}
        assert bench.calls <= 16, "two breakers, five failures each, and a few probes"
        assert all(pushback_ms(error) >= 1000 for error in errors)
        await bench.closes()


@pytest.mark.parametrize("side", SIDES)
async def test_a_slow_first_token_within_its_bound_is_waited_for(side: Side) -> None:
    async with misbehaving(side, Script([Act(first_token_s=0.4)])) as bench:
        done = await ask(bench)
        assert len(done.route.attempts) == 1
        assert done.timings.ttft.ToSeconds() < 5
        await bench.closes()


@pytest.mark.parametrize("side", SIDES)
async def test_a_flapping_endpoint_under_20_parallel_requests(side: Side) -> None:
    flaps = Script([Act(status=500), GOOD] * 10)
    async with misbehaving(side, flaps, Script()) as bench:
        dones = await asyncio.gather(*(ask(bench) for _ in range(20)))
        assert len(dones) == 20
        await bench.closes()
        assert len(bench.of(AttemptOutcome.OK)) == 20
        retried = bench.of(AttemptOutcome.RETRYABLE)
        assert all(attempt.charged_nano_usd == 0 for attempt in retried)


async def test_a_context_that_is_too_short_is_told_by_the_own_pool_at_once() -> None:
    script = Script(rest=Act(status=400, error="context"))
    async with misbehaving(Side.LOCAL, script, script) as bench:
        error = await refused(bench)
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert _violation(error).field == "input"
        assert "shorten" in _violation(error).description
        assert bench.calls == 1, "the replicas of a pool are alike"
        await bench.closes()


@pytest.mark.parametrize("side", REMOTE_SIDES)
@pytest.mark.parametrize("error", ["context", "filter"])
async def test_what_one_remote_refuses_another_may_take(side: Side, error: str) -> None:
    script = Script([Act(status=400, error=error)])
    async with misbehaving(side, script, script) as bench:
        done = await ask(bench)
        assert len(done.route.attempts) == 2
        await ask(bench)
        await bench.closes()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("error", ["context", "filter"])
async def test_what_all_refuse_is_the_clients_to_mend(side: Side, error: str) -> None:
    script = Script(rest=Act(status=400, error=error))
    async with misbehaving(side, script, script) as bench:
        for _ in range(8):
            told = await refused(bench)
            assert told.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert _violation(told).field == "input"
        assert bench.calls == 8 * (1 if side is Side.LOCAL else 2), "no breaker opens for it"
        await bench.closes()


@pytest.mark.parametrize("side", REMOTE_SIDES)
async def test_an_account_at_its_spend_cap_is_not_asked_again(side: Side) -> None:
    broke = Script(rest=Act(status=402, error="spend"))
    async with misbehaving(side, broke, Script()) as bench:
        for _ in range(10):
            await ask(bench)
        assert len(bench.upstreams[0].calls) == 1
        await bench.closes()


def _first_lost(urls: list[str]) -> list[str]:
    return ["http://no-such-host.invalid:9", *urls[1:]]


@pytest.mark.parametrize("side", REMOTE_SIDES)
async def test_no_such_host(side: Side) -> None:
    async with misbehaving(side, Script(), Script(), urls=_first_lost) as bench:
        unreached = 0
        for _ in range(8):
            done = await ask(bench)
            failed = done.route.attempts[:-1]
            assert all("no connection" in attempt.outcome for attempt in failed)
            unreached += len(failed)
        assert 1 <= unreached <= 6, "the breaker opens"
        await bench.closes(unreached=unreached)


async def test_an_own_replica_that_is_nowhere_never_enters_service() -> None:
    async with misbehaving(Side.LOCAL, Script(), Script(), urls=_first_lost, ready=1) as bench:
        for _ in range(3):
            done = await ask(bench)
            assert [attempt.placement for attempt in done.route.attempts] == ["own/b"]
        await bench.closes()


@pytest.mark.parametrize("side", REMOTE_SIDES)
@pytest.mark.parametrize("how", ["plain text", "a certificate that nobody signed"])
async def test_tls_that_fails(side: Side, how: str, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response()

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        tls = None if how == "plain text" else context
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        address = f"https://127.0.0.1:{runner.addresses[0][1]}"
        async with misbehaving(
            side, Script(), Script(), urls=lambda urls: [address, urls[1]]
        ) as bench:
            unreached = 0
            for _ in range(3):
                done = await ask(bench)
                unreached += len(done.route.attempts) - 1
            assert 1 <= unreached <= 3
            assert asked == 0, "no request, and so no key, went over it"
            await bench.closes(unreached=unreached)
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("side", REMOTE_SIDES)
async def test_remotes_that_fail_together_are_not_tried_one_after_the_other(side: Side) -> None:
    def fate(remote: RemoteConfig) -> RemoteConfig:
        name = None if remote.name == "far-c" else "cloud"
        return msgspec.structs.replace(remote, fails_with=name)

    down = Script(rest=Act(status=500))
    async with misbehaving(side, down, down, Script(), change=fate) as bench:
        for _ in range(4):
            done = await ask(bench)
            names = [attempt.placement for attempt in done.route.attempts]
            assert names[-1] == "far-c"
            assert len(names) <= 2
        await bench.closes()


@pytest.mark.parametrize("side", SIDES)
async def test_a_unary_answer_is_mended_even_after_content(side: Side) -> None:
    script = Script([Act(tokens=2, end="cut")])
    async with misbehaving(side, script, script) as bench:
        request = inference_pb2.GenerateOnceRequest(request=chat_request())
        response = await bench.served.stub.GenerateOnce(request, metadata=METADATA)
        assert [choice.text for choice in response.choices] == [ANSWER]
        assert len(response.done.route.attempts) == 2
        await bench.closes()
        # What the first one wrote was never handed over: nobody pays for it.
        assert bench.settled[0].charged_nano_usd == 0


def _violation(
    error: grpc.aio.AioRpcError,
) -> error_details_pb2.BadRequest.FieldViolation:
    status = rpc_status.from_call(error)
    assert status is not None
    detail = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(detail)
    return detail.field_violations[0]
