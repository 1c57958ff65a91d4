"""Every attempt is accounted for once, however it ends: seen by a sink of a running gateway."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from moegate.v1 import generation_pb2
from scheduler.contract import AttemptOutcome, PlacementKind
from scheduler.metering.settlement import SettledAttempt
from tests.scripted import DONE, ERROR, GOOD, ROLE, Scripted, upstreams, word
from tests.serving import METADATA, chat_request, first_message, read_stream, until


async def test_a_good_answer_is_one_attempt() -> None:
    seen: list[SettledAttempt] = []
    async with upstreams(Scripted(GOOD), sinks=(seen.append,)) as served:
        call = served.stub.Generate(chat_request(session_id="s"), metadata=METADATA)
        done = (await read_stream(call)).done
    assert done is not None
    (attempt,) = seen
    assert attempt.request_id == f"test/{done.request_id}"
    assert (attempt.key_id, attempt.tenant, attempt.session_id) == ("test", "team", "s")
    assert (attempt.placement, attempt.pool) == ("own/a", "own")
    assert attempt.kind is PlacementKind.SELF_HOSTED
    assert (attempt.outcome, attempt.final, attempt.attempt) == (AttemptOutcome.OK, True, 1)
    assert attempt.usage is not None
    assert (attempt.usage.prompt_tokens, attempt.usage.completion_tokens) == (5, 2)
    assert attempt.started_unix_s <= attempt.ended_unix_s


async def test_a_failed_attempt_and_its_successor_are_two() -> None:
    seen: list[SettledAttempt] = []
    scripts = (Scripted([ROLE, ERROR, DONE]), Scripted(GOOD))
    async with upstreams(*scripts, sinks=(seen.append,)) as served:
        for _ in range(2):  # whichever is tried first
            await read_stream(served.stub.Generate(chat_request(), metadata=METADATA))
    failed = [attempt for attempt in seen if attempt.outcome is AttemptOutcome.RETRYABLE]
    assert failed
    assert all(not a.final and a.usage is None and a.charged_nano_usd == 0 for a in failed)
    assert sum(attempt.final for attempt in seen) == 2


async def test_a_cancelled_client_is_accounted_for_what_ran() -> None:
    seen: list[SettledAttempt] = []
    script = Scripted([ROLE, word(1), word(2)], end="hang")
    async with upstreams(script, sinks=(seen.append,)) as served:
        call = served.stub.Generate(chat_request(), metadata=METADATA)
        await first_message(call)
        call.cancel()
        await until(lambda: bool(seen))
        await asyncio.wait_for(script.left.wait(), 30)
    (attempt,) = seen
    assert attempt.outcome is AttemptOutcome.CANCELLED
    assert attempt.usage is not None
    assert attempt.usage.estimated
    assert attempt.usage.completion_tokens >= 1


async def test_a_broken_answer_is_accounted_for_what_was_handed_over() -> None:
    seen: list[SettledAttempt] = []
    script = Scripted([ROLE, word(1), word(2)], end="cut", pause_s=0.05)
    async with upstreams(script, sinks=(seen.append,)) as served:
        call = served.stub.Generate(chat_request(), metadata=METADATA)
        with pytest.raises(grpc.aio.AioRpcError, match="incomplete") as broken:
            await read_stream(call)
    cost = generation_pb2.Cost()
    trailers = dict(broken.value.trailing_metadata())
    cost.ParseFromString(bytes(trailers["moegate-cost-bin"]))
    (attempt,) = seen
    assert (attempt.outcome, attempt.final) == (AttemptOutcome.FAILED, True)
    assert attempt.usage is not None
    assert attempt.usage.completion_tokens == 2
    assert cost.metered_nano_usd == attempt.metered_nano_usd
    assert cost.metered_nano_usd > 0
