"""One attempt: the commit point, what is held back before it, eviction, and its one end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk, Generation, TokenLogprob, ToolCall
from gateway.domain.outcomes import PartialOutput, RequestRefused
from gateway.pipeline import attempt as module
from gateway.upstream.scripted import (
    Fail,
    Finish,
    Hang,
    Output,
    ScriptedUpstream,
    Sleep,
    Step,
    StreamState,
    Wait,
    text_answer,
)
from scheduler.contract import AttemptOutcome, Fault
from tests.gateway.pipeline.rig import REMOTE, answer, call, client, evict, running, settle
from tests.virtual_time import in_virtual_time

BAD = Fail(kind=FailureKind.SERVER_ERROR)
ROLE = Output(tokens=0)
LOGPROB = TokenLogprob(token="x", logprob=-1.0, top=(("x", -1.0), ("y", -2.0)))
CONTENT = {
    "text": Output(text="one"),
    "reasoning": Output(reasoning_text="hm"),
    "tool": Output(tool_calls=(ToolCall(index=0, id="c", name="f"),)),
}


@pytest.mark.parametrize("first", CONTENT.values(), ids=CONTENT.keys())
def test_content_commits(first: Output) -> None:
    @in_virtual_time
    async def run() -> None:
        upstream = ScriptedUpstream((ROLE, first, BAD), text_answer("again"))
        async with running({"own/a": upstream, "own/b": upstream}) as rig:
            reads = await client(rig)
            with pytest.raises(PartialOutput):
                await reads.task
            assert len(reads.received.chunks) == 2
            assert [end.committed for end in rig.scheduler.attempt_ends] == [True]
            rig.assert_all_over()

    run()


@in_virtual_time
async def test_what_has_no_content_is_held_back_until_the_commit_point() -> None:
    go = asyncio.Event()
    upstream = ScriptedUpstream(
        (ROLE, Output(tokens=1), Wait(until=go), Output(text="one"), Finish())
    )
    async with running({"own/a": upstream}) as rig:
        reads = await client(rig)
        assert reads.received.chunks == []
        go.set()
        got = await reads.task
        assert [chunk.output_tokens for chunk in got.chunks] == [0, 1, 2, 2]
        rig.assert_all_over()


@pytest.mark.parametrize(
    ("pieces", "held", "logprobs"), [(3, 3, 1000), (2, 100, 6)], ids=["chunks", "logprobs"]
)
def test_what_is_held_back_is_bounded(
    monkeypatch: pytest.MonkeyPatch, pieces: int, held: int, logprobs: int
) -> None:
    """Each piece has one log-probability and two rivals: three figures."""
    monkeypatch.setattr(module, "MAX_HELD_CHUNKS", held)
    monkeypatch.setattr(module, "MAX_HELD_LOGPROBS", logprobs)

    @in_virtual_time
    async def run() -> None:
        empty = Output(logprobs=(LOGPROB,))
        below: tuple[Step, ...] = (*[empty] * (pieces - 1), BAD)
        bound: tuple[Step, ...] = (*[empty] * pieces, Hang())
        upstream = ScriptedUpstream(below, bound)
        async with running({"own/a": upstream, "own/b": upstream}) as rig:
            reads = await client(rig)
            assert len(rig.order) == 2  # below the bound nothing was handed over
            assert len(reads.received.chunks) == pieces
            await reads.leave()
            rig.assert_all_over()

    run()


@in_virtual_time
async def test_an_answer_without_any_content_is_an_answer() -> None:
    async with running({"own/a": ScriptedUpstream((ROLE, Finish()))}) as rig:
        got = await answer(rig)
        assert (got.text, len(got.chunks)) == ("", 2)
        assert got.account.ttft_s is None
        rig.assert_all_over()


@in_virtual_time
async def test_evicted_before_content_it_waits_and_runs_again() -> None:
    upstream = ScriptedUpstream((ROLE, Output(tokens=2), Hang()), text_answer("one"))
    async with running({"own/a": upstream}) as rig:
        reads = await client(rig)
        evict(rig)
        got = await reads.task
        assert got.text == "one"
        assert [stream.state for stream in upstream.streams] == [
            StreamState.CLOSED,
            StreamState.FINISHED,
        ]
        first, second = rig.scheduler.attempt_ends
        assert (first.outcome, first.detail) == (
            AttemptOutcome.EVICTED,
            "evicted: others come first",
        )
        assert first.usage is not None
        assert (first.usage.completion_tokens, first.usage.estimated) == (2, True)
        assert not first.reported
        assert (second.outcome, second.attempt) == (AttemptOutcome.OK, 2)
        rig.assert_all_over()


@in_virtual_time
async def test_an_eviction_after_content_is_ignored() -> None:
    go = asyncio.Event()
    upstream = ScriptedUpstream((Output(text="one"), Wait(until=go), Finish()))
    async with running({"own/a": upstream}) as rig:
        reads = await client(rig)
        evict(rig)
        await settle()
        go.set()
        assert (await reads.task).text == "one"
        assert [end.outcome for end in rig.scheduler.attempt_ends] == [AttemptOutcome.OK]
        rig.assert_all_over()


@in_virtual_time
async def test_an_eviction_of_an_earlier_attempt_is_ignored() -> None:
    go = asyncio.Event()
    upstream = ScriptedUpstream((Hang(),), (Wait(until=go), *text_answer("one")))
    async with running({"own/a": upstream}) as rig:
        reads = await client(rig)
        evict(rig)
        await settle()
        assert len(upstream.streams) == 2
        evict(rig, attempt=1)
        await settle()
        go.set()
        assert (await reads.task).text == "one"
        rig.assert_all_over()


@in_virtual_time
async def test_a_whole_answer_may_be_evicted_until_its_end() -> None:
    upstream = ScriptedUpstream((Output(text="lost"), Hang()), text_answer("one"))
    async with running({"own/a": upstream}) as rig:
        reads = await client(rig, call(whole_answer=True))
        evict(rig)
        assert (await reads.task).text == "one"
        rig.assert_all_over()


@in_virtual_time
async def test_a_client_that_leaves_during_an_eviction_is_gone() -> None:
    upstream = ScriptedUpstream((Hang(),))
    async with running({"own/a": upstream}) as rig:
        reads = await client(rig)
        evict(rig)
        await reads.leave()
        assert len(rig.accounts) == 1
        rig.assert_all_over()


@in_virtual_time
async def test_times_count_from_arrival_and_from_the_start() -> None:
    answers: tuple[Step, ...] = (
        *(Sleep(seconds=3.0), Output(text="a"), Sleep(seconds=1.0), Output(text="b")),
        *(Sleep(seconds=1.0), Output(text="c"), Finish()),
    )
    upstream = ScriptedUpstream((Sleep(seconds=2.0), BAD), answers)
    async with running({"own/a": upstream, "own/b": upstream}) as rig:
        got = await answer(rig)
        end = rig.scheduler.attempt_ends[-1]
        times = (end.duration_s, end.first_token_s, end.ttft_s, end.tpot_s)
        assert times == pytest.approx((5.0, 3.0, 5.0, 1.0))
        assert got.account.ttft_s == pytest.approx(5.0)
        assert got.account.total_s == pytest.approx(7.0)
        rig.assert_all_over()


ENDS: dict[str, tuple[tuple[Step, ...], AttemptOutcome, Fault, bool]] = {
    "ok": (text_answer("one"), AttemptOutcome.OK, Fault.NONE, True),
    "busy": ((Fail(kind=FailureKind.BUSY),), AttemptOutcome.RETRYABLE, Fault.BUSY, False),
    "cut": ((Output(text="a"), BAD), AttemptOutcome.FAILED, Fault.PLACEMENT, False),
    "bad": ((Fail(kind=FailureKind.BAD_REQUEST),), AttemptOutcome.FAILED, Fault.REJECTED, False),
    "late": ((Fail(kind=FailureKind.DEADLINE),), AttemptOutcome.FAILED, Fault.NONE, False),
    "credit": ((Fail(kind=FailureKind.CREDIT),), AttemptOutcome.RETRYABLE, Fault.ACCOUNT, False),
}


@pytest.mark.parametrize(("script", "outcome", "fault", "reported"), ENDS.values(), ids=ENDS.keys())
def test_the_scheduler_is_told_once_how_it_ended(
    script: tuple[Step, ...], outcome: AttemptOutcome, fault: Fault, reported: bool
) -> None:
    @in_virtual_time
    async def run() -> None:
        async with running({"own/a": ScriptedUpstream(script)}) as rig:
            try:
                await answer(rig)
            except (PartialOutput, UpstreamFailure, RequestRefused):
                assert outcome is not AttemptOutcome.OK
            [end, *others] = rig.scheduler.attempt_ends
            assert (end.outcome, end.fault, end.reported) == (outcome, fault, reported)
            assert not others or outcome is AttemptOutcome.RETRYABLE
            rig.assert_all_over()

    run()


@in_virtual_time
async def test_a_bad_request_at_a_remote_is_a_fault_of_the_request_there() -> None:
    upstream = ScriptedUpstream((Fail(kind=FailureKind.BAD_REQUEST),))
    async with running({REMOTE: upstream}) as rig:
        with pytest.raises(UpstreamFailure):
            await answer(rig)
        end = rig.scheduler.attempt_ends[0]
        assert (end.outcome, end.fault) == (AttemptOutcome.RETRYABLE, Fault.REJECTED)
        rig.assert_all_over()


@in_virtual_time
async def test_the_fleet_learns_of_a_replica_that_refuses_or_is_silent() -> None:
    refuses = ScriptedUpstream((Fail(kind=FailureKind.CONNECT),))
    silent = ScriptedUpstream((Fail(kind=FailureKind.TIMEOUT),))
    async with running({"own/a": refuses, "own/b": silent}) as rig:
        with pytest.raises(RequestRefused):
            await answer(rig)
        assert set(rig.upstreams.refused) == {"own/a"}
        assert set(rig.upstreams.silent) == {"own/b"}


@in_virtual_time
async def test_a_placement_whose_server_is_gone_is_a_failed_attempt() -> None:
    upstreams = {"own/a": ScriptedUpstream((Hang(),)), REMOTE: ScriptedUpstream(text_answer("one"))}
    async with running(upstreams) as rig:
        del rig.upstreams.clients["own/a"]
        got = await answer(rig)
        assert (got.text, rig.order) == ("one", ["own/a", REMOTE])
        assert "no server any more" in got.account.attempts[0].outcome
        rig.assert_all_over()


class WithoutUsage(ScriptedUpstream):
    """Ends its answer without usage, against the protocol of upstreams."""

    async def stream(
        self, generation: Generation, *, deadline_s: float
    ) -> AsyncGenerator[Chunk, None]:
        async with aclosing(super().stream(generation, deadline_s=deadline_s)) as chunks:
            async for chunk in chunks:
                if chunk.usage is None:
                    yield chunk


@pytest.mark.parametrize("whole_answer", [False, True])
@in_virtual_time
async def test_an_answer_without_usage_is_a_failure_and_never_waits(whole_answer: bool) -> None:
    broken = WithoutUsage(text_answer("lost"))
    async with running({"own/a": broken}) as rig:
        with pytest.raises((PartialOutput, RequestRefused)):
            await answer(rig, call(whole_answer=whole_answer))
        [end] = rig.scheduler.attempt_ends
        assert end.fault is Fault.PLACEMENT
        assert "without usage" in end.detail
        rig.assert_all_over()
