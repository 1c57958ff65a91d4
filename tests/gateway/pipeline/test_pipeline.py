"""The way of a request through the pipeline: answers, retries, refusals and cancellations."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.config.limits import LimitsConfig
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.outcomes import PartialOutput, RequestOutcome, RequestRefused
from gateway.pipeline.call import GenerateCall
from gateway.upstream.scripted import (
    Fail,
    Finish,
    Hang,
    Output,
    ScriptedUpstream,
    StreamState,
    Wait,
    text_answer,
)
from scheduler.budgets.budget import Budget
from scheduler.budgets.budget_window import Period
from scheduler.contract import AttemptOutcome, PlacementKind, RefusalReason, SloClass
from scheduler.limits.rate_limit import RateLimits
from scheduler.port import BranchKind
from tests.gateway.pipeline.rig import (
    CALLER,
    REMOTE,
    Rig,
    answer,
    call,
    client,
    generation,
    running,
    settle,
    unanswered_budgets,
    use_prices,
)
from tests.virtual_time import in_virtual_time

BAD = Fail(kind=FailureKind.SERVER_ERROR)
GOOD = text_answer("one", " two")


def two(first: ScriptedUpstream, second: ScriptedUpstream) -> dict[str, ScriptedUpstream]:
    return {"own/a": first, "own/b": second}


async def refusal(rig: Rig, asked: GenerateCall | None = None) -> RequestRefused:
    with pytest.raises(RequestRefused) as caught:
        await answer(rig, asked)
    return caught.value


@in_virtual_time
async def test_an_answer_and_its_account() -> None:
    async with running({"own/a": ScriptedUpstream(GOOD)}) as rig:
        got = await answer(rig)
        assert got.text == "one two"
        account = got.account
        assert (account.placement, account.pool, account.replica) == ("own/a", "own", "a")
        assert account.kind is PlacementKind.SELF_HOSTED
        assert account.model == "scripted"
        assert (account.usage.prompt_tokens, account.usage.completion_tokens) == (5, 2)
        assert [attempt.outcome for attempt in account.attempts] == ["ok"]
        assert rig.accounts == [account.settled]
        rig.assert_all_over()
        [end] = rig.scheduler.request_ends
        assert (end.request_id, end.used_tokens) == ("key/r", 7)
        assert end.keep_idempotency_key


@in_virtual_time
async def test_the_observer_is_told_in_order() -> None:
    async with running({"own/a": ScriptedUpstream(GOOD)}, wants_content=True) as rig:
        await answer(rig)
        [observer] = rig.observers
        assert observer.calls == [
            ("queued", 0),
            ("started", "own/a"),
            ("attempt", BranchKind.ORIGINAL),
            *[("content", 1)] * 3,
            ("attempt_ended", AttemptOutcome.OK),
            ("finished", "own/a"),
            ("ended", RequestOutcome.OK),
        ]


@in_virtual_time
async def test_a_failure_before_content_is_mended_elsewhere() -> None:
    fails = ScriptedUpstream((Output(tokens=0), BAD), GOOD)
    async with running(two(fails, fails)) as rig:
        got = await answer(rig)
        assert got.text == "one two"
        assert sorted(rig.order) == ["own/a", "own/b"]
        assert got.account.attempts[0].outcome == "server_error: scripted"
        outcomes = [account.outcome for account in rig.accounts]
        assert outcomes == [AttemptOutcome.RETRYABLE, AttemptOutcome.OK]
        assert [account.final for account in rig.accounts] == [False, True]
        rig.assert_all_over()


@in_virtual_time
async def test_a_failure_after_content_ends_the_answer() -> None:
    cut = ScriptedUpstream((Output(text="one"), Output(text=" two"), BAD))
    async with running(two(cut, cut)) as rig:
        waiting = await client(rig)
        with pytest.raises(PartialOutput) as caught:
            await waiting.task
        assert waiting.received.text == "one two"
        assert caught.value.usage.completion_tokens == 2
        assert caught.value.usage.estimated
        assert [caught.value.settled] == rig.accounts
        assert len(rig.order) == 1
        [end] = rig.scheduler.request_ends
        assert end.keep_idempotency_key  # the client has output
        assert rig.observers[0].outcomes == [RequestOutcome.PARTIAL]
        rig.assert_all_over()


@in_virtual_time
async def test_a_whole_answer_is_held_back_and_so_is_mended_to_its_end() -> None:
    step = asyncio.Event()
    shared = ScriptedUpstream(
        (Output(text="lost"), Output(text=" half"), BAD),
        (Output(text="one"), Wait(until=step), Output(text=" two"), Finish()),
    )
    async with running(two(shared, shared)) as rig:
        waiting = await client(rig, call(whole_answer=True))
        assert not waiting.received.chunks
        step.set()
        got = await waiting.task
        assert got.text == "one two"
        assert len(rig.order) == 2
        rig.assert_all_over()


@in_virtual_time
async def test_the_requests_own_fault_is_not_tried_elsewhere_once_its_server_is_believed() -> None:
    bad = (Fail(kind=FailureKind.BAD_REQUEST, param="temperature"),)
    scripts = two(ScriptedUpstream(GOOD, bad), ScriptedUpstream(GOOD, bad))
    async with running(scripts) as rig:
        for name in ("r1", "r2"):
            await answer(rig, call(generation(name)))
        assert sorted(rig.order) == ["own/a", "own/b"]
        for number, attempts in (("r3", 2), ("r4", 1), ("r5", 1)):
            # The other server confirms the first rejection. Then each is believed once.
            before = len(rig.order)
            with pytest.raises(UpstreamFailure) as caught:
                await answer(rig, call(generation(number)))
            assert caught.value.param == "temperature"
            assert len(rig.order) == before + attempts
        assert not rig.scheduler.request_ends[-1].keep_idempotency_key
        assert rig.observers[-1].outcomes == [RequestOutcome.FAILED]
        rig.assert_all_over()


@in_virtual_time
async def test_attempts_run_out() -> None:
    bad = ScriptedUpstream((Fail(kind=FailureKind.BUSY),))
    async with running(two(bad, bad), limits=LimitsConfig(attempts=2)) as rig:
        error = await refusal(rig)
        assert error.reason is RefusalReason.ATTEMPTS_EXHAUSTED
        assert isinstance(error.__cause__, UpstreamFailure)
        assert rig.observers[0].outcomes == [RequestOutcome.FAILED]
        assert len(rig.accounts) == 2
        rig.assert_all_over()


@in_virtual_time
async def test_a_prompt_that_is_too_long_everywhere_is_told_as_that() -> None:
    long = ScriptedUpstream((Fail(kind=FailureKind.CONTEXT_LENGTH, message="8 over"),))
    async with running(two(long, long), limits=LimitsConfig(attempts=1)) as rig:
        with pytest.raises(UpstreamFailure, match="8 over"):
            await answer(rig)
        rig.assert_all_over()


@in_virtual_time
async def test_refusals_before_the_scheduler_is_asked() -> None:
    async with running({"own/a": ScriptedUpstream(GOOD)}) as rig:
        error = await refusal(rig, call(generation(model="other")))
        assert (error.reason, error.model) == (RefusalReason.UNKNOWN_MODEL, "other")
        batch_only = replace(CALLER, slo_classes=(SloClass.BATCH,))
        denied = [
            call(caller=replace(CALLER, models=frozenset({"other"}))),
            call(caller=batch_only, slo_class=SloClass.STANDARD),
            call(remote_classes=frozenset({"nowhere"})),
        ]
        for asked in denied:
            assert (await refusal(rig, asked)).reason is RefusalReason.PERMISSION_DENIED
        assert not rig.observers
        assert not rig.scheduler.submissions
        rig.assert_all_over()


@in_virtual_time
async def test_a_request_id_in_flight_and_an_idempotency_key_that_is_used() -> None:
    go = asyncio.Event()
    upstream = ScriptedUpstream((Output(text="one"), Wait(until=go), Finish()))
    async with running({"own/a": upstream}) as rig:
        first = await client(rig, call(idempotency_key="once"))
        error = await refusal(rig)
        assert error.reason is RefusalReason.REQUEST_IN_FLIGHT
        assert error.other_request_id == "r"
        again = call(generation("s"), idempotency_key="once")
        error = await refusal(rig, again)
        assert error.reason is RefusalReason.IDEMPOTENCY_KEY_USED
        assert error.other_request_id == "r"
        assert not rig.scheduler.request_ends  # those were not admitted: the first one runs on
        go.set()
        await first.task
        assert (await refusal(rig, again)).reason is RefusalReason.IDEMPOTENCY_KEY_USED
        assert [end.request_id for end in rig.scheduler.request_ends] == ["key/r"]
        rig.assert_all_over()


@in_virtual_time
async def test_a_failed_request_gives_its_idempotency_key_back() -> None:
    upstream = ScriptedUpstream((Fail(kind=FailureKind.BAD_REQUEST),), GOOD)
    async with running({"own/a": upstream}) as rig:
        with pytest.raises(UpstreamFailure):
            await answer(rig, call(idempotency_key="once"))
        assert (await answer(rig, call(idempotency_key="once"))).text == "one two"


@in_virtual_time
async def test_a_key_at_its_limit() -> None:
    limited = replace(CALLER, limits=RateLimits(concurrent_requests=1))
    upstream = ScriptedUpstream((Hang(),), GOOD)
    async with running({"own/a": upstream}) as rig:
        first = await client(rig, call(caller=limited))
        error = await refusal(rig, call(generation("s"), caller=limited))
        assert error.reason is RefusalReason.KEY_LIMIT
        await first.leave()
        assert (await answer(rig, call(generation("s"), caller=limited))).text == "one two"
        rig.assert_all_over()


@in_virtual_time
async def test_a_full_queue() -> None:
    upstream = ScriptedUpstream((Hang(),))
    limits = LimitsConfig(queue_requests=1)
    async with running({"own/a": upstream}, max_running=1, limits=limits) as rig:
        runs = await client(rig, call(generation("runs")))
        waits = await client(rig, call(generation("waits")))
        assert rig.scheduler.core.queued_requests == 1
        assert (await refusal(rig)).reason is RefusalReason.QUEUE_FULL
        assert rig.observers[-1].outcomes == [RequestOutcome.REFUSED]
        await waits.leave()
        await runs.leave()
        rig.assert_all_over()


@in_virtual_time
async def test_a_deadline_that_passes_in_the_queue() -> None:
    async with running({"own/a": ScriptedUpstream((Hang(),))}, max_running=1) as rig:
        runs = await client(rig, call(generation("runs")))
        error = await refusal(rig, call(remaining_s=5.0))
        assert error.reason is RefusalReason.DEADLINE
        assert rig.observers[-1].outcomes == [RequestOutcome.REFUSED]
        await runs.leave()
        rig.assert_all_over()


@in_virtual_time
async def test_a_model_that_nobody_serves_now() -> None:
    async with running({"own/a": ScriptedUpstream(GOOD)}, serving_now=False) as rig:
        assert (await refusal(rig)).reason is RefusalReason.UNAVAILABLE
        rig.assert_all_over()


@in_virtual_time
async def test_fields_that_no_allowed_placement_honours_are_named() -> None:
    async with running({"own/a": ScriptedUpstream(GOOD)}) as rig:
        rig.upstreams.unsupported = {"own/a": ("logprobs",)}
        error = await refusal(rig)
        assert error.reason is RefusalReason.NO_PLACEMENT_ALLOWED
        assert error.fields == ("logprobs",)
        rig.assert_all_over()


@in_virtual_time
async def test_cancelled_while_it_waits() -> None:
    async with running({"own/a": ScriptedUpstream((Hang(),))}, max_running=1) as rig:
        runs = await client(rig, call(generation("runs")))
        waits = await client(rig)
        assert rig.scheduler.core.queued_requests == 1
        await waits.leave()
        assert rig.scheduler.core.queued_requests == 0
        assert rig.observers[-1].outcomes == [RequestOutcome.CANCELLED]
        assert [end.request_id for end in rig.scheduler.request_ends] == ["key/r"]
        await runs.leave()
        rig.assert_all_over()


@in_virtual_time
async def test_cancelled_while_it_streams() -> None:
    upstream = ScriptedUpstream((Output(text="one"), Output(text=" two"), Hang()))
    async with running({"own/a": upstream}) as rig:
        reads = await client(rig)
        assert reads.received.text == "one two"
        await reads.leave()
        [stream] = upstream.streams
        assert stream.state is StreamState.CLOSED
        [account] = rig.accounts
        assert account.outcome is AttemptOutcome.CANCELLED
        assert account.usage is not None
        assert account.usage.completion_tokens == 2
        [end] = rig.scheduler.request_ends
        assert end.keep_idempotency_key
        assert rig.observers[0].outcomes == [RequestOutcome.CANCELLED]
        rig.assert_all_over()


@in_virtual_time
async def test_cancelled_while_a_budget_is_asked() -> None:
    budget = Budget(
        tenant="team", key_id="", each_session=False, period=Period.HOUR, cap_nano_usd=10**12
    )
    upstream = ScriptedUpstream(GOOD)
    async with running({"own/a": upstream}, budgets=unanswered_budgets(budget)) as rig:
        use_prices(rig)
        waits = await client(rig, call(idempotency_key="once"))
        assert rig.scheduler.active_requests == 1
        assert not upstream.streams
        await waits.leave()
        assert rig.observers[0].outcomes == [RequestOutcome.CANCELLED]
        rig.assert_all_over()
        # Neither its id nor its idempotency key is held any more.
        again = await client(rig, call(idempotency_key="once"))
        assert rig.scheduler.active_requests == 1
        await again.leave()
        rig.assert_all_over()


@in_virtual_time
async def test_a_budget_that_cannot_be_checked_is_refused() -> None:
    budget = Budget(
        tenant="team", key_id="", each_session=False, period=Period.HOUR, cap_nano_usd=10**12
    )
    async with running(
        {"own/a": ScriptedUpstream(GOOD)}, budgets=unanswered_budgets(budget)
    ) as rig:
        use_prices(rig)
        error = await refusal(rig)  # after `GRANT_S`
        assert error.reason is RefusalReason.BUDGET_UNCHECKED
        assert not rig.scheduler.request_ends
        rig.assert_all_over()


@in_virtual_time
async def test_what_a_remote_finds_bad_another_placement_may_take() -> None:
    """Remotes differ in what they refuse; the first failure is of the self-hosted placement."""
    upstreams = {
        "own/a": ScriptedUpstream((Fail(kind=FailureKind.BUSY),)),
        REMOTE: ScriptedUpstream((Fail(kind=FailureKind.BAD_REQUEST, param="top_k"),)),
    }
    async with running(upstreams) as rig:
        with pytest.raises(UpstreamFailure) as caught:
            await answer(rig)
        assert caught.value.param == "top_k"  # nobody is left, and the client can mend this
        assert rig.order == ["own/a", REMOTE]
        outcomes = [account.outcome for account in rig.accounts]
        assert outcomes == [AttemptOutcome.RETRYABLE, AttemptOutcome.RETRYABLE]
        rig.assert_all_over()


@in_virtual_time
async def test_progress_is_told_while_tokens_come() -> None:
    go = asyncio.Event()
    upstream = ScriptedUpstream(
        (Output(text="one"), Output(text=" two"), Output(text=" three"), Wait(until=go), Finish())
    )
    async with running({"own/a": upstream}) as rig:
        reads = await client(rig)
        await asyncio.sleep(1.0)
        [state] = [s for s in rig.scheduler.core.placements if s.facts.name == "own/a"]
        [resident] = state.residents.values()
        assert resident.output_tokens == 3
        go.set()
        await reads.task
        await settle()
        rig.assert_all_over()
