"""Requests wait for the first server of a pool, if one is started for them."""

from __future__ import annotations

from dataclasses import replace

from scheduler.contract import ServingChanged
from scheduler.decisions import Tier
from scheduler.model.awaited_server import awaited_server_s
from scheduler.placement_state import Placement, PlacementState
from scheduler.queue.model_queue import QueueLimits
from tests.scheduler.model.test_model_scheduler import Model, shown
from tests.scheduler.model.test_model_state import FAR, own
from tests.scheduler.requests_made import request

START_S = 600.0


def asleep(name: str = "a") -> Placement:
    return replace(own(name), start_s=START_S)


def serve(model: Model, name: str, serving: bool, now: float = 0.0) -> list[str]:
    """A server starts or ends. Returns what is told to the shell."""
    event = ServingChanged(placement=name, serving=serving, reason="no address")
    model.state.set_serving(event, now)
    return shown(model.scheduler.refuse_orphaned(now))


def state(facts: Placement, *, serving: bool) -> PlacementState:
    return PlacementState(facts, serving=serving, reason="no address")


def test_the_longest_start_counts_and_nothing_where_one_serves_or_none_is_started() -> None:
    made = request("r")
    slower = replace(asleep("b"), start_s=2 * START_S)
    both = [state(asleep(), serving=False), state(slower, serving=False)]
    assert awaited_server_s(both, made) == 2 * START_S
    assert awaited_server_s([*both, state(own("c"), serving=True)], made) is None
    assert awaited_server_s([state(own("c"), serving=False)], made) is None
    assert awaited_server_s(both, request("r", unsupported_by=frozenset("ab"))) is None
    exact = request("r", prompt_tokens_exact=True)
    short = replace(asleep(), context_tokens=50)
    assert awaited_server_s([state(short, serving=False)], exact) is None


def test_what_waits_runs_as_soon_as_a_server_is_there() -> None:
    one = Model(asleep())
    serve(one, "a", False)
    assert one.quote() == (Tier.WAIT_LATE, None)
    assert one.submit("r1") == []
    assert one.submit("r2") == []
    # Longer than its class may wait in the queue: a start takes what it takes.
    assert one.ticks(START_S - 1.0) == []
    assert serve(one, "a", True, START_S - 1.0) == ["r1 to a", "r2 to a"]


def test_nobody_waits_longer_than_a_start_takes_or_than_the_deadline() -> None:
    one = Model(asleep())
    serve(one, "a", False)
    one.submit("patient")
    one.submit("hasty", deadline_s=20.0)
    done = one.ticks(2 * START_S)
    assert [texts for _, texts in done] == [["hasty deadline"], ["patient queue_timeout"]]
    assert done[0][0] <= 20.0
    assert done[1][0] == START_S


def test_a_remote_is_asked_first_and_a_full_queue_refuses() -> None:
    one = Model(asleep(), FAR)
    serve(one, "a", False)
    assert one.submit("r1") == ["r1 to far"]
    alone = Model(asleep())
    alone.scheduler.set_limits(queue=QueueLimits(requests=1, size_bytes=1000), attempts=1)
    serve(alone, "a", False)
    assert alone.submit("r1") == []
    assert alone.quote() == (Tier.REFUSE, None)
    assert alone.submit("r2") == ["r2 queue_full"]


def test_only_those_wait_on_that_the_pool_may_run() -> None:
    one = Model(asleep(), own("b"))
    one.submit("busy-1"), one.submit("busy-2"), one.submit("busy-3"), one.submit("busy-4")
    assert one.submit("waits") == []
    assert one.submit("not there", unsupported_by=frozenset({"a"})) == []
    serve(one, "a", False)
    assert serve(one, "b", False) == ["not there unavailable"]
    assert one.submit("late", unsupported_by=frozenset({"a"})) == ["late unavailable"]
