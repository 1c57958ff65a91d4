"""Idempotency keys outlive the scheduler and the front that used them, in one other front."""

from __future__ import annotations

import asyncio

import pytest

from gateway.link import key_witness
from gateway.link.opening import LONGEST_S, ExpectedFronts, Opening
from gateway.link.wire.resume import Resumed
from scheduler.contract import AttemptOutcome, RefusalReason, Refuse
from scheduler.limits.idempotency import REMEMBERED_S
from scheduler.limits.rate_limit import RateLimits
from scheduler.port import Answer, RequestEnded, Started
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


def a_scheduler(
    clock: Clock, *, expects: int = 0, forgets_unfinished: bool = False, slots: int = 4
) -> Joined:
    """`expects`: number of fronts that come from the scheduler before; 0: there was none."""

    async def opened(told: Resumed | None, complete: bool) -> None:
        joined.host.settle_keys(complete=complete)

    joined = Joined(
        running(settings_of(config(slots=slots), catalog=ONE_USD), clock=clock),
        opening=Opening(ExpectedFronts(expects), opened) if expects else None,
        forgets_unfinished=forgets_unfinished,
    )
    return joined


async def submitted(
    front: JoinedFront, name: str, key: str, *others: JoinedFront, whole: bool = False
) -> list[Answer]:
    """Answers of a request. `others`: fronts that are told of it."""
    answers: list[Answer] = []
    asked = submission(name, idempotency_key=key, whole_answer=whole)
    submitting = asyncio.ensure_future(front.remote.submit(asked, answers.append))
    for _ in range(3):
        await turns()
        for each in (front, *others):
            each.exchange()
    await submitting
    return answers


def ended(name: str, *, keep: bool) -> RequestEnded:
    return RequestEnded(request_id=name, used_tokens=9, keep_idempotency_key=keep)


async def moved(witness: JoinedFront, to: Joined) -> None:
    """The front joins another scheduler."""
    witness.cut()
    witness.host = to.host
    await witness.join()


def is_used(answers: list[Answer]) -> bool:
    match answers:
        case [Started()]:
            return False
        case [Refuse(reason=RefusalReason.IDEMPOTENCY_KEY_USED, other_request_id="r")]:
            return True
    raise AssertionError(answers)


@pytest.mark.parametrize("forgets_unfinished", [False, True])
@pytest.mark.parametrize("end", ["runs", "kept", "freed"])
async def test_a_key_of_the_leaders_own_front_is_known_to_the_next_leader(
    end: str, forgets_unfinished: bool
) -> None:
    clock = Clock()
    old = a_scheduler(clock)
    own, other = await old.join(1, own=True), await old.join(2)
    await submitted(own, "k/r", "once", other)
    if end != "runs":
        own.remote.send(attempt_end("k/r", 1, AttemptOutcome.OK))
        own.remote.send(ended("k/r", keep=end == "kept"))
    own.exchange()
    other.exchange()
    new = a_scheduler(clock, expects=1, forgets_unfinished=forgets_unfinished)
    await moved(other, new)
    assert is_used(await submitted(other, "k/again", "once")) == (end != "freed")
    clock.now_s += REMEMBERED_S + 1.0
    assert not is_used(await submitted(other, "k/later", "once" if end != "freed" else "new"))


@pytest.mark.parametrize("forgets_unfinished", [False, True])
async def test_without_output_a_key_is_free_once_its_front_is_known_to_be_gone(
    forgets_unfinished: bool,
) -> None:
    clock = Clock()
    old = a_scheduler(clock)
    own, other = await old.join(1, own=True), await old.join(2)
    await submitted(own, "k/r", "once", other, whole=True)
    new = a_scheduler(clock, expects=1, forgets_unfinished=forgets_unfinished)
    await moved(other, new)
    found = await submitted(other, "k/again", "once")
    assert is_used(found) == (not forgets_unfinished)


async def test_a_front_that_may_come_back_keeps_its_keys_though_the_leader_is_gone() -> None:
    """It was expected, and the leader opened without it."""
    clock = Clock()
    old = a_scheduler(clock)
    witness, late = await old.join(1), await old.join(2)
    await submitted(late, "k/r", "once", witness, whole=True)
    new = a_scheduler(clock, expects=2, forgets_unfinished=True)
    witness.cut()
    witness.host = new.host
    joining = witness.connect()
    for _ in range(4):
        for _ in range(4):
            await turns()
            witness.exchange()
        new.host.tick()
        clock.now_s += LONGEST_S
    assert joining.done()
    assert is_used(await submitted(witness, "k/again", "once"))


async def test_a_stopped_leader_keeps_its_keys_though_the_next_one_is_killed() -> None:
    clock = Clock()
    first = a_scheduler(clock)
    stopped, second, third = await first.join(1, own=True), await first.join(2), await first.join(3)
    await submitted(stopped, "k/r", "once", second, whole=True)
    then = a_scheduler(clock, expects=2)
    second.own = True
    for front in (second, third):
        front.cut()
        front.host = then.host
    joining = [front.connect() for front in (second, third)]
    for _ in range(10):
        await turns()
        second.exchange()
        third.exchange()
    assert all(each.done() for each in joining)
    last = a_scheduler(clock, expects=1, forgets_unfinished=True)
    await moved(third, last)
    assert is_used(await submitted(third, "k/again", "once")), "it may still run"


async def test_a_key_that_was_freed_while_its_witness_was_away_stays_free() -> None:
    clock = Clock()
    scheduler = a_scheduler(clock)
    own, witness = await scheduler.join(1, own=True), await scheduler.join(2)
    await submitted(own, "k/r", "once", witness)
    witness.cut()
    own.remote.send(attempt_end("k/r", 1, AttemptOutcome.FAILED))
    own.remote.send(ended("k/r", keep=False))
    own.exchange()
    await witness.join()
    assert not is_used(await submitted(witness, "k/again", "once"))


async def test_a_front_that_was_only_away_takes_its_request_back() -> None:
    clock = Clock()
    old = a_scheduler(clock)
    own, other = await old.join(1, own=True), await old.join(2)
    await submitted(own, "k/r", "once", other)
    new = a_scheduler(clock)
    await moved(other, new)
    own.own = False
    await moved(own, new)
    assert new.made.local.active_requests == 1
    own.remote.send(attempt_end("k/r", 1, AttemptOutcome.FAILED))
    own.remote.send(ended("k/r", keep=False))
    own.exchange()
    other.exchange()
    assert len(new.made.accounts) == 1
    assert not is_used(await submitted(other, "k/again", "once")), "it failed without output"


async def test_what_was_admitted_and_not_told_is_admitted_again() -> None:
    clock = Clock()
    old = a_scheduler(clock)
    front = await old.join(2)
    answers: list[Answer] = []
    asked = submission("k/r", idempotency_key="once")
    submitting = asyncio.ensure_future(front.remote.submit(asked, answers.append))
    await turns()
    kept = []
    front.host_side.post = lambda *message, **_: kept.append(message)  # type: ignore[method-assign]
    front.host.fronts[0].session.attach(front.host_side.post)
    front.flush()
    front.there.deliver()
    await turns()
    assert [int(kind) for kind, *_ in kept] == [40, 40, 30]
    for message in kept[:2]:  # what is told of the key arrives, the answer does not
        front.remote._receive(*message)
    assert not answers
    new = a_scheduler(clock)
    await moved(front, new)
    front.exchange()
    await submitting
    assert not is_used(answers)


async def test_a_new_witness_is_told_the_earlier_keys_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(key_witness, "PIECE", 2)
    clock = Clock()
    old = a_scheduler(clock, slots=8)
    own = await old.join(1, own=True)
    for number in range(5):
        await submitted(own, f"k/r{number}", f"key{number}")
    late = await old.join(2)
    for told in (2, 4, 5):
        old.host.tick()
        late.exchange()
        assert len(late.remote.record.resumed(clock.now_s).remembered) == told
    late.cut()
    third = await old.join(3)
    for _ in range(3):
        old.host.tick()
    third.exchange()
    assert len(third.remote.record.resumed(clock.now_s).remembered) == 5


async def test_a_take_over_hands_out_no_second_bucket() -> None:
    limits = RateLimits(requests_per_minute=60, tokens_per_minute=600)
    clock = Clock()
    old = a_scheduler(clock)
    own, other = await old.join(1, own=True), await old.join(2)
    for _ in range(50):
        assert own.host.fronts[0].session.take_request("k", limits) is None
    first = submission("k/r", key_limits=limits, prompt_tokens=500)
    assert old.made.local.claims.claim(first, clock.now_s) is None
    old.host.tick()
    other.exchange()
    clock.now_s += 2.0
    new = a_scheduler(clock)
    await moved(other, new)
    claims = new.made.local.claims
    taken = 0
    while claims.take_request("k", limits, clock.now_s) is None:
        taken += 1
    assert taken == 12, "ten were left, and two seconds bring two"
    refused = claims.claim(submission("k/a", key_limits=limits, prompt_tokens=121), clock.now_s)
    assert refused is not None
    assert refused.reason is RefusalReason.KEY_LIMIT
    left = submission("k/b", key_limits=limits, prompt_tokens=120)
    assert claims.claim(left, clock.now_s) is None


async def test_an_older_rate_replaces_no_newer_one() -> None:
    limits = RateLimits(requests_per_minute=60)
    clock = Clock()
    old = a_scheduler(clock)
    other = await old.join(2)
    old.made.local.claims.take_request("k", limits, clock.now_s)
    old.host.tick()
    other.exchange()
    new = a_scheduler(clock)
    clock.now_s += 1.0
    for _ in range(30):
        assert new.made.local.claims.take_request("k", limits, clock.now_s) is None
    await moved(other, new)
    [level] = new.made.local.claims.changed_levels(clock.now_s, every=True)
    assert level.requests == 30.0
