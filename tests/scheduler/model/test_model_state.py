"""What one model promises a request: expectations, queries, tries and previews."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scheduler.contract import AttemptEnded, AttemptOutcome, Fault, PlacementKind, ServingChanged
from scheduler.decisions import Decisions
from scheduler.model.model_state import PATIENCE, PREFILL_STEP_TOKENS, ModelState
from scheduler.model.transitions import learn_from_end, remove_attempt, start_self_hosted
from scheduler.placement.quotes import Block
from scheduler.placement_admission import PlacementAdmission
from scheduler.placement_state import Placement, PlacementState
from scheduler.policy import Policy
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100
from scheduler.tracked_request import TrackedRequest
from tests.scheduler.requests_made import request


def own(name: str, slots: int = 2, **fields: Any) -> Placement:
    return Placement(
        name=name, kind=PlacementKind.SELF_HOSTED, model="moe", max_running=slots, pool="own",
        step_model=QWEN3_30B_H100, **fields,
    )  # fmt: skip


FAR = Placement(
    name="far", kind=PlacementKind.REMOTE, model="moe", max_running=2, remote_class="eu"
)


def model(*placements: Placement) -> ModelState:
    admission = PlacementAdmission(placements)
    limits = QueueLimits(requests=9, size_bytes=999)
    states = [PlacementState(facts) for facts in placements]
    made = ModelState(states, admission, Policy(), limits, Decisions(len(states)))
    for facts in placements:
        made.set_serving(ServingChanged(placement=facts.name, serving=True, reason=""), 0.0)
    return made


def tracked(state: ModelState, name: str = "r", **fields: Any) -> TrackedRequest:
    made = TrackedRequest(request(name, **fields))
    state.set_expectations(made)
    return made


def start(state: ModelState, name: str, **fields: Any) -> int | None:
    one = tracked(state, name, **fields)
    query = state.query(one, 0.0)
    result = state.try_place(query, 0.0)
    if result.chosen is not None:
        start_self_hosted(state, one, result.chosen, query, result.quote, 0.0)
    return result.chosen


def test_no_first_token_is_promised_before_a_long_prompt_can_be_computed() -> None:
    state = model(own("a"))
    assert tracked(state, ttft_s=2.0).ttft_s == 2.0
    solo_s = QWEN3_30B_H100.prefill_time_s(200_000, 200_000)
    assert tracked(state, prompt_tokens=200_000).ttft_s == pytest.approx(PATIENCE * solo_s)


def test_a_request_reserves_what_each_of_its_choices_may_need() -> None:
    state = model(own("a"))
    one, three = tracked(state), tracked(state, choices=3)
    assert three.output_tokens == pytest.approx(3 * one.output_tokens)
    assert one.reserve_tokens == 100 + np.ceil(one.output_tokens)
    assert three.spread_tokens == pytest.approx(3**0.5 * one.spread_tokens)


def test_a_query_excludes_what_cannot_run_the_request() -> None:
    state = model(own("a"), own("b", context_tokens=100), own("c"), FAR)
    assert state.query(tracked(state), 0.0).excluded is None
    exact = state.query(tracked(state, prompt_tokens_exact=True), 0.0)
    assert exact.excluded is not None
    assert exact.excluded.tolist() == [Block.FREE, Block.CONTEXT, Block.FREE]
    assert exact.restricted
    not_there = state.query(tracked(state, unsupported_by=frozenset({"a", "far"})), 0.0)
    assert not_there.excluded is not None
    assert not_there.excluded.tolist() == [Block.NOT_PERMITTED, Block.FREE, Block.FREE]
    state.set_serving(ServingChanged(placement="c", serving=False, reason=""), 0.0)
    down = state.query(tracked(state), 0.0)
    assert down.excluded is not None
    assert down.excluded.tolist() == [Block.FREE, Block.FREE, Block.NOT_SERVING]
    assert not down.restricted, "others meet the same"


def test_a_paused_placement_is_excluded_until_its_pause_ends() -> None:
    state = model(own("a"))
    state.admission.record_start("a", request("x"), 0.0)
    end = AttemptEnded(
        request_id="x", attempt=1, outcome=AttemptOutcome.RETRYABLE, fault=Fault.BUSY,
        retry_after_s=9.0,
    )  # fmt: skip
    state.admission.record_end("a", "x", end, 0.0)
    state.suspect.add(0)
    paused = state.query(tracked(state), 1.0)
    assert (paused.possible, paused.possible_now) == (True, False)
    state.advance(10.0)
    assert not state.suspect
    assert state.query(tracked(state), 10.0).excluded is None


def test_ties_go_round_and_a_preview_takes_no_turn() -> None:
    state = model(own("a"), own("b"), own("c"))
    query = state.query(tracked(state), 0.0)
    turns = []
    for _ in range(4):
        previews = {state.preview_place(query, 0.0).chosen for _ in range(3)}
        turns.append(state.try_place(query, 0.0).chosen)
        assert previews == {turns[-1]}, "a preview is what the next try does"
    assert turns == [0, 1, 2, 0]


def test_a_try_in_vain_tells_whether_time_may_help() -> None:
    state = model(own("a", slots=1))
    assert start(state, "runs") == 0
    full = state.try_place(state.query(tracked(state), 0.0), 0.0)
    assert (full.chosen, full.interfering_prefill_s, full.time_may_help) == (None, None, False)
    state = model(own("a", slots=9))
    assert start(state, "talks", max_output_tokens=400) == 0
    state.fleet.progress(0, "talks", 1, 0.1)
    long = state.try_place(state.query(tracked(state, prompt_tokens=40_000), 0.1), 0.1)
    assert (long.chosen, long.time_may_help) == (None, True)
    whole_s = QWEN3_30B_H100.prefill_time_s(40_000, 40_000, batch=2)
    assert long.interfering_prefill_s == pytest.approx(whole_s, rel=1e-6)


def test_time_may_help_where_a_cache_has_room_for_the_prompt_but_not_at_its_peak() -> None:
    state = model(own("a", slots=9, kv_capacity_tokens=3000))
    for _ in range(300):
        state.fleet.lengths.learn("", 1000)
    assert start(state, "runs", prompt_tokens=1000, max_output_tokens=1000) == 0
    for prompt_tokens, may_help in ((500, True), (2500, False)):
        asked = tracked(state, prompt_tokens=prompt_tokens, max_output_tokens=1000)
        full = state.try_place(state.query(asked, 0.0), 0.0)
        assert full.quote.blocked.tolist() == [Block.KV]
        assert (full.chosen, full.time_may_help) == (None, may_help)


def test_a_preview_plans_no_cache_and_opens_no_row_of_lengths() -> None:
    state = model(own("a", slots=9, kv_capacity_tokens=3000))
    for _ in range(300):
        state.fleet.lengths.learn("", 1000)
    assert start(state, "runs", prompt_tokens=1000, max_output_tokens=1000) == 0
    asked = tracked(state, prompt_tokens=500, max_output_tokens=1000, key_id="new")
    state.preview_place(state.query(asked, 0.0), 0.0)
    assert state.fleet.kv_plans.made_at_s.tolist() == [-np.inf]
    assert state.fleet.lengths.row("opened now") == state.fleet.lengths.row("") + 1
    state.try_place(state.query(asked, 0.0), 0.0)
    assert state.fleet.kv_plans.made_at_s.tolist() == [0.0]


def test_late_requests_are_held_only_while_saturated_servers_are_busy() -> None:
    state = model(own("a"))
    assert not state.holds_late
    state.saturation.marked = True
    assert not state.holds_late, "nothing runs"
    start(state, "runs")
    assert state.holds_late


def test_a_request_that_only_remotes_can_take_has_no_prefill_here() -> None:
    state = model(own("a"), FAR)
    one = tracked(state, remote_classes=frozenset({"eu"}))
    queued = state.queued(one, None, 50.0, 0.0)
    assert (queued.prefill_s, queued.service_s) == (0.0, 0.0)
    assert queued.spill_s == pytest.approx(2.0), "a remote that was never used answers at once"
    assert queued.expires_s == 10.0
    assert state.queued(tracked(state), None, 5.0, 0.0).spill_s is None


def test_a_request_that_generates_nothing_expects_no_output_and_little_cache() -> None:
    state = model(own("a"))
    short = tracked(state, prompt_tokens=500, max_output_tokens=0)
    assert (short.output_tokens, short.reserve_tokens, short.spread_tokens) == (0.0, 500, 0.0)
    long = tracked(state, prompt_tokens=500_000, max_output_tokens=0, inputs=1000)
    assert long.reserve_tokens == PREFILL_STEP_TOKENS
    before = state.fleet.lengths.table.copy()
    query = state.query(short, 0.0)
    result = state.try_place(query, 0.0)
    assert result.chosen == 0
    start_self_hosted(state, short, 0, query, result.quote, 0.0)
    placement, resident = remove_attempt(state, short, 1.0)
    ended = AttemptEnded(request_id="r", attempt=1, outcome=AttemptOutcome.OK, output_tokens=0)
    learn_from_end(state, placement, resident, ended)
    assert np.array_equal(state.fleet.lengths.table, before), "its output is no answer's length"


def test_inputs_of_one_request_do_not_attend_to_each_other() -> None:
    state = model(own("a"))
    figures = [
        state.figures(
            state.query(tracked(state, prompt_tokens=100_000, inputs=inputs), 0.0), 0.0
        ).prefill_s.item(0)
        for inputs in (1, 100)
    ]
    prior = QWEN3_30B_H100
    whole = prior.prefill_time_s(100_000, 100_000, batch=1)
    assert figures[0] == pytest.approx(whole)
    tokens = 100 * (prior.prompt_work_s(1000, 1000) - prior.prefill_s) + prior.prefill_s
    assert figures[1] == pytest.approx(whole - prior.prompt_work_s(100_000, 100_000) + tokens)


def test_a_waiting_request_gets_no_quote_while_prompts_are_pending_everywhere() -> None:
    state = model(own("a", slots=9), own("b", slots=9))
    asked = state.query(tracked(state, "asked"), 0.0)
    first = state.retry_place(asked, 0.0)
    assert first is not None
    assert first.chosen == 0
    state.fleet.prefill_end_s[:] = 9.0
    assert state.retry_place(asked, 0.0) is None
    assert state.try_place(asked, 0.0).chosen is None
    state.fleet.prefill_end_s[1] = 0.0
    again = state.retry_place(asked, 0.0)
    assert again is not None
    assert again.chosen == 1
