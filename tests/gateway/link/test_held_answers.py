"""A request of the leader's own front goes on when another front has its idempotency key."""

from __future__ import annotations

import asyncio

from gateway.link.key_witness import LONGEST_WAIT_S
from gateway.link.wire.messages import Kind
from scheduler.contract import AttemptOutcome, Evict
from scheduler.port import Answer, Settled, Started
from tests.gateway.link.pipes import Joined, JoinedFront, turns
from tests.gateway.scheduling.scheduling_made import (
    ONE_USD,
    Clock,
    attempt_end,
    config,
    running,
    settings_of,
    submission,
)


async def a_leader() -> tuple[Joined, JoinedFront, JoinedFront]:
    """A leader, its own front, and the witness."""
    joined = Joined(running(settings_of(config(slots=4), catalog=ONE_USD), clock=Clock()))
    return joined, await joined.join(1, own=True), await joined.join(2)


async def asks(front: JoinedFront, key: str = "once", *, whole: bool = False) -> list[Answer]:
    """Answers to come; the request arrives at the scheduler, and what is answered at once here."""
    answers: list[Answer] = []
    asked = submission("k/r", idempotency_key=key, whole_answer=whole)
    submitting = asyncio.ensure_future(front.remote.submit(asked, answers.append))
    submitting.add_done_callback(lambda done: done.cancelled() or done.exception())
    for _ in range(2):
        await turns()
        front.exchange()
    return answers


def kinds(answers: list[Answer]) -> list[type[Answer]]:
    return [type(answer) for answer in answers]


async def test_it_starts_when_the_witness_has_its_key() -> None:
    joined, own, witness = await a_leader()
    answers = await asks(own)
    assert not answers
    witness.exchange()
    own.exchange()
    assert kinds(answers) == [Started]
    assert joined.host.witness.unkept == 0
    [kept] = witness.remote.record.resumed(100.0).remembered
    assert kept.has_output, "that it starts is told, too"


async def test_a_slow_witness_holds_it_for_a_moment() -> None:
    joined, own, _ = await a_leader()
    answers = await asks(own)
    joined.made.clock.now_s += LONGEST_WAIT_S / 2
    joined.host.tick()
    own.exchange()
    assert not answers
    joined.made.clock.now_s += LONGEST_WAIT_S
    joined.host.tick()
    own.exchange()
    assert kinds(answers) == [Started]
    assert joined.host.witness.unkept == 1


async def test_nothing_waits_for_a_witness_that_is_lost() -> None:
    joined, own, witness = await a_leader()
    answers = await asks(own)
    witness.cut()
    own.exchange()
    assert kinds(answers) == [Started]
    assert joined.host.witness.unkept == 0


async def test_others_start_at_once() -> None:
    _, own, witness = await a_leader()
    assert kinds(await asks(own, key="")) == [Started]
    _, own, witness = await a_leader()
    # It tells the next scheduler itself.
    assert kinds(await asks(witness)) == [Started]
    joined = Joined(running(settings_of(config(), catalog=ONE_USD), clock=Clock()))
    assert kinds(await asks(await joined.join(1, own=True))) == [Started], "there is no other"


async def test_a_witness_of_the_version_before_is_not_waited_for() -> None:
    joined, own, _ = await a_leader()
    assert joined.host.witness.front is not None
    joined.host.witness.front.version = 3
    assert kinds(await asks(own)) == [Started]


async def test_answers_stay_in_their_order() -> None:
    joined, own, witness = await a_leader()
    answers = await asks(own)
    [branch] = joined.host.fronts[0].session.branches.values()
    joined.host.fronts[0].session.deliver(branch, Evict(request_id="k/r", attempt=1, reason="now"))
    own.exchange()
    assert not answers
    witness.exchange()
    own.exchange()
    assert kinds(answers) == [Started, Evict]


async def test_a_whole_answer_leaves_when_the_witness_knows_of_it() -> None:
    _, own, witness = await a_leader()
    answers = await asks(own, whole=True)
    witness.exchange()
    own.exchange()
    [kept] = witness.remote.record.resumed(100.0).remembered
    assert not kept.has_output
    own.remote.send(attempt_end("k/r", 1, AttemptOutcome.OK))
    own.exchange()
    assert kinds(answers) == [Started]
    witness.exchange()
    own.exchange()
    assert kinds(answers) == [Started, Settled]
    [kept] = witness.remote.record.resumed(100.0).remembered
    assert kept.has_output


async def test_what_another_front_says_it_keeps_is_no_answer_of_the_witness() -> None:
    joined, own, _ = await a_leader()
    third = await joined.join(3)
    answers = await asks(own)
    third.near.post(Kind.KEPT, 100, None)
    third.exchange()
    own.exchange()
    assert not answers
