"""Upstreams that fail: before content another one answers, after it the client is told."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from gateway.config.gateway import PoolConfig, ReplicaConfig, TimeoutsConfig
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.slices import finish
from gateway.doors.grpc.requests import generation_steps
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.vllm.client import VllmClient
from moegate.v1 import inference_pb2
from tests import serving
from tests.scripted import DONE, ERROR, GOOD, ROLE, Scripted, upstreams, word
from tests.serving import (
    METADATA,
    chat_request,
    first_message,
    partial_output,
    read_stream,
    trailer,
)

BEFORE_CONTENT = {
    "busy": Scripted(status=503),
    "server error": Scripted(status=500),
    "cut before content": Scripted(frames=[ROLE], end="cut"),
    "error before content": Scripted(frames=[ROLE, ERROR, DONE]),
    "done without a word": Scripted(frames=[ROLE, DONE]),
    "silent": Scripted(frames=[ROLE], end="hang"),
    "no json": Scripted(frames=[b"data: {oops\n\n"]),
}


@pytest.mark.parametrize("name", BEFORE_CONTENT)
async def test_before_content_another_replica_answers(name: str) -> None:
    bad = Scripted(**{k: getattr(BEFORE_CONTENT[name], k) for k in ("frames", "end", "status")})
    good = Scripted(frames=GOOD)
    async with upstreams(bad, good) as gateway:
        seen = await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
        assert seen.texts == {0: " w1 w2"}
        assert seen.done is not None
        assert seen.done.route.replica == "b"
        first, second = seen.done.route.attempts
        assert (first.placement, second.placement) == ("own/a", "own/b")
        assert first.outcome != "ok"
        assert second.outcome == "ok"
        assert seen.done.usage.completion_tokens == 2
    assert (bad.chats, good.chats) == (1, 1)


AFTER_CONTENT = {
    "cut": Scripted(frames=[ROLE, word(1)], end="cut"),
    "error": Scripted(frames=[ROLE, word(1), ERROR, DONE]),
    "silent": Scripted(frames=[ROLE, word(1)], end="hang"),
    "done without a finish": Scripted(frames=[ROLE, word(1), DONE]),
}


@pytest.mark.parametrize("name", AFTER_CONTENT)
async def test_after_content_the_client_is_told_and_nothing_is_replayed(name: str) -> None:
    bad = Scripted(**{k: getattr(AFTER_CONTENT[name], k) for k in ("frames", "end")})
    good = Scripted(frames=GOOD)
    async with upstreams(bad, good) as gateway:
        call = gateway.stub.Generate(chat_request(), metadata=METADATA)
        message = await first_message(call)
        assert [choice.text for choice in message.delta.choices] == [" w1"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_stream(call)
        _, usage = partial_output(caught.value)
        assert usage.completion_tokens == 1
        assert repr(gateway.gateway.scheduler.core) == "<Scheduler: 0 queued, 0 running>"
    assert (bad.chats, good.chats) == (1, 0)


async def test_a_unary_answer_is_failed_over_even_after_content() -> None:
    bad, good = Scripted(frames=[ROLE, word(1)], end="cut"), Scripted(frames=GOOD)
    async with upstreams(bad, good) as gateway:
        response = await gateway.stub.GenerateOnce(
            inference_pb2.GenerateOnceRequest(request=chat_request()), metadata=METADATA
        )
    assert [choice.text for choice in response.choices] == [" w1 w2"]
    assert [attempt.placement for attempt in response.done.route.attempts] == ["own/a", "own/b"]


class AlwaysHolding:
    """The pace of a gateway under full load: a read always finds something."""

    window_s = 0.02
    tokens_per_chunk = 1


async def test_a_deadline_holds_though_every_read_finds_output() -> None:
    endless = Scripted(frames=[word(1)] * 4000, pause_s=0.002)
    async with upstreams(endless) as gateway, HttpSession() as session:
        backend = VllmClient(
            session=session,
            base_url=endless.url,
            upstream_model="moe",
            api_key=None,
            timeouts=TimeoutsConfig(),
            pace=AlwaysHolding(),
        )
        generation = finish(generation_steps(chat_request(), 16))
        deadline_s = asyncio.get_running_loop().time() + 1.0
        with pytest.raises(UpstreamFailure) as caught:
            async for _ in backend.stream(generation, deadline_s=deadline_s):
                pass
        assert caught.value.kind is FailureKind.DEADLINE
        assert gateway.gateway.scheduler.core.serves


@pytest.mark.parametrize(("frames", "replica"), [(100, "b"), (600, "")])
async def test_what_is_held_before_content_is_bounded(frames: int, replica: str) -> None:
    rivals = b",".join(b'{"token":"t%d","logprob":-1}' % i for i in range(20))
    silent = (
        b'data: {"model":"m","choices":[{"index":0,"delta":{"content":""},"logprobs":{"content":'
        b'[{"token":"t","logprob":-1,"top_logprobs":[%b]}]},"finish_reason":null}]}\n\n'
    ) % rivals
    bad, good = Scripted(frames=[ROLE, *[silent] * frames, ERROR, DONE]), Scripted(frames=GOOD)
    async with upstreams(bad, good) as gateway:
        call = gateway.stub.Generate(chat_request(logprobs=20), metadata=METADATA)
        if replica:
            seen = await read_stream(call)
            assert seen.done is not None
            assert seen.done.route.replica == replica
            return
        # More than may be held: handed over, and so no other replica may answer.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_stream(call)
        assert "incomplete" in (caught.value.details() or "")
    assert good.chats == 0


async def test_a_fault_of_the_request_is_confirmed_once_and_no_third_server_is_asked() -> None:
    bad, also_bad, third = Scripted(status=400), Scripted(status=400), Scripted(status=400)
    async with upstreams(bad, also_bad, third) as gateway:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sorted((bad.chats, also_bad.chats, third.chats)) == [0, 1, 1]


async def test_what_only_one_server_calls_bad_is_answered_by_another() -> None:
    bad, good = Scripted(status=400), Scripted(frames=GOOD)
    async with upstreams(bad, good) as gateway:
        seen = await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
    assert seen.done is not None
    assert [attempt.placement for attempt in seen.done.route.attempts] == ["own/a", "own/b"]
    assert (bad.chats, good.chats) == (1, 1)


async def test_when_all_fail_the_last_reason_is_told_and_a_retry_is_allowed() -> None:
    async with upstreams(Scripted(status=503), Scripted(status=503)) as gateway:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_stream(gateway.stub.Generate(chat_request(), metadata=METADATA))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "2 attempts failed" in (caught.value.details() or "")
    assert int(trailer(caught.value, "grpc-retry-pushback-ms") or 0) > 0


async def test_a_replica_that_serves_another_model_never_enters_service() -> None:
    script = Scripted(frames=GOOD)
    async with upstreams(script) as gateway:
        assert gateway.gateway.scheduler.core.serves
        wrong = PoolConfig(
            name="own",
            model="other",
            replicas=(ReplicaConfig(name="a", url=script.url),),
            gpu=gateway.gateway.active.config.pools[0].gpu,
        )
        async with serving.serving(serving.config(pools=[wrong]), ready=False) as second:
            [state] = second.gateway.scheduler.core.placements
            await serving.until(lambda: state.reason != "not probed yet")
            assert not state.serving
            assert state.reason == "serves moe, not other: mend upstream_model"
