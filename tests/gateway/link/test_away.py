"""Without a scheduler streams end, what is new waits within bounds, and no loss is silent."""

from __future__ import annotations

import asyncio

import pytest

from gateway.link import front_record
from gateway.link.away import AwayLimits
from scheduler.contract import RefusalReason, Refuse
from scheduler.port import Answer, RequestEnded, SchedulerAway, Settled, Started
from tests.gateway.link.pipes import Joined, JoinedFront, turns
from tests.gateway.scheduling.scheduling_made import (
    ONE_USD,
    attempt_end,
    config,
    running,
    settings_of,
    submission,
)

SUBMITTING: list[asyncio.Future[None]] = []
"""Tasks that wait for a scheduler."""


async def front_of(two: Joined) -> JoinedFront:
    return await two.join(1)


def joined(slots: int = 4) -> Joined:
    return Joined(running(settings_of(config(slots=slots), catalog=ONE_USD)))


async def started(front: JoinedFront, request_id: str) -> list[Answer]:
    """Answers of a request whose attempt runs."""
    answers: list[Answer] = []
    submitting = asyncio.ensure_future(front.remote.submit(submission(request_id), answers.append))
    await turns()
    front.exchange()
    await submitting
    assert isinstance(answers[0], Started)
    return answers


def waiting(front: JoinedFront, request_id: str, **fields: object) -> list[Answer]:
    """Answers of a request that is submitted while there is no scheduler."""
    answers: list[Answer] = []
    made = submission(request_id, **fields)  # type: ignore[arg-type]
    SUBMITTING.append(asyncio.ensure_future(front.remote.submit(made, answers.append)))
    return answers


async def test_a_stream_ends_without_its_account_and_is_booked_later() -> None:
    two = joined()
    front = await front_of(two)
    answers = await started(front, "r")
    front.cut()
    front.remote.send(attempt_end("r"))
    front.remote.expire()
    assert len(answers) == 1, "the account may come yet"
    two.made.clock.now_s += front.remote.limits.account_s
    front.remote.expire()
    settled = answers[-1]
    assert isinstance(settled, Settled)
    assert settled.attempt.usage is not None
    assert settled.attempt.usage.completion_tokens == 10
    assert settled.attempt.charged_nano_usd is settled.attempt.metered_nano_usd is None
    front.remote.send(RequestEnded(request_id="r", used_tokens=9, keep_idempotency_key=False))
    await front.join()
    front.exchange()
    assert [account.charged_nano_usd for account in two.made.accounts] == [110_000]
    assert len(answers) == 2, "it has its account already"
    assert not front.remote.record.reports
    assert two.made.local.active_requests == 0


async def test_what_is_new_waits_and_is_submitted() -> None:
    two = joined()
    front = await front_of(two)
    front.cut()
    answers = waiting(front, "r")
    await turns()
    front.remote.expire()
    assert not answers
    await front.join()
    front.exchange()
    assert isinstance(answers[0], Started)


async def test_what_waits_too_long_is_refused_with_a_hint() -> None:
    two = joined()
    front = await front_of(two)
    front.cut()
    late = waiting(front, "late")
    patient = waiting(front, "deadline", deadline_s=two.made.clock.now_s + 5.0)
    await turns()
    two.made.clock.now_s += 5.0
    front.remote.expire()
    assert not late
    two.made.clock.now_s += 5.0
    front.remote.expire()
    for answers in (late, patient):
        [refuse] = answers
        assert isinstance(refuse, Refuse)
        assert refuse.reason is RefusalReason.UNAVAILABLE
        assert refuse.retry_after_s is not None
    for request_id in ("late", "deadline"):
        ended = RequestEnded(request_id=request_id, used_tokens=0, keep_idempotency_key=False)
        front.remote.send(ended)
    await front.join()
    front.exchange()
    assert two.made.local.active_requests == 0


async def test_a_tenant_fills_its_share_and_the_room_is_bounded() -> None:
    two = joined()
    front = await front_of(two)
    front.remote.limits = AwayLimits(requests=4, tenant_share=0.5)
    front.cut()
    found = [waiting(front, f"r{n}") for n in range(3)]
    others = [waiting(front, f"o{n}", tenant="other") for n in range(3)]
    await turns()
    assert [len(answers) for answers in (*found, *others)] == [0, 0, 1, 0, 0, 1]
    third = waiting(front, "t", tenant="third")
    await turns()
    assert len(third) == 1, "all places are taken"


async def test_questions_wait_and_are_then_refused() -> None:
    two = joined()
    front = await front_of(two)
    front.remote.limits = AwayLimits(call_s=0.05, calls=1)
    front.cut()
    asking = asyncio.ensure_future(front.remote.figures())
    await turns()
    with pytest.raises(SchedulerAway):
        await front.remote.explain("r")  # one waits already
    with pytest.raises(SchedulerAway):
        await asking


async def test_a_question_that_a_lost_scheduler_has_not_answered_is_asked_again() -> None:
    two = joined()
    front = await front_of(two)
    asking = asyncio.ensure_future(front.remote.token_rates())
    await turns()
    front.cut()
    await front.join()
    for _ in range(3):
        await turns()
        front.exchange()
    assert await asking == await two.made.local.token_rates()


async def test_ends_that_find_no_room_are_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(front_record, "MAX_REPORTS", 2)
    two = joined()
    front = await front_of(two)
    for request_id in ("a", "b"):
        await started(front, request_id)
    front.cut()
    for request_id in ("a", "b"):
        front.remote.send(attempt_end(request_id))
        ended = RequestEnded(request_id=request_id, used_tokens=0, keep_idempotency_key=False)
        front.remote.send(ended)
    assert front.remote.record.lost_ends == 1
    assert "1 found no room" in caplog.text
    await front.join()
    front.exchange()
    assert two.made.local.active_requests == 0
