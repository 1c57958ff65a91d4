"""The decisions of one model: which way a request takes, and what a quote says of it beforehand."""

from __future__ import annotations

import pytest

from scheduler.contract import (
    AttemptEnded,
    AttemptOutcome,
    Evict,
    Progress,
    RefusalReason,
    Refuse,
    ServingChanged,
    SloClass,
    Start,
)
from scheduler.decisions import Tier
from scheduler.model_scheduler import (
    LONGEST_RETRY_S,
    MOST_EVICTIONS,
    SHORTEST_RETRY_S,
    TRY_AGAIN_S,
)
from tests.scheduler.placements_made import remote, self_hosted, serving_scheduler
from tests.scheduler.requests_made import request

EU = frozenset({"eu"})


def test_a_quote_says_what_a_request_would_meet() -> None:
    """Of each way, with the same request submitted right after its quote."""
    core = serving_scheduler(self_hosted(max_running=1), remote(max_running=1), queue=1)
    tiers = []
    for name, remotes in (("own", EU), ("far", EU), ("waits", EU), ("refused", EU)):
        made = request(name, remote_classes=remotes, ttft_s=0.05)
        quoted = core.quote(made, 0.0)
        assert core.decisions.get(name) is None, "a quote is not a decision"
        core.submit(made, 0.0)
        decision = core.decisions.get(name)
        assert decision is not None
        assert decision.chosen == quoted.chosen
        tiers.append((quoted.tier, decision.tier))
    assert tiers[0] == (Tier.LOCAL, Tier.LOCAL)
    assert tiers[-1] == (Tier.REFUSE, Tier.REFUSE)
    assert all(quoted is decided for quoted, decided in tiers)


def test_a_remote_is_not_used_because_it_exists() -> None:
    core = serving_scheduler(self_hosted(), remote())
    [start] = core.submit(request("r", remote_classes=EU), 0.0)
    assert isinstance(start, Start)
    assert start.placement == "own/a"


def test_a_deadline_that_no_server_can_meet_is_refused_at_once() -> None:
    core = serving_scheduler(self_hosted())
    [refusal] = core.submit(request("r", deadline_s=0.001), 0.0)
    assert isinstance(refusal, Refuse)
    assert (refusal.reason, refusal.retry_after_s) == (RefusalReason.DEADLINE, None)
    assert core.handle(ServingChanged(placement="own/a", serving=False, reason=""), 0.0) == ()


def test_the_hint_when_to_come_again_is_within_bounds() -> None:
    core = serving_scheduler(self_hosted(max_running=1), queue=1)
    core.submit(request("runs"), 0.0)
    core.submit(request("waits"), 0.0)
    [refusal] = core.submit(request("third"), 0.0)
    assert isinstance(refusal, Refuse)
    assert refusal.reason is RefusalReason.QUEUE_FULL
    assert refusal.retry_after_s is not None
    assert SHORTEST_RETRY_S <= refusal.retry_after_s <= LONGEST_RETRY_S


def test_a_batch_request_is_taken_back_only_so_often() -> None:
    core = serving_scheduler(self_hosted(max_running=1))
    core.submit(request("batch", SloClass.BATCH, max_queue_s=500.0), 0.0)
    for i in range(MOST_EVICTIONS):
        now, attempt = float(i), 1 + i
        [evict] = core.submit(request(f"urgent{i}", arrival_s=now), now)
        assert isinstance(evict, Evict)
        assert (evict.request_id, evict.attempt) == ("batch", attempt)
        taken = AttemptEnded(request_id="batch", attempt=attempt, outcome=AttemptOutcome.EVICTED)
        [start] = core.handle(taken, now)
        assert isinstance(start, Start)
        assert start.request_id == f"urgent{i}"
        [again] = core.handle(
            AttemptEnded(request_id=f"urgent{i}", attempt=1, outcome=AttemptOutcome.OK), now + 0.5
        )
        assert isinstance(again, Start)
        assert (again.request_id, again.attempt) == ("batch", attempt + 1)
    assert core.submit(request("last", arrival_s=9.0), 9.0) == ()


def test_a_request_that_gives_its_seat_up_goes_to_a_remote_if_it_may() -> None:
    core = serving_scheduler(self_hosted(max_running=1), remote(), queue=1)
    core.submit(request("runs"), 0.0)
    core.submit(request("below", SloClass.BATCH, remote_classes=EU, ttft_s=60.0), 0.0)
    assert core.queued_requests == 1
    [start, *rest] = core.submit(request("above"), 0.0)
    assert isinstance(start, Start)
    assert (start.request_id, start.placement, rest) == ("below", "far", [])


def test_a_tick_asks_to_be_called_again_while_time_may_help() -> None:
    core = serving_scheduler(self_hosted())
    assert core.tick(0.0).next_wake_s is None
    core.submit(request("talks", max_output_tokens=400), 0.0)
    core.handle(Progress(request_id="talks", attempt=1, output_tokens=1), 0.1)
    core.submit(request("long", prompt_tokens=40_000), 0.1)
    assert core.tick(0.1).next_wake_s == pytest.approx(0.1 + TRY_AGAIN_S)


def test_all_who_wait_are_refused_when_the_last_server_goes() -> None:
    core = serving_scheduler(self_hosted(max_running=1), self_hosted("own/b", max_running=1))
    for i in range(4):
        core.submit(request(f"r{i}"), 0.0)
    assert core.handle(ServingChanged(placement="own/a", serving=False, reason=""), 1.0) == ()
    refusals = core.handle(ServingChanged(placement="own/b", serving=False, reason=""), 1.0)
    assert {(r.request_id, r.reason) for r in refusals if isinstance(r, Refuse)} == {
        ("r2", RefusalReason.UNAVAILABLE),
        ("r3", RefusalReason.UNAVAILABLE),
    }
    assert core.queued_requests == 0
