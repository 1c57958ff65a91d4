"""The decisions of one model: which way a request takes, and what becomes of one that waits."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from scheduler.contract import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    Evict,
    OverflowReason,
    RefusalReason,
    Refuse,
    SloClass,
    Start,
)
from scheduler.decisions import Tier
from scheduler.limits.retry_budget import SharedRetryBudget
from scheduler.model.model_scheduler import MOST_EVICTIONS, SPILL_AGAIN_S, ModelScheduler
from scheduler.model.model_state import ModelState
from scheduler.model.quotation import quote_request
from scheduler.placement_state import Placement
from scheduler.queue.model_queue import QueueLimits
from scheduler.tracked_request import TrackedRequest
from tests.scheduler.model.test_model_state import FAR, model, own
from tests.scheduler.requests_made import request

EU = frozenset({"eu"})


class Model:
    """One model with its scheduler, and what was told to the shell."""

    def __init__(self, *placements: Placement, attempts: int = 3) -> None:
        self.state: ModelState = model(*placements)
        self.tracked: dict[str, TrackedRequest] = {}
        self.scheduler = ModelScheduler(self.state, self.tracked, SharedRetryBudget(), attempts)

    def submit(self, name: str, now: float = 0.0, **fields: Any) -> list[str]:
        fields = {"arrival_s": now, "remote_classes": EU, **fields}
        tracked = self.tracked[name] = TrackedRequest(request(name, **fields))
        self.state.set_expectations(tracked)
        return shown(self.scheduler.decide(tracked, now))

    def end(self, name: str, outcome: AttemptOutcome, now: float = 0.0) -> list[str]:
        tracked = self.tracked[name]
        event = AttemptEnded(request_id=name, attempt=tracked.attempts, outcome=outcome)
        return shown(self.scheduler.on_attempt_ended(tracked, event, now))

    def ticks(self, end_s: float) -> list[tuple[float, list[str]]]:
        """What each tick does, at the times that the ticks ask for."""
        done: list[tuple[float, list[str]]] = []
        now: float | None = 0.0
        while now is not None and now <= end_s:
            tick = self.scheduler.tick(now)
            if tick.actions:
                done.append((round(now, 2), shown(tick.actions)))
            now = tick.next_wake_s
        return done

    def quote(self, **fields: Any) -> tuple[Tier, str | None]:
        asked = request("asks", remote_classes=EU, **fields)
        decision = quote_request(self.scheduler.model_state, asked, 0.0)
        return decision.tier, decision.chosen


def shown(actions: tuple[Action, ...]) -> list[str]:
    texts = []
    for action in actions:
        match action:
            case Start():
                texts.append(f"{action.request_id} to {action.placement}")
            case Refuse():
                texts.append(f"{action.request_id} {action.reason}")
            case Evict():
                texts.append(f"evict {action.request_id}")
    return texts


def test_a_quote_names_the_way_that_the_request_would_take() -> None:
    one = Model(own("a", slots=1), replace(FAR, max_running=1))
    assert one.quote() == (Tier.LOCAL, "a")
    assert one.submit("r1") == ["r1 to a"]
    assert one.quote() == (Tier.WAIT, None)
    one.scheduler.set_limits(queue=QueueLimits(requests=0, size_bytes=0), attempts=1)
    assert one.quote(unsupported_by=frozenset({"a"})) == (Tier.REMOTE, "far")
    assert one.quote() == (Tier.REMOTE, "far"), "there is no room to wait"
    assert list(one.tracked) == ["r1"], "a quote is no request"
    assert one.submit("r2") == ["r2 to far"]
    assert one.quote() == (Tier.REFUSE, None)
    assert one.submit("r3") == ["r3 queue_full"]


def test_a_quote_counts_on_the_seat_of_a_request_that_ranks_below() -> None:
    one = Model(own("a", slots=1), FAR)
    one.scheduler.set_limits(queue=QueueLimits(requests=1, size_bytes=1000), attempts=1)
    one.submit("runs")
    assert one.submit("below", slo_class=SloClass.BATCH) == []
    assert one.quote() == (Tier.WAIT, None)
    assert one.submit("above") == ["below to far"]


def test_a_quote_refuses_what_no_server_can_take_as_the_decision_does() -> None:
    one = Model(own("a", context_tokens=100))
    long: dict[str, Any] = {"prompt_tokens": 5000, "prompt_tokens_exact": True}
    assert one.quote(**long) == (Tier.REFUSE, None)
    assert one.submit("long", **long) == ["long too_long"]


@pytest.mark.parametrize(
    ("prompt_tokens", "why"),
    [(5000, OverflowReason.NOT_SERVED_HERE), (50, OverflowReason.SATURATED)],
)
def test_overflow_tells_a_full_server_from_one_that_cannot_run_the_request(
    prompt_tokens: int, why: OverflowReason
) -> None:
    one = Model(own("a", slots=1, context_tokens=100), FAR)
    one.submit("runs", remote_classes=frozenset(), prompt_tokens=10)
    one.scheduler.set_limits(queue=QueueLimits(requests=0, size_bytes=1000), attempts=1)
    made = request("r", prompt_tokens=prompt_tokens, prompt_tokens_exact=True, remote_classes=EU)
    tracked = one.tracked["r"] = TrackedRequest(made)
    one.state.set_expectations(tracked)
    [start] = one.scheduler.decide(tracked, 0.0)
    assert isinstance(start, Start)
    assert (start.placement, start.overflow) == ("far", why)


def test_one_that_waits_turns_to_a_remote_as_late_as_that_is_in_time() -> None:
    one = Model(own("a", slots=1), FAR)
    one.submit("runs", remote_classes=frozenset())
    assert one.submit("waits") == []
    [(at_s, actions)] = one.ticks(60.0)
    assert 1.8 < at_s < 1.9
    assert actions == ["waits to far"]


def test_a_full_remote_is_tried_again_and_again_until_the_first_token_is_late() -> None:
    one = Model(own("a", slots=1), replace(FAR, max_running=1))
    one.submit("runs", remote_classes=frozenset())
    one.submit("hog", unsupported_by=frozenset({"a"}))
    one.state.remotes.states[0].ttft_s = 1.0
    assert one.submit("waits", ttft_s=3.0) == []
    tries: list[float] = []
    now: float | None = 0.0
    while now is not None and now < 5.0:
        tries.append(now)
        now = one.scheduler.tick(now).next_wake_s
    spills = [at_s for at_s in tries if 1.7 < at_s < 2.4]
    gaps = {round(b - a, 3) for a, b in pairwise(spills)}
    assert gaps == {SPILL_AGAIN_S}


def test_one_that_has_waited_as_long_as_it_may_takes_any_remote_or_is_refused() -> None:
    one = Model(own("a", slots=1), FAR)
    one.submit("runs", remote_classes=frozenset())
    one.state.remotes.states[0].ttft_s = 100.0
    one.submit("may", max_queue_s=4.0)
    one.submit("may-not", max_queue_s=5.0, remote_classes=frozenset())
    one.submit("dies", deadline_s=6.0, remote_classes=frozenset())
    done = {text: at_s for at_s, texts in one.ticks(60.0) for text in texts}
    assert done["may to far"] == 4.0
    assert done["may-not queue_timeout"] == 5.0
    assert done["dies deadline"] == pytest.approx(6.0, abs=0.02)


def test_a_batch_request_is_taken_back_for_one_above_and_no_more_often_than_allowed() -> None:
    one = Model(own("a", slots=1))
    assert one.submit("batch", slo_class=SloClass.BATCH) == ["batch to a"]
    for i in range(MOST_EVICTIONS):
        assert one.submit(f"r{i}") == ["evict batch"]
        assert one.submit(f"more{i}") == [], "one at a time"
        assert one.end("batch", AttemptOutcome.EVICTED) == [f"r{i} to a"]
        assert one.end(f"r{i}", AttemptOutcome.OK) == [f"more{i} to a"]
        assert one.end(f"more{i}", AttemptOutcome.OK) == ["batch to a"]
    assert one.submit("last") == [], "it has been taken back often enough"


def test_an_evicted_request_loses_no_attempt() -> None:
    one = Model(own("a", slots=1), own("b", slots=1), attempts=1)
    one.submit("batch", slo_class=SloClass.BATCH)
    one.submit("r0")
    assert one.submit("r1") == ["evict batch"]
    assert one.end("batch", AttemptOutcome.EVICTED) == ["r1 to a"]
    assert one.end("r0", AttemptOutcome.OK) == ["batch to b"]
    assert one.end("batch", AttemptOutcome.RETRYABLE) == ["batch attempts_exhausted"]


def test_a_full_queue_refuses_with_a_hint_or_sheds_the_lowest() -> None:
    one = Model(own("a", slots=1))
    one.submit("runs")
    for i in range(9):
        one.submit(f"w{i}", slo_class=SloClass.STANDARD)
    assert one.submit("low", slo_class=SloClass.BATCH) == ["low queue_full"]
    assert one.submit("high") == ["w8 shed"]
    assert "w8" not in one.tracked
    record = one.state.decisions.get("w8")
    assert record is not None
    assert record.tier is Tier.REFUSE


def test_the_reason_of_a_refusal_is_that_of_the_placements() -> None:
    one = Model(own("a"))
    one.state.fleet.states[0].serving = False
    one.state.fleet.sync(0, 0.0)
    assert one.submit("r") == [f"r {RefusalReason.UNAVAILABLE}"]


def test_batch_work_fills_up_to_the_pace_that_higher_classes_need() -> None:
    """Alone it fills the engine; beside a higher class it stops where the step gets too long."""
    tight_s = 0.012

    def started(*, beside_urgent: bool) -> int:
        one = Model(own("a", 200))
        if beside_urgent:
            assert one.submit("urgent", tpot_s=tight_s) == ["urgent to a"]
        count = 0
        for number in range(200):
            name = f"b{number}"
            fields = {"slo_class": SloClass.BATCH, "tpot_s": 1.0, "ttft_s": 60.0}
            if one.submit(name, float(number), **fields) != [f"{name} to a"]:
                break
            one.state.fleet.progress(0, name, 1, number + 0.5)
            count += 1
        if beside_urgent:
            most_s = one.state.policy.batch_pace_share * tight_s
            assert one.state.fleet.step_s[0] <= most_s < one.state.fleet.next_step_s[0] * 1.2
        return count

    alone, beside = started(beside_urgent=False), started(beside_urgent=True)
    assert 0 < beside < alone / 10, (alone, beside)
