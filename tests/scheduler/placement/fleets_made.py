"""Random self-hosted fleets with requests that run, and placement queries for them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from hypothesis import strategies as st

from scheduler.contract import Objective, PlacementKind, ServingChanged
from scheduler.placement.quotes import Block, PlacementQuery
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.placement_state import Placement, PlacementState
from scheduler.policy import Policy
from scheduler.resident import Resident
from scheduler.step_time.kv_transfer import KvTransferTime
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.requests_made import request

NOW = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A fleet and a query for it, at `NOW`."""

    fleet: SelfHostedFleet
    query: PlacementQuery
    policy: Policy


@st.composite
def made(draw: st.DrawFn) -> Made:
    """Up to four groups of one to three ranks, busy or idle, and one query."""
    objective = draw(st.sampled_from(Objective))
    priced = draw(st.booleans())
    states: list[PlacementState] = []
    for number in range(draw(st.integers(1, 4))):
        pace = draw(st.floats(0.5, 2.0))
        model = QWEN3_30B_H100.scaled(base=pace, experts=pace, prefill=draw(st.floats(0.5, 2.0)))
        ranks = draw(st.integers(1, 3))
        model = replace(model, ranks=ranks, tokens_per_step=draw(st.sampled_from((1.0, 1.0, 1.8))))
        share = draw(st.sampled_from((None, None, 0.25))) if ranks == 1 else None
        if share is not None:
            transfer = KvTransferTime(draw(st.floats(0.0, 0.1)), draw(st.floats(0.0, 1e-4)))
            model = replace(model, transfer=transfer)
        states += [
            PlacementState(
                Placement(
                    name=f"p/{number}/{rank}", kind=PlacementKind.SELF_HOSTED, model="moe",
                    pool="p", group=f"p/{number}", max_running=draw(st.sampled_from((4, 16))),
                    kv_capacity_tokens=draw(st.none() | st.integers(5_000, 90_000)),
                    step_model=model, objective=objective,
                    nano_usd_per_s=draw(st.integers(1, 10**6)) if priced else None,
                    prefill_price_share=share,
                )
            )
            for rank in range(ranks)
        ]  # fmt: skip
    policy = Policy()
    fleet = SelfHostedFleet(states, policy)
    for index, state in enumerate(states):
        if draw(st.integers(0, 9)):
            event = ServingChanged(placement=state.facts.name, serving=True, reason="")
            fleet.set_serving(index, event, 0.0)
        for number in range(draw(st.integers(0, 4))):
            _run_one(draw, fleet, index, f"r{index}-{number}")
    for _ in range(draw(st.sampled_from((0, 30)))):
        fleet.lengths.learn("", 200)
    for index in range(len(states)):
        fleet.sync(index, NOW)
        fleet.refresh_curve(index, NOW)
        fleet.kv_plans.refresh(index, NOW)
    return Made(fleet=fleet, query=draw(_queries(fleet)), policy=policy)


def _run_one(draw: st.DrawFn, fleet: SelfHostedFleet, index: int, name: str) -> None:
    started_s = NOW - draw(st.floats(0.0, 2.0))
    prompt_tokens = draw(st.integers(1, 6000))
    output = draw(st.just(0) | st.integers(1, 300))  # half of the prompts are still pending
    resident = Resident(
        request=request(
            name, arrival_s=started_s, prompt_tokens=prompt_tokens, max_output_tokens=400,
            tpot_s=draw(st.sampled_from((0.004, 0.02, 0.05))),
        ),
        started_s=started_s, promised_ttft_s=2.0, kv_reserved_tokens=prompt_tokens + 100,
        prefill_s=draw(st.sampled_from((0.02, 0.5, 4.0))) * draw(st.floats(0.5, 1.0)),
        hit_tokens=0,
        kv_spread_tokens=draw(st.floats(0.0, 300.0)),
    )  # fmt: skip
    fleet.add(index, resident, started_s)
    if output:
        fleet.progress(index, name, 1, started_s + draw(st.floats(0.0, 0.5)))
        fleet.progress(index, name, output, NOW)


@st.composite
def _queries(draw: st.DrawFn, fleet: SelfHostedFleet) -> PlacementQuery:
    # One in four finds fault only with what is before it, not with the time that it takes.
    patient = draw(st.sampled_from((True, False, False, False)))
    prompt_tokens, count = draw(st.integers(1, 1_000 if patient else 30_000)), len(fleet)
    hits = fleet.no_hits
    if draw(st.booleans()):
        hits = np.array([draw(st.integers(0, prompt_tokens)) for _ in range(count)], np.float64)
    blocks = [Block.FREE, Block.FREE, Block.NOT_SERVING, Block.TRIED, Block.PAUSED]
    excluded = np.array([draw(st.sampled_from(blocks)) for _ in range(count)], dtype=np.int8)
    choices = draw(st.sampled_from((1, 1, 3)))
    activation_s = None
    if draw(st.booleans()):
        activation_s = np.array([draw(st.sampled_from((0.0, 0.02))) for _ in range(count)])
    return PlacementQuery(
        request=request(
            "asked", arrival_s=NOW - draw(st.floats(0.0, 3.0)), prompt_tokens=prompt_tokens,
            choices=choices, tpot_s=9.0 if patient else draw(st.sampled_from((0.004, 0.02, 0.05))),
        ),
        ttft_s=30.0 if patient else draw(st.sampled_from((0.5, 2.0, 5.0, 30.0))),
        excluded=excluded if excluded.any() else None,
        hit_tokens=hits,
        output_tokens=draw(st.floats(1.0, 1000.0)),
        reserve_tokens=prompt_tokens + draw(st.integers(1, 1000)),
        spread_tokens=draw(st.floats(0.0, 20_000.0)),
        late=draw(st.booleans()),
        activation_s=activation_s,
    )  # fmt: skip


def idle_fleet(
    count: int, objective: Objective, *, group: str = "", release_delay_s: float = 30.0
) -> tuple[SelfHostedFleet, Policy]:
    """Equal placements in service on which nothing runs."""
    states = [
        PlacementState(
            Placement(
                name=f"p/{number}", kind=PlacementKind.SELF_HOSTED, model="moe",
                pool="p", group=group, max_running=16, kv_capacity_tokens=600_000,
                step_model=QWEN3_30B_H100,
                objective=objective, release_delay_s=release_delay_s,
            )
        )
        for number in range(count)
    ]  # fmt: skip
    policy = Policy()
    fleet = SelfHostedFleet(states, policy)
    for index, state in enumerate(states):
        event = ServingChanged(placement=state.facts.name, serving=True, reason="")
        fleet.set_serving(index, event, 0.0)
    return fleet, policy


def query(fleet: SelfHostedFleet, prompt_tokens: int = 1000) -> PlacementQuery:
    """A query that has just arrived, with nothing cached or excluded."""
    return PlacementQuery(
        request=request("asked", arrival_s=NOW, prompt_tokens=prompt_tokens),
        ttft_s=2.0, excluded=None, hit_tokens=fleet.no_hits, output_tokens=200.0,
        reserve_tokens=prompt_tokens + 200, spread_tokens=100.0, late=False,
    )  # fmt: skip
