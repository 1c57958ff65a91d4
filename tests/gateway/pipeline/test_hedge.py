"""Hedging: the first branch to bring a token answers, the other one is waste."""

from __future__ import annotations

import asyncio

import pytest

from gateway.config.remote import FailuresConfig, HedgingConfig
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.outcomes import PartialOutput, RequestRefused
from gateway.upstream.scripted import (
    Fail,
    Finish,
    Hang,
    Output,
    ScriptedUpstream,
    Sleep,
    Step,
    StreamState,
    text_answer,
)
from scheduler.contract import AttemptOutcome
from scheduler.port import BranchKind
from tests.gateway.pipeline.rig import Rig, answer, client, evict, running, settle
from tests.virtual_time import in_virtual_time

AFTER_S = 1.0
HEDGING = FailuresConfig(hedging=HedgingConfig(after_s=AFTER_S, share=1.0))
BAD = Fail(kind=FailureKind.SERVER_ERROR)
GOOD = text_answer("one", " two")
BARELY_S = 1e-10
"""Below the loop's resolution: what differs so little happens in one turn, in this order."""


def after(seconds: float, *steps: Step) -> tuple[Step, ...]:
    return (Sleep(seconds=seconds), *steps)


def pair(*scripts: tuple[Step, ...]) -> dict[str, ScriptedUpstream]:
    """Two placements behind which one upstream is: the first script is the first branch's."""
    upstream = ScriptedUpstream(*scripts)
    return {"own/a": upstream, "own/b": upstream}


def outcomes(rig: Rig) -> list[AttemptOutcome]:
    """Of the attempts, in the order of their starts."""
    ends = sorted(rig.scheduler.attempt_ends, key=lambda end: end.attempt)
    return [end.outcome for end in ends]


def kinds(rig: Rig) -> list[object]:
    return [value for name, value in rig.observers[0].calls if name == "attempt"]


@in_virtual_time
async def test_a_first_token_in_time_starts_no_hedge() -> None:
    async with running(pair(after(0.5, *GOOD)), failures=HEDGING) as rig:
        assert (await answer(rig)).text == "one two"
        assert kinds(rig) == [BranchKind.ORIGINAL]
        rig.assert_all_over()


@in_virtual_time
async def test_a_token_without_content_counts_as_the_first() -> None:
    script = after(0.5, Output(tokens=1), Sleep(seconds=5.0), *GOOD)
    async with running(pair(script), failures=HEDGING) as rig:
        assert (await answer(rig)).text == "one two"
        assert kinds(rig) == [BranchKind.ORIGINAL]
        rig.assert_all_over()


@in_virtual_time
async def test_the_hedge_answers_and_the_first_is_waste() -> None:
    upstreams = pair((Hang(),), GOOD)
    async with running(upstreams, failures=HEDGING) as rig:
        got = await answer(rig)
        assert got.text == "one two"
        assert got.account.reason.startswith("hedge: ")
        assert got.account.ttft_s == pytest.approx(AFTER_S)
        assert outcomes(rig) == [AttemptOutcome.SUPERSEDED, AttemptOutcome.OK]
        assert [s.state for s in upstreams["own/a"].streams] == [
            StreamState.CLOSED,
            StreamState.FINISHED,
        ]
        assert len(set(rig.placements)) == 2
        rig.assert_all_over()


@in_virtual_time
async def test_the_first_answers_and_the_hedge_is_waste() -> None:
    async with running(pair(after(2.0, *GOOD), (Hang(),)), failures=HEDGING) as rig:
        got = await answer(rig)
        assert got.text == "one two"
        assert outcomes(rig) == [AttemptOutcome.OK, AttemptOutcome.SUPERSEDED]
        waste = next(a for a in rig.accounts if a.outcome is AttemptOutcome.SUPERSEDED)
        assert waste.usage is not None
        assert waste.usage.estimated
        assert got.account.settled.outcome is AttemptOutcome.OK
        rig.assert_all_over()


@in_virtual_time
async def test_two_first_tokens_at_once_are_one_answer() -> None:
    both = pair(after(2.0, *text_answer("a")), after(1.0, *text_answer("b")))
    async with running(both, failures=HEDGING) as rig:
        got = await answer(rig)
        assert got.text in ("a", "b")
        assert sorted(outcomes(rig)) == [AttemptOutcome.OK, AttemptOutcome.SUPERSEDED]
        rig.assert_all_over()


@in_virtual_time
async def test_the_first_fails_and_the_hedge_still_answers() -> None:
    async with running(pair(after(2.0, BAD), after(5.0, *GOOD)), failures=HEDGING) as rig:
        assert (await answer(rig)).text == "one two"
        assert outcomes(rig) == [AttemptOutcome.RETRYABLE, AttemptOutcome.OK]
        assert [end.abandoned for end in rig.scheduler.attempt_ends] == [True, False]
        rig.assert_all_over()


@in_virtual_time
async def test_the_hedge_fails_and_the_first_still_answers() -> None:
    async with running(pair(after(5.0, *GOOD), after(1.0, BAD)), failures=HEDGING) as rig:
        assert (await answer(rig)).text == "one two"
        assert outcomes(rig) == [AttemptOutcome.OK, AttemptOutcome.RETRYABLE]
        rig.assert_all_over()


@pytest.mark.parametrize(("first_s", "second_s"), [(2.0, 5.0), (5.0, 2.0), (3.0, 2.0)])
def test_both_fail_and_a_third_placement_answers(first_s: float, second_s: float) -> None:
    """Three seconds from the start, and two from that of the hedge, are one moment."""

    @in_virtual_time
    async def run() -> None:
        scripts = pair(after(first_s, BAD), after(second_s, BAD), GOOD)
        scripts["own/c"] = scripts["own/a"]
        async with running(scripts, failures=HEDGING) as rig:
            assert (await answer(rig)).text == "one two"
            assert outcomes(rig) == [AttemptOutcome.RETRYABLE] * 2 + [AttemptOutcome.OK]
            ends = rig.scheduler.attempt_ends
            assert [end.abandoned for end in ends] == [True, False, False]
            rig.assert_all_over()

    run()


@pytest.mark.parametrize("first_s", [2.0, 3.0, 5.0])
def test_both_fail_and_nobody_else_answers(first_s: float) -> None:
    @in_virtual_time
    async def run() -> None:
        scripts = pair(after(first_s, BAD), after(2.0, BAD), (BAD,))
        async with running(scripts, failures=HEDGING) as rig:
            with pytest.raises((UpstreamFailure, RequestRefused)):
                await answer(rig)
            rig.assert_all_over()

    run()


@pytest.mark.parametrize("bad_first", [True, False])
def test_a_bad_request_and_a_failure_at_once(bad_first: bool) -> None:
    """The branch that fails last decides, as where one fails after the other."""

    @in_virtual_time
    async def run() -> None:
        bad = Fail(kind=FailureKind.BAD_REQUEST)
        ends = (bad, BAD) if bad_first else (BAD, bad)
        scripts = pair(after(3.0, ends[0]), after(2.0 + BARELY_S, ends[1]), GOOD)
        # A third server confirms what an unproven one calls a bad request.
        scripts["own/c"] = scripts["own/a"] if bad_first else ScriptedUpstream((bad,))
        async with running(scripts, failures=HEDGING) as rig:
            if bad_first:
                assert (await answer(rig)).text == "one two"
            else:
                with pytest.raises(UpstreamFailure, match="bad_request"):
                    await answer(rig)
            rig.assert_all_over()

    run()


@in_virtual_time
async def test_a_token_and_a_failure_at_once_do_not_win() -> None:
    fails = after(2.0, Output(tokens=1), BAD)
    async with running(pair(fails, after(5.0, *GOOD)), failures=HEDGING) as rig:
        assert (await answer(rig)).text == "one two"
        assert outcomes(rig) == [AttemptOutcome.RETRYABLE, AttemptOutcome.OK]
        rig.assert_all_over()


@in_virtual_time
async def test_an_evicted_branch_of_a_race_does_not_wait_for_another_attempt() -> None:
    async with running(pair((Hang(),), after(5.0, *GOOD)), failures=HEDGING) as rig:
        reads = await client(rig)
        await asyncio.sleep(2 * AFTER_S)
        evict(rig)
        await settle()
        assert repr(rig.scheduler.core) == "<Scheduler: 0 queued, 1 running>"
        assert (await reads.task).text == "one two"
        assert outcomes(rig) == [AttemptOutcome.EVICTED, AttemptOutcome.OK]
        rig.assert_all_over()


@in_virtual_time
async def test_two_evicted_branches_are_one_that_waits_again() -> None:
    async with running(pair((Hang(),), (Hang(),), GOOD), failures=HEDGING) as rig:
        reads = await client(rig)
        await asyncio.sleep(2 * AFTER_S)
        evict(rig, attempt=2)
        evict(rig, attempt=1)
        assert (await reads.task).text == "one two"
        assert outcomes(rig) == [AttemptOutcome.EVICTED] * 2 + [AttemptOutcome.OK]
        rig.assert_all_over()


@in_virtual_time
async def test_the_first_fails_before_any_hedge_and_is_mended_elsewhere() -> None:
    async with running(pair((BAD,), GOOD), failures=HEDGING) as rig:
        assert (await answer(rig)).text == "one two"
        assert kinds(rig) == [BranchKind.ORIGINAL, BranchKind.ORIGINAL]
        rig.assert_all_over()


@in_virtual_time
async def test_no_room_elsewhere_is_no_hedge() -> None:
    upstream = ScriptedUpstream(after(5.0, *GOOD))
    async with running({"own/a": upstream}, failures=HEDGING) as rig:
        assert (await answer(rig)).text == "one two"
        assert kinds(rig) == [BranchKind.ORIGINAL]
        assert len(rig.scheduler.submissions) == 2
        rig.assert_all_over()


@in_virtual_time
async def test_cancelled_in_the_middle_of_the_race() -> None:
    upstreams = pair((Hang(),))
    async with running(upstreams, failures=HEDGING) as rig:
        reads = await client(rig)
        await asyncio.sleep(2 * AFTER_S)
        assert upstreams["own/a"].open_streams == 2
        await reads.leave()
        assert sorted(outcomes(rig)) == [AttemptOutcome.CANCELLED, AttemptOutcome.SUPERSEDED]
        rig.assert_all_over()


@in_virtual_time
async def test_cancelled_twice_in_the_middle_of_the_race() -> None:
    """The second time while the branches are being stopped."""
    upstreams = pair((Hang(),))
    async with running(upstreams, failures=HEDGING) as rig:
        reads = await client(rig)
        await asyncio.sleep(2 * AFTER_S)
        reads.task.cancel()
        await asyncio.sleep(0)
        await reads.leave()
        assert sorted(outcomes(rig)) == [AttemptOutcome.CANCELLED, AttemptOutcome.SUPERSEDED]
        rig.assert_all_over()


@in_virtual_time
async def test_cancelled_before_the_hedge() -> None:
    async with running(pair((Hang(),)), failures=HEDGING) as rig:
        reads = await client(rig)
        await reads.leave()
        assert outcomes(rig) == [AttemptOutcome.CANCELLED]
        rig.assert_all_over()


@in_virtual_time
async def test_the_winner_breaks_off_after_content() -> None:
    cut = (Output(text="one"), BAD)
    async with running(pair((Hang(),), cut), failures=HEDGING) as rig:
        reads = await client(rig)
        with pytest.raises(PartialOutput):
            await reads.task
        assert reads.received.text == "one"
        assert outcomes(rig) == [AttemptOutcome.SUPERSEDED, AttemptOutcome.FAILED]
        rig.assert_all_over()


@in_virtual_time
async def test_an_answer_without_a_token_wins_as_well() -> None:
    async with running(pair((Hang(),), (Finish(),)), failures=HEDGING) as rig:
        got = await answer(rig)
        assert got.text == ""
        assert outcomes(rig) == [AttemptOutcome.SUPERSEDED, AttemptOutcome.OK]
        rig.assert_all_over()
