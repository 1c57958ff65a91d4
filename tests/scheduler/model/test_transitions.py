"""The start and the end of an attempt: what is counted, charged and learnt."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from scheduler.contract import AttemptEnded, AttemptOutcome, Fault, PlacementKind, SloClass
from scheduler.decisions import Tier
from scheduler.model.model_state import ModelState
from scheduler.model.transitions import (
    choose_remote,
    learn_from_end,
    remove_attempt,
    start_remote,
    start_self_hosted,
)
from scheduler.step_time.prefill_periods import PrefillPeriod
from scheduler.tracked_request import TrackedRequest
from tests.scheduler.model.test_model_state import FAR, model, own, tracked

EU = frozenset({"eu"})


def started(state: ModelState, name: str = "r", **fields: Any) -> TrackedRequest:
    one = tracked(state, name, **fields)
    query = state.query(one, 0.0)
    result = state.try_place(query, 0.0)
    assert result.chosen is not None
    action = start_self_hosted(state, one, result.chosen, query, result.quote, 0.0)
    assert (action.request_id, action.attempt) == (name, 1)
    return one


FAULTS_OF_PLACEMENTS = (Fault.PLACEMENT, Fault.ABSENT, Fault.BUSY, Fault.ACCOUNT)


def end(outcome: AttemptOutcome, fault: Fault = Fault.NONE, **fields: Any) -> AttemptEnded:
    return AttemptEnded(request_id="r", attempt=1, outcome=outcome, fault=fault, **fields)


def test_a_start_counts_the_request_in_and_leaves_a_record() -> None:
    state = model(own("a", nano_usd_per_s=1000))
    one = started(state, prefix_blocks=(1, 2))
    [placement] = state.fleet.states
    assert one.placement is placement
    assert one.attempts == 1
    assert list(placement.residents) == ["r"]
    assert state.prefixes.hit_blocks([1, 2, 3]).tolist() == [2.0]
    record = state.decisions.get("r")
    assert record is not None
    assert (record.tier, record.chosen) == (Tier.LOCAL, "a")
    assert state.queue.counters.served("team") > 0.0


def test_the_tenant_pays_in_the_end_for_what_it_got() -> None:
    state = model(own("a", nano_usd_per_s=1000))
    one = started(state, max_output_tokens=100)
    expected = state.queue.counters.served("team")
    state.fleet.progress(0, "r", 1, 0.1)
    placement, resident = remove_attempt(state, one, 1.0)
    assert one.placement is None
    assert not placement.residents
    got = 1000 * (resident.prefill_s + state.fleet.full_token_s)
    assert state.queue.counters.served("team") == pytest.approx(got)
    assert got < expected


@pytest.mark.parametrize(("cached_tokens", "weight"), [(None, 0.1), (16, 1.0)])
def test_the_end_of_an_answer_ends_what_awaits_its_cached_tokens(
    cached_tokens: int | None, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = model(own("a"))
    before = started(state, "before", prefix_blocks=(1, 2))
    state.fleet.progress(0, "before", 1, 0.1)
    remove_attempt(state, before, 0.2)
    periods: list[PrefillPeriod] = []
    [group] = state.fleet.groups
    monkeypatch.setattr(type(group.fit), "observe_period", lambda _, each: periods.append(each))
    one = started(state, prefix_blocks=(1, 2))
    state.fleet.progress(0, "r", 1, 0.3)
    assert not periods, "what was cached of its prompt is not known"
    done = end(AttemptOutcome.OK, cached_tokens=cached_tokens) if cached_tokens else None
    remove_attempt(state, one, 0.4, done)
    assert [period.weight for period in periods] == [weight]


def test_batch_requests_that_run_are_known_until_they_end() -> None:
    state = model(own("a"))
    one = started(state, slo_class=SloClass.BATCH)
    assert state.batch == {"r": 0}
    remove_attempt(state, one, 1.0)
    assert state.batch == {}


def test_a_remote_is_charged_nothing_in_terms_of_fairness() -> None:
    state = model(own("a"), FAR)
    one = tracked(state, remote_classes=EU)
    chosen, _, quotes = choose_remote(state, one, 0.0, any_ttft=False)
    assert chosen is not None
    assert [made.placement for made in quotes] == ["far"]
    assert not state.remotes.states[0].residents, "choosing starts nothing"
    action = start_remote(state, one, None, 0.0, any_ttft=False)
    assert action is not None
    assert action.kind is PlacementKind.REMOTE
    assert action.reason.startswith("own servers saturated; ")
    remove_attempt(state, one, 1.0)
    assert state.queue.counters.served("team") == 0.0


def test_a_remote_that_is_late_is_taken_only_where_any_will_do() -> None:
    state = model(FAR)
    state.remotes.states[0].ttft_s = 9.0
    one = tracked(state, remote_classes=EU)
    assert start_remote(state, one, None, 0.0, any_ttft=False) is None
    action = start_remote(state, one, None, 0.0, any_ttft=True)
    assert action is not None
    assert action.reason.startswith("no own server can serve it; ")


@pytest.mark.parametrize(
    ("outcome", "fault", "error_share"),
    [
        (AttemptOutcome.OK, Fault.NONE, 0.0),
        *((AttemptOutcome.FAILED, fault, 0.1) for fault in FAULTS_OF_PLACEMENTS),
        *((AttemptOutcome.RETRYABLE, fault, 0.1) for fault in FAULTS_OF_PLACEMENTS),
        (AttemptOutcome.FAILED, Fault.NONE, 0.0),
        (AttemptOutcome.FAILED, Fault.REJECTED, 0.0),
        (AttemptOutcome.RETRYABLE, Fault.REQUEST, 0.0),
        (AttemptOutcome.RETRYABLE, Fault.REJECTED, 0.0),
        (AttemptOutcome.CANCELLED, Fault.NONE, 0.0),
        (AttemptOutcome.SUPERSEDED, Fault.NONE, 0.0),
        (AttemptOutcome.EVICTED, Fault.NONE, 0.0),
    ],
)
def test_only_ends_that_say_something_of_a_placement_count(
    outcome: AttemptOutcome, fault: Fault, error_share: float
) -> None:
    state = model(own("a"))
    placement, resident = remove_attempt(state, started(state), 1.0)
    learn_from_end(state, placement, resident, end(outcome, fault, output_tokens=50))
    assert placement.error_share == pytest.approx(error_share)
    longer = state.fleet.lengths.mean("", 4096) != pytest.approx(
        model(own("a")).fleet.lengths.mean("", 4096)
    )
    assert longer is (outcome is AttemptOutcome.OK), "only a whole answer tells a length"


def test_a_prefix_that_is_there_or_is_not_teaches_nothing_false_of_prompts() -> None:
    # Every second prefix was dropped, so half of each is expected, and no prompt has half of it.
    state = model(own("a"))
    fleet, fit = state.fleet, state.fleet.groups[0].fit
    prompt, prefix, prior = 40_000, 39_000, state.fleet.groups[0].model
    for number in range(40):
        now, found = 100.0 * number, prefix * (number % 2)
        one = tracked(state, prompt_tokens=prompt, prefix_blocks=())
        query = state.query(one, now)
        query = msgspec.structs.replace(query, hit_tokens=np.array([prefix / 2.0]))
        quote = state.figures(query, now)
        start_self_hosted(state, one, 0, query, quote, now)
        took_s = prior.decode_step_s(1, prompt) * -(-(prompt - found) // prior.chunk_tokens)
        took_s += prior.prefill_time_s(prompt - found, prompt, 1)
        fleet.progress(0, "r", 1, now + took_s)
        ended = end(AttemptOutcome.OK, cached_tokens=found)
        placement, resident = remove_attempt(state, one, now + took_s + 1.0, ended)
        learn_from_end(state, placement, resident, ended)
    assert fit.state.factors[4:] == pytest.approx((1.0, 1.0), abs=0.15)


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_prompts_of_an_estimated_size_that_are_mostly_cached_teach_what_they_took(
    share: float,
) -> None:
    state = model(own("a"))
    fleet, fit = state.fleet, state.fleet.groups[0].fit
    estimate, prior = 40_000, state.fleet.groups[0].model
    prompt, cached = round(share * estimate), round(0.9 * share * estimate)
    for number in range(40):
        now = 100.0 * number
        one = tracked(state, prompt_tokens=estimate, prefix_blocks=())
        query = msgspec.structs.replace(
            state.query(one, now), hit_tokens=np.array([0.9 * estimate])
        )
        start_self_hosted(state, one, 0, query, state.figures(query, now), now)
        took_s = prior.decode_step_s(1, prompt) + prior.prefill_time_s(prompt - cached, prompt, 1)
        fleet.progress(0, "r", 1, now + took_s)
        ended = end(AttemptOutcome.OK, prompt_tokens=prompt, cached_tokens=cached)
        remove_attempt(state, one, now + took_s + 1.0, ended)
    assert fit.state.factors[4:] == pytest.approx((1.0, 1.0), abs=0.15)


def test_a_fault_puts_the_placement_under_suspicion() -> None:
    state = model(own("a"), own("b"))
    placement, resident = remove_attempt(state, started(state), 1.0)
    learn_from_end(state, placement, resident, end(AttemptOutcome.RETRYABLE, Fault.BUSY))
    assert state.suspect == {state.fleet.index_of(placement)}
