"""What is told of the chosen placement, against the means that decisions compare."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from msgspec.structs import replace

from scheduler.contract import Objective
from scheduler.model.typical_times import LEAST_TRUST, TypicalTimes, typical_times
from scheduler.placement.quotes import PlacementQuery
from scheduler.placement.quoting import quote_fleet
from scheduler.placement.self_hosted import SelfHostedFleet
from scheduler.policy import Policy
from scheduler.resident import FirstToken, Joins, Resident
from tests.scheduler.placement.fleets_made import NOW, Made, idle_fleet, made
from tests.scheduler.requests_made import request

PROMPT = 1000


def query(hit_tokens: float = 0.0, *, output_tokens: float = 200.0) -> PlacementQuery:
    return PlacementQuery(
        request=request("asked", prompt_tokens=PROMPT, arrival_s=NOW), ttft_s=30.0, excluded=None,
        hit_tokens=np.array([hit_tokens]), output_tokens=output_tokens, reserve_tokens=PROMPT + 200,
        spread_tokens=0.0, late=False,
    )  # fmt: skip


def fleet_with(*, pending: int = 0, decoding: int = 0) -> SelfHostedFleet:
    fleet, _ = idle_fleet(1, Objective.LATENCY)
    for number in range(decoding + pending):
        name, started_s = f"r{number}", NOW - 1.0 if number < decoding else NOW - 0.02
        resident = Resident(
            request=request(name, prompt_tokens=100), started_s=started_s, promised_ttft_s=2.0,
            kv_reserved_tokens=400, prefill_s=0.02, hit_tokens=0,
        )  # fmt: skip
        fleet.add(0, resident, started_s)
        if number < decoding:
            fleet.progress(0, name, 1, started_s + 0.1)
    return fleet


def both(
    fleet: SelfHostedFleet, asked: PlacementQuery, now: float = NOW
) -> tuple[TypicalTimes, TypicalTimes]:
    """What is told, and the figures of the decision."""
    quote = quote_fleet(fleet, asked, Policy(), now)
    ttft_s, tpot_s = quote.ttft_s.item(0), quote.tpot_s.item(0)
    return typical_times(fleet, asked, quote, 0, now), TypicalTimes(
        ttft_s, tpot_s, FirstToken(ttft_s, Joins.OWN, 0.0)
    )


@given(made())
def test_both_agree_where_nothing_more_is_known(one: Made) -> None:
    fleet, asked = one.fleet, one.query
    for group in fleet.groups:
        group.step_ended_s = -math.inf
    quote = quote_fleet(fleet, asked, one.policy, NOW)
    for index, state in enumerate(fleet.states):
        found = typical_times(fleet, asked, quote, index, NOW)
        if not state.pending:
            assert found.ttft_s == pytest.approx(quote.ttft_s.item(index))
        assert found.tpot_s == pytest.approx(quote.tpot_s.item(index))


def test_a_prefix_that_is_told_otherwise_shares_the_step_as_the_quoted_one_does() -> None:
    for now in (NOW - 0.019, NOW):
        fleet, sure = (fleet_with(decoding=3, pending=1) for _ in range(2))
        fleet.cache_trust[0] = 0.9
        found, _ = both(fleet, query(0.9 * 500.0), now)
        assert found.ttft_s == pytest.approx(both(sure, query(500.0), now)[1].ttft_s)


def test_a_prefix_is_told_as_found_or_as_the_decision_expects_it() -> None:
    fleet = fleet_with()
    for trust in (0.9, 0.8):
        fleet.cache_trust[0] = trust
        found, compared = both(fleet, query(trust * 960))
        assert found.ttft_s == pytest.approx(both(fleet_with(), query(960))[1].ttft_s)
        assert found.ttft_s < compared.ttft_s
    fleet.cache_trust[0] = LEAST_TRUST - 0.1
    found, compared = both(fleet, query(480))
    assert found.ttft_s == pytest.approx(compared.ttft_s)


def test_a_prefix_that_the_engine_tells_is_exact_whatever_others_found() -> None:
    fleet, asked = fleet_with(), query(500)
    fleet.cache_trust[0] = 0.8
    asked = replace(asked, request=replace(asked.request, token_blocks=(b"0" * 16,)))
    found, compared = both(fleet, asked)
    assert found.ttft_s == pytest.approx(compared.ttft_s)


def test_the_step_that_runs_began_with_the_last_token() -> None:
    fleet = fleet_with(decoding=3)
    step_s = fleet.step_s.item(0)
    for passed in (0.1, 0.5, 0.9, 2.25):
        fleet.groups[0].step_ended_s = NOW - passed * step_s
        found, compared = both(fleet, query())
        later_s = (0.5 - passed % 1.0) * step_s
        assert found.ttft_s - compared.ttft_s == pytest.approx(later_s)
    fleet.groups[0].step_ended_s = NOW - 9.0 * step_s
    found, compared = both(fleet, query())
    assert found.ttft_s == pytest.approx(compared.ttft_s), "by now the phase is lost"


def test_first_tokens_and_ends_tell_that_a_step_has_ended() -> None:
    fleet = fleet_with(decoding=2, pending=1)
    assert fleet.groups[0].step_ended_s == pytest.approx(NOW - 0.9)
    fleet.progress(0, "r2", 1, NOW)
    assert fleet.groups[0].step_ended_s == NOW
    fleet.remove(0, "r0", NOW + 0.5)
    assert fleet.groups[0].step_ended_s == NOW + 0.5


def test_most_short_answers_meet_fewer_prefills_than_the_mean() -> None:
    fleet = fleet_with(decoding=3)
    fleet.stretch[0] = 1.5
    pool = fleet.pooled[fleet.groups[0].fit.prior].stalls
    pool.prompt_sent(0.5)
    found, compared = both(fleet, query(output_tokens=10.0))
    assert found.tpot_s == pytest.approx(compared.tpot_s / 1.5, rel=0.05)
    found, compared = both(fleet, query(output_tokens=1e6))
    assert found.tpot_s == pytest.approx(compared.tpot_s, rel=0.05)


def test_the_longer_a_prompt_waits_for_others_the_more_later_ones_add() -> None:
    fleet, decoding = fleet_with(decoding=3, pending=1), fleet_with(decoding=3)
    waits_s = fleet.phase_rows[1].item(0) - NOW
    before, shared = both(fleet, query())[0], both(fleet, query(), NOW - 0.019)[0]
    assert before.first.joins is Joins.NEXT
    assert before.first.unit_s == pytest.approx(waits_s)
    assert (shared.first.joins, shared.first.unit_s) == (Joins.SHARED, shared.first.alone_s)
    for _ in range(100):
        fleet.errors.observe_typical(FirstToken(1.0, Joins.NEXT, 0.5), 1.2)
    found = both(fleet, query())[0]
    assert found.first == before.first
    assert found.ttft_s == pytest.approx(before.ttft_s + 0.4 * waits_s, rel=0.02)
    decoding.errors = fleet.errors
    own = both(decoding, query())[0]
    assert (own.first.joins, own.first.unit_s) == (Joins.OWN, decoding.step_s.item(0))
    assert own.ttft_s == own.first.alone_s


def test_a_first_token_teaches_it() -> None:
    fleet, first = fleet_with(), FirstToken(0.1, Joins.SHARED, 0.1)
    resident = Resident(
        request=request("asked", prompt_tokens=100), started_s=NOW, promised_ttft_s=2.0,
        kv_reserved_tokens=400, prefill_s=0.02, hit_tokens=0, typical_ttft=first,
    )  # fmt: skip
    fleet.add(0, resident, NOW)
    fleet.progress(0, "asked", 1, NOW + 0.15)
    assert fleet.errors.typical_s(first) > 0.1
