"""The planner: steady states, capacity, costs, and the newsvendor's choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.step_time.step_model import QWEN3_30B_H100
from simulation.engine.engine import Engine
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import Physics
from simulation.engine.sequences import LengthRequest
from simulation.planner.capacity import Bound, Replica, Slo, capacity
from simulation.planner.demand import cached_tokens, demand_of, drawn_demand
from simulation.planner.economics import (
    RemotePrice,
    break_even,
    cheapest,
    owned,
    token_costs,
    usd_per_million,
)
from simulation.planner.operating import Lengths, Operating, at_batch, at_rate
from simulation.planner.plan import CannotPlan, make_plan
from simulation.traces import TraceRow

CHAT = Lengths(prompt_tokens=1155.0, cached_tokens=0.0, output_tokens=211.0)
REPLICA = Replica(
    model=QWEN3_30B_H100, kv_capacity_tokens=98_304, most_sequences=256, usd_per_hour=2.10
)
SLO = Slo(ttft_s=2.0, tpot_s=0.05)
REMOTE = RemotePrice(name="remote", input=0.1, cached_input=0.05, output=0.3)


@given(st.floats(0.001, 0.999))
def test_a_state_keeps_its_own_equations(share: float) -> None:
    full = at_batch(QWEN3_30B_H100, CHAT, 64)
    state = at_rate(QWEN3_30B_H100, CHAT, share * full.requests_per_s, 64)
    assert state is not None
    # Little's law, and a gap that is stretched by the prefills.
    assert state.batch == pytest.approx(state.requests_per_s * 211.0 * state.tpot_s, rel=1e-6)
    assert state.tpot_s * (1 - state.prefill_share) == pytest.approx(state.step_s, rel=1e-6)
    assert state.prefill_share <= state.busy_share <= 1.0 + 1e-9


def test_a_rate_that_no_batch_keeps_up_with_has_no_state() -> None:
    full = at_batch(QWEN3_30B_H100, CHAT, 64)
    assert at_rate(QWEN3_30B_H100, CHAT, 1.01 * full.requests_per_s, 64) is None


def test_latency_grows_with_the_rate_and_cost_falls() -> None:
    plan = make_plan(drawn_demand(CHAT, 10.0, 0.5, 1), REPLICA, SLO, [REMOTE])
    states = [row.state for row in plan.loads]
    assert [state.tpot_s for state in states] == sorted(state.tpot_s for state in states)
    assert [state.ttft_s for state in states] == sorted(state.ttft_s for state in states)
    bills = [row.costs.all_output for row in plan.loads if row.costs is not None]
    assert bills == sorted(bills, reverse=True)
    assert plan.floor is not None
    assert plan.floor.all_output <= bills[-1]


@given(st.floats(0.01, 1.0), st.floats(0.0, 0.9))
def test_the_parts_are_the_bill(load: float, cached: float) -> None:
    lengths = replace(CHAT, cached_tokens=cached * CHAT.prompt_tokens)
    full = at_batch(QWEN3_30B_H100, lengths, 60)
    state = at_rate(QWEN3_30B_H100, lengths, load * full.requests_per_s, 60)
    assert state is not None
    costs = token_costs(state, lengths, 2.10)
    hourly = 3600 * state.requests_per_s / 1e6
    uncached = lengths.prompt_tokens - lengths.cached_tokens
    paid = hourly * (uncached * costs.uncached_input + lengths.output_tokens * costs.output)
    assert paid + costs.idle == pytest.approx(2.10)
    assert hourly * lengths.output_tokens * costs.all_output == pytest.approx(2.10)


def test_what_bounds_a_replica() -> None:
    assert capacity(REPLICA, CHAT, SLO).bound is Bound.KV
    assert capacity(replace(REPLICA, most_sequences=8), CHAT, SLO).bound is Bound.SEQUENCES
    fast = capacity(REPLICA, CHAT, Slo(ttft_s=2.0, tpot_s=0.02))
    assert fast.bound is Bound.TPOT
    assert fast.state is not None
    assert fast.state.tpot_s == pytest.approx(0.02, rel=1e-6)
    early = capacity(REPLICA, CHAT, Slo(ttft_s=0.065, tpot_s=1.0))
    assert early.bound is Bound.TTFT
    assert early.state is not None
    assert early.state.ttft_s == pytest.approx(0.065, rel=1e-6)
    assert capacity(replace(REPLICA, kv_capacity_tokens=1000), CHAT, SLO).state is None


def test_long_prompts_alone_are_no_broken_promise() -> None:
    """One request at a time never stalls itself: only its time to the first token is long."""
    document = Lengths(prompt_tokens=60_000.0, cached_tokens=0.0, output_tokens=50.0)
    found = capacity(REPLICA, document, Slo(ttft_s=10.0, tpot_s=0.02))
    assert found.state is not None
    assert found.state.batch < 1


def test_questions_without_an_answer_say_why() -> None:
    demand = drawn_demand(CHAT, 1.0, 0.0, 0)
    with pytest.raises(CannotPlan, match=r"does not fit .* more GPUs per replica"):
        make_plan(demand, replace(REPLICA, kv_capacity_tokens=1000), SLO, [])
    with pytest.raises(CannotPlan, match=r"first token after .* weaker service levels"):
        make_plan(demand, REPLICA, Slo(ttft_s=0.001, tpot_s=0.05), [])


def test_unknown_prices_are_no_zero() -> None:
    demand = drawn_demand(CHAT, 10.0, 0.5, 1)
    plan = make_plan(demand, replace(REPLICA, usd_per_hour=None), SLO, [REMOTE])
    assert plan.floor is None
    assert {row.costs for row in plan.loads} == {None}
    assert not plan.break_evens
    assert not plan.hybrids


def test_break_even_by_hand() -> None:
    # 1,155 x 0.1 + 211 x 0.3 = 178.8 millionths of a dollar; $2.10 an hour over 7 a second.
    found = break_even(REMOTE, CHAT, 2.10, 7.0)
    assert found.remote_usd == pytest.approx(178.8e-6)
    assert found.own_usd == pytest.approx(83.33e-6, rel=1e-4)
    assert found.utilisation == pytest.approx(0.466, abs=5e-4)
    assert found.requests_per_s == pytest.approx(3.262, abs=1e-3)
    half_cached = replace(CHAT, cached_tokens=1000.0)
    assert REMOTE.request_usd(half_cached) == pytest.approx((15.5 + 50.0 + 63.3) * 1e-6)


@pytest.mark.parametrize("ratio", [1.5, 2.0, 3.0, 6.0, 10.0])
def test_the_best_capacity_is_exceeded_in_a_share_r_over_p(ratio: float) -> None:
    """Newsvendor: with small replicas, P(D > C) at the optimum is r / p."""
    rates = drawn_demand(CHAT, 100.0, 0.8, 3).rates
    own_usd = 1.0 / 3600.0  # of a replica that takes one request a second, for $1 an hour
    choices = [owned(count, rates, 1.0, 1.0, ratio * own_usd) for count in range(700)]
    best = cheapest(choices)
    assert best.exceeded_share == pytest.approx(1.0 / ratio, abs=0.01)
    assert best.usd_per_hour <= min(choices[0].usd_per_hour, choices[-1].usd_per_hour)
    assert best.own_usd_per_hour == best.replicas
    served = best.utilisation * best.replicas
    assert served == pytest.approx((1.0 - best.overflow_share) * rates.mean())


def test_a_remote_that_is_cheaper_than_a_full_replica_takes_everything() -> None:
    cheap = RemotePrice(name="cheap", input=0.001, cached_input=0.001, output=0.001)
    plan = make_plan(drawn_demand(CHAT, 40.0, 0.5, 1), REPLICA, SLO, [cheap])
    assert plan.hybrids[0].best.replicas == 0
    assert plan.break_evens[0].utilisation > 1


def test_drawn_demand_has_its_mean_and_variation() -> None:
    demand = drawn_demand(CHAT, 40.0, 0.6, 0)
    assert demand.mean_rate == pytest.approx(40.0)
    assert demand.rates.std() / demand.mean_rate == pytest.approx(0.6, rel=0.1)
    assert np.array_equal(demand.rates, drawn_demand(CHAT, 40.0, 0.6, 0).rates)
    assert drawn_demand(CHAT, 40.0, 0.0, 0).peak_to_mean == 1.0


def test_demand_of_a_trace() -> None:
    rows = [
        TraceRow(at_s=float(at), prompt_tokens=1024, output_tokens=10, content=content)
        for at, content in ((0, (1, 2)), (30, (1, 3)), (70, (4,)), (125, (1, 2, 3)))
    ]
    assert cached_tokens(rows) == [0, 512, 0, 1023]
    demand = demand_of(rows)
    assert demand.rates.tolist() == [2 / 60, 1 / 60]
    assert demand.lengths.cached_tokens == pytest.approx(1535 / 4)
    assert demand.at_mean_rate(3.0).mean_rate == pytest.approx(3.0)
    with pytest.raises(ValueError, match="two windows"):
        demand_of(rows[:2])


def test_a_closed_loop_on_the_simulated_engine_settles_where_the_planner_says() -> None:
    """The engine that steps token by token, and the mean-value equations, within 5 %."""
    state = at_batch(QWEN3_30B_H100, CHAT, 32)
    measured = closed_loop_rate(clients=32, requests=400)
    assert measured == pytest.approx(state.requests_per_s, rel=0.05)


def closed_loop_rate(clients: int, requests: int) -> float:
    """Requests per second of an engine on which `clients` always have one, past the start."""
    engine = Engine(EngineConfig(noise_sigma=0.0), Physics(QWEN3_30B_H100), 0)
    now, started, ended, settled_s = 0.0, 0, 0, 0.0
    while ended < requests:
        while started - ended < clients:
            # Ages differ from the start, as they do later: none ends together with all others.
            first = int(CHAT.output_tokens * (started + 1) / clients)
            engine.add(
                LengthRequest(
                    request_id=str(started),
                    prompt_tokens=int(CHAT.prompt_tokens),
                    tokens=min(int(CHAT.output_tokens), first),
                ),
                now,
            )
            started += 1
        result = engine.step(now)
        now += result.duration_s
        ended += sum(output.finish_reason is not None for output in result.outputs)
        if ended <= clients:
            settled_s, before = now, ended
    return (ended - before) / (now - settled_s)


def test_the_general_law() -> None:
    assert usd_per_million(16.0, 73_700) == pytest.approx(0.0603, abs=1e-4)


def test_the_mean_wait_of_a_prefill_is_that_of_constant_service() -> None:
    state = Operating(
        requests_per_s=1.0,
        batch=1.0,
        step_s=0.0,
        tpot_s=0.0,
        prefill_s=0.5,
        prefill_share=0.5,
        busy_share=1.0,
    )
    assert state.ttft_s == pytest.approx(0.25 + 0.5)
