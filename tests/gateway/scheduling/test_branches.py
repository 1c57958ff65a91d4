"""Branches that the core has: the order of their answers, their attempts, and their ends."""

from __future__ import annotations

from gateway.config.limits import LimitsConfig
from scheduler.contract import (
    AttemptOutcome,
    Progress,
    RefusalReason,
)
from scheduler.limits.rate_limit import RateLimits
from scheduler.port import (
    BranchKind,
    Started,
)
from tests.gateway.scheduling.scheduling_made import (
    config,
    kinds,
    running,
    settings_of,
    submission,
)

IDLE = "<Scheduler: 0 queued, 0 running>"
ONE_AT_ONCE = RateLimits(concurrent_requests=1)
FAILED = AttemptOutcome.RETRYABLE


async def test_a_branch_is_queued_then_started_then_settled() -> None:
    made = running(settings_of(config()))
    first = await made.submit(submission("r1"))
    second = await made.submit(submission("r2"))
    third = await made.submit(submission("r3"))
    assert kinds(first) == ["start 1 at own/a"]
    assert (kinds(second), kinds(third)) == (["queued 1"], ["queued 2"])
    made.end("r1")
    assert kinds(first) == ["start 1 at own/a", "settled 1"]
    assert kinds(second) == ["queued 1", "start 1 at own/a"]
    made.end("r2")
    assert kinds(second) == ["queued 1", "start 1 at own/a", "settled 1"]
    assert kinds(third) == ["queued 2", "start 1 at own/a"]


async def test_a_retryable_end_is_settled_before_the_next_start() -> None:
    made = running(settings_of(config(replicas=2, limits=LimitsConfig(attempts=2))))
    answers = await made.submit(submission("r1"))
    made.end("r1", 1, outcome=FAILED)
    started = [answer.start for answer in answers if isinstance(answer, Started)]
    assert {start.placement for start in started} == {"own/a", "own/b"}
    assert [start.attempt for start in started] == [1, 2]
    made.end("r1", 2, outcome=FAILED)
    assert kinds(answers)[1::2] == ["settled 1", "settled 2"]
    assert kinds(answers)[-1] == RefusalReason.ATTEMPTS_EXHAUSTED
    assert len(answers) == 5
    assert made.local.active_requests == 1, "until RequestEnded"
    made.ended("r1")
    assert made.local.active_requests == 0


async def test_a_retry_that_has_to_wait_is_told_so() -> None:
    made = running(settings_of(config(replicas=2)))
    first = await made.submit(submission("r1"))
    await made.submit(submission("r2"))
    made.end("r1", 1, outcome=FAILED)
    assert kinds(first)[1:] == ["settled 1", "queued 1"]


async def test_an_abandoned_attempt_is_settled_as_it_ended_and_not_retried() -> None:
    made = running(settings_of(config(replicas=2)))
    answers = await made.submit(submission("r1"))
    made.end("r1", 1, outcome=FAILED, abandoned=True)
    assert kinds(answers)[1:] == ["settled 1"]
    assert made.accounts[0].outcome is FAILED


async def test_attempts_are_numbered_over_all_branches() -> None:
    made = running(settings_of(config(replicas=3, hedges=1.0)))
    original = await made.submit(submission("r1"))
    [started] = original
    assert isinstance(started, Started)
    beside = started.start.placement
    hedge = await made.submit(
        submission("r1~hedge", BranchKind.HEDGE, original_id="r1", beside=beside)
    )
    [second] = hedge
    assert isinstance(second, Started)
    assert second.start.attempt == 2
    assert second.start.placement != beside
    assert second.start.reason.startswith("hedge: ")
    made.end("r1", 1, outcome=FAILED, abandoned=True)
    made.end("r1~hedge", 2, outcome=FAILED)
    more = await made.submit(submission("r1~more", BranchKind.CONTINUATION, original_id="r1"))
    numbers = [a.start.attempt for a in (*original, *hedge, *more) if isinstance(a, Started)]
    assert numbers == [1, 2, 3, 4]
    assert [account.attempt for account in made.accounts] == [1, 2]
    assert {account.request_id for account in made.accounts} == {"r1"}


async def test_start_names_pool_and_replica_and_carries_the_decision_if_asked() -> None:
    made = running(settings_of(config(slots=2)))
    [plain] = await made.submit(submission("r1"))
    [full] = await made.submit(submission("r2", wants_decision=True))
    assert isinstance(plain, Started)
    assert isinstance(full, Started)
    assert (plain.start.pool, plain.start.replica) == ("own", "a")
    assert plain.decision is None
    assert full.decision is not None
    assert full.decision.request_id == "r2"


async def test_the_end_of_a_request_ends_what_runs_and_what_waits_of_it() -> None:
    made = running(settings_of(config()))
    await made.submit(submission("r1"))
    waiting = await made.submit(submission("r2"))
    more = await made.submit(submission("r1~more", BranchKind.CONTINUATION, original_id="r1"))
    assert (kinds(waiting), kinds(more)) == (["queued 1"], ["queued 2"])
    made.ended("r1")
    assert kinds(waiting) == ["queued 1", "start 1 at own/a"]
    assert kinds(more) == ["queued 2"], "nothing is told of a request that is over"
    made.ended("r2")
    assert repr(made) == IDLE
    assert made.accounts == [], "neither attempt was told to have ended"
    group = made.metering.group("own/a")
    assert group is not None
    assert group.running == 0


async def test_the_room_of_an_ended_request_is_not_for_its_other_branch() -> None:
    made = running(settings_of(config()))
    await made.submit(submission("r1"))
    more = await made.submit(submission("r1~more", BranchKind.CONTINUATION, original_id="r1"))
    made.ended("r1")
    assert kinds(more) == ["queued 1"]
    assert repr(made) == IDLE


async def test_messages_of_old_attempts_change_nothing() -> None:
    made = running(settings_of(config(replicas=2)))
    await made.submit(submission("r1"))
    made.end("r1", 1, outcome=FAILED)
    [state] = [state for state in made.local.core.placements if state.residents]
    made.local.send(Progress(request_id="r1", attempt=1, output_tokens=7))
    assert state.residents["r1"].output_tokens == 0
    made.end("r1", 1)
    assert len(made.accounts) == 1
    made.local.send(Progress(request_id="r1", attempt=2, output_tokens=5))
    assert state.residents["r1"].output_tokens == 5
    made.end("r1", 2)
    made.end("r1", 2)
    assert [account.attempt for account in made.accounts] == [1, 2]
    made.local.send(Progress(request_id="nobody", attempt=1, output_tokens=5))
    made.end("nobody")
    made.ended("nobody")
    assert len(made.accounts) == 2
