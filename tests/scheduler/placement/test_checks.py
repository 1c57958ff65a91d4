"""The checks of a pool in their order: which reason is shown where several hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from msgspec import structs

from scheduler.contract import Objective, SloClass
from scheduler.placement.checks import await_prefills, largest, least
from scheduler.placement.placement import choose
from scheduler.placement.quotes import Block, Blocks
from scheduler.placement.quoting import quote_fleet
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.policy import Policy
from tests.scheduler.placement.fleets_made import NOW, Made, idle_fleet, made, query


def blocked(fleet: SelfHostedFleet, policy: Policy, ttft_s: float = 2.0) -> list[int]:
    quote = quote_fleet(fleet, structs.replace(query(fleet), ttft_s=ttft_s), policy, NOW)
    return [int(block) for block in quote.blocked]


def test_a_later_check_overrides_an_earlier_one() -> None:
    fleet, policy = idle_fleet(2, Objective.LATENCY)
    assert blocked(fleet, policy) == [Block.FREE, Block.FREE]
    assert blocked(fleet, policy, ttft_s=1e-6) == [Block.TTFT, Block.TTFT]
    fleet.kv_room_tokens[0] = fleet.kv_plans.limit_tokens[0] = 10.0
    assert blocked(fleet, policy, ttft_s=1e-6) == [Block.KV, Block.TTFT]
    fleet.slot_room[0] = 0.0
    assert blocked(fleet, policy, ttft_s=1e-6) == [Block.SLOTS, Block.TTFT]
    excluded: Blocks = np.array((Block.TRIED, Block.FREE), dtype=np.int8)
    quote = quote_fleet(fleet, structs.replace(query(fleet), excluded=excluded), policy, NOW)
    assert quote.blocked.tolist() == [Block.TRIED, Block.FREE]


def test_a_request_that_generates_nothing_waits_for_no_time_per_token() -> None:
    fleet, policy = idle_fleet(1, Objective.LATENCY)
    fleet.warm[0], fleet.batch[0] = True, 1.0
    asked = query(fleet)
    slow = structs.replace(asked.request, slo=structs.replace(asked.request.slo, tpot_s=1e-9))
    for most_tokens, block in ((100, Block.TPOT), (0, Block.FREE)):
        request = structs.replace(slow, max_output_tokens=most_tokens)
        quote = quote_fleet(fleet, structs.replace(asked, request=request), policy, NOW)
        assert quote.blocked.tolist() == [block]


def test_a_check_writes_nothing_that_the_next_quote_reads() -> None:
    fleet, policy = idle_fleet(2, Objective.LATENCY)
    fleet.slot_room[0] = 0.0
    assert blocked(fleet, policy) == [Block.SLOTS, Block.FREE]
    fleet.slot_room[0] = 4.0
    assert blocked(fleet, policy) == [Block.FREE, Block.FREE]
    assert not fleet.all_free.any()


def test_an_idle_group_is_held_only_for_the_first_part_of_the_wait() -> None:
    fleet, policy = idle_fleet(2, Objective.COST)
    fleet.warm[0], fleet.batch[0] = True, 1.0
    asked = query(fleet)
    fresh = quote_fleet(fleet, asked, policy, NOW).blocked.tolist()
    assert fresh == [Block.FREE, Block.HELD]
    later_s = NOW + policy.open_after_share * asked.ttft_s + 0.001
    assert quote_fleet(fleet, asked, policy, later_s).blocked.tolist() == [Block.FREE, Block.FREE]
    at_once = replace(policy, open_after_share=0.0)
    assert quote_fleet(fleet, asked, at_once, NOW).blocked.tolist() == [Block.FREE, Block.FREE]


def test_batch_work_opens_no_idle_group_before_its_deadline_is_near() -> None:
    fleet, policy = idle_fleet(2, Objective.COST)
    asked = query(fleet)
    slo = structs.replace(asked.request.slo, slo_class=SloClass.BATCH)

    def found(left_s: float, now: float = NOW) -> list[int]:
        batch = structs.replace(asked.request, slo=slo, deadline_s=now + left_s)
        quote = quote_fleet(fleet, structs.replace(asked, request=batch, late=True), policy, now)
        return [int(block) for block in quote.blocked]

    near_s = policy.batch_opens_s
    assert found(near_s + 1.0) == [Block.HELD, Block.HELD]
    assert found(near_s - 1.0) == [Block.FREE, Block.FREE]
    assert found(near_s + 1.0, NOW + 50.0) == [Block.HELD, Block.HELD]  # however long it waited
    fleet.warm[0], fleet.batch[0] = True, 1.0
    assert found(near_s + 1.0) == [Block.FREE, Block.HELD]


def test_without_late_binding_only_the_query_excludes() -> None:
    fleet, _ = idle_fleet(1, Objective.COST)
    policy = Policy(late_binding=False)
    fleet = SelfHostedFleet(fleet.states, policy)
    fleet.slot_room[0] = 0.0
    assert blocked(fleet, policy, ttft_s=1e-6) == [Block.FREE]


def test_extremes_of_no_placements() -> None:
    nothing = np.zeros(0)
    assert (largest(nothing), least(nothing)) == (-np.inf, np.inf)
    assert (largest(np.array((1.0, 3.0))), least(np.array((1.0, 3.0)))) == (3.0, 1.0)


@given(made())
def test_where_all_placements_await_prefills_a_quote_finds_none(case: Made) -> None:
    fleet, asked = case.fleet, case.query
    fleet.prefill_end_s[fleet.serving] += 1.0
    if not await_prefills(fleet, asked, case.policy, NOW):
        return
    plans_s, curves_s = fleet.kv_plans.made_at_s.copy(), fleet.curve_at_s.copy()
    index, quote = choose(fleet, asked, case.policy, NOW, 0)
    assert index is None
    # Of these time alone could free a placement, or they make the queue put other requests off.
    assert not np.isin(quote.blocked, (Block.HELD, Block.INTERFERENCE, Block.KV)).any()
    assert (fleet.kv_plans.made_at_s == plans_s).all()
    assert (fleet.curve_at_s == curves_s).all()


def test_all_placements_await_prefills_unless_one_may_take_the_request() -> None:
    fleet, policy = idle_fleet(2, Objective.LATENCY)
    asked = query(fleet)
    fleet.prefill_end_s[:] = NOW + 1.001 * policy.most_pending_chunks * fleet.chunk_s
    assert await_prefills(fleet, asked, policy, NOW)
    assert not await_prefills(fleet, structs.replace(asked, late=True), policy, NOW)
    assert not await_prefills(fleet, asked, replace(policy, late_binding=False), NOW)
    assert not await_prefills(fleet, asked, policy, NOW + 0.002 * fleet.chunk_s.item(0))
    fleet.prefill_end_s[1] = NOW
    assert not await_prefills(fleet, asked, policy, NOW)
    excluded: Blocks = np.array((Block.FREE, Block.TRIED), dtype=np.int8)
    elsewhere = structs.replace(asked, excluded=excluded)
    assert await_prefills(fleet, elsewhere, policy, NOW)
    fleet.kv_room_tokens[0] = asked.reserve_tokens + 0.5
    assert not await_prefills(fleet, structs.replace(elsewhere, spread_tokens=1.0), policy, NOW)
