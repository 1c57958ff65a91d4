"""Attempts are metered while they run, and settled once, at the prices of their request."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs

from gateway.scheduling.attempt_recorder import AttemptRecorder
from gateway.scheduling.metering import Metering
from scheduler.contract import AttemptOutcome, PlacementKind, ServingChanged, Start
from scheduler.engine_steps import EngineRequest, EngineSteps, EngineTimes
from scheduler.metering.meter import MeteredGroup
from scheduler.metering.rate_snapshot import RateSnapshot
from scheduler.metering.settlement import CostBasis, SettledAttempt
from scheduler.metering.totals import UNIT
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.gateway.scheduling.scheduling_made import UNIX_NS, Clock, attempt_end
from tests.ledgers import RATES
from tests.scheduler.meters_made import PLAN
from tests.scheduler.requests_made import request

PRICED = RateSnapshot(rates={"own/a": RATES})
START = Start(
    request_id="r1",
    attempt=1,
    placement="own/a",
    kind=PlacementKind.SELF_HOSTED,
    reason="test",
    predicted_ttft_s=None,
    predicted_tpot_s=None,
)


class Recorded:
    """A recorder of one group, and what its sinks were told."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.metering = Metering(self.clock, lambda: UNIX_NS)
        group = MeteredGroup(
            name="own/a", pool="own", model=QWEN3_30B_H100, plan=PLAN, max_running=8
        )
        self.metering.configure(
            [group],
            exists=lambda _: True,
            fitted=lambda _: QWEN3_30B_H100,
            next_change_s=float("inf"),
            on_change=lambda: float("inf"),
        )
        self.told: list[SettledAttempt] = []
        self.recorder = AttemptRecorder(self.metering, (self.told.append,))
        self.recorder.configure(groups={"own/a": "own/a"}, pools={"own/a": "own"})
        serving = ServingChanged(placement="own/a", serving=True, reason="")
        self.recorder.observe(serving, self.clock())

    @property
    def running(self) -> int:
        group = self.metering.group("own/a")
        assert group is not None
        return group.running


def test_an_attempt_is_metered_and_charged() -> None:
    made = Recorded()
    attempt = made.recorder.begin(request("r1"), START, PRICED, made.clock())
    assert made.running == 1
    made.clock.now_s += 0.5
    attempt.record_progress(5, made.clock())
    made.clock.now_s += 0.5
    settled = attempt.settle(attempt_end("r1"), made.clock())
    assert made.told == [settled]
    assert made.running == 0
    assert (settled.pool, settled.basis) == ("own", CostBasis.METERED)
    assert settled.charged_nano_usd == 110
    assert settled.metered_nano_usd is not None
    assert settled.metered_nano_usd > 0
    group = made.metering.group("own/a")
    assert group is not None
    assert (group.totals.charged_nano_usd, group.totals.ended, group.totals.slo_met) == (110, 1, 1)


@pytest.mark.parametrize(
    ("ttft_s", "tpot_s", "known", "met"),
    [(0.5, 0.01, 1, 1), (9.0, 0.01, 1, 0), (0.5, 9.0, 1, 0), (0.5, None, 1, 1), (None, None, 0, 0)],
)
def test_a_good_attempt_counts_for_the_slo(
    ttft_s: float | None, tpot_s: float | None, known: int, met: int
) -> None:
    made = Recorded()
    attempt = made.recorder.begin(request("r1"), START, PRICED, made.clock())
    attempt.settle(structs.replace(attempt_end("r1"), ttft_s=ttft_s, tpot_s=tpot_s), made.clock())
    group = made.metering.group("own/a")
    assert group is not None
    totals = group.totals
    assert (totals.ended, totals.slo_known, totals.slo_met) == (1, known, met)


def test_a_failed_attempt_is_no_attempt_for_the_slo_and_is_charged_nothing() -> None:
    made = Recorded()
    attempt = made.recorder.begin(request("r1"), START, PRICED, made.clock())
    end = attempt_end("r1", outcome=AttemptOutcome.RETRYABLE)
    assert attempt.settle(end, made.clock()).charged_nano_usd == 0
    group = made.metering.group("own/a")
    assert group is not None
    assert group.totals.ended == 0


def test_a_discarded_attempt_has_no_account() -> None:
    made = Recorded()
    attempt = made.recorder.begin(request("r1"), START, PRICED, made.clock())
    attempt.discard(made.clock())
    assert (made.running, made.told) == (0, [])


def test_prices_of_a_request_are_those_of_its_admission() -> None:
    made = Recorded()
    made.recorder.rates = RateSnapshot(rates={"own/a": replace(RATES, row_id="now")})
    unpriced = RateSnapshot(unpriced=frozenset({"own/a"}))
    for frozen, row in ((PRICED, "test"), (unpriced, ""), (RateSnapshot(), "now")):
        attempt = made.recorder.begin(request("r1"), START, frozen, made.clock())
        assert attempt.settle(attempt_end("r1"), made.clock()).price_row_id == row


def test_no_more_is_charged_than_the_limit_of_the_request() -> None:
    made = Recorded()
    charges = []
    for limit in (None, 10**9, 7, 0):
        attempt = made.recorder.begin(request("r1"), START, PRICED, made.clock())
        end = attempt_end("r1")
        settled = attempt.settle(end, made.clock(), charge_limit_nano_usd=limit)
        charges.append(settled.charged_nano_usd)
    assert charges[0] == charges[1] != 0
    assert charges[2:] == [7, 0]


def test_an_attempt_of_a_place_that_nobody_meters_is_settled_all_the_same() -> None:
    made = Recorded()
    start = structs.replace(START, placement="far", kind=PlacementKind.REMOTE)
    attempt = made.recorder.begin(request("r1"), start, RateSnapshot(), made.clock())
    assert made.running == 0
    attempt.record_progress(3, made.clock())
    settled = attempt.settle(attempt_end("r1"), made.clock())
    assert (settled.pool, settled.charged_nano_usd) == ("", None)


def times(engine_s: float | None) -> EngineTimes | None:
    return None if engine_s is None else EngineTimes(whole_s=engine_s)


def test_a_request_that_is_alone_costs_the_seconds_that_come_with_its_end() -> None:
    costs = []
    for engine_s in (None, 0.75):
        made = Recorded()
        attempt = made.recorder.begin(request("r1"), START, PRICED, made.clock())
        made.clock.now_s += 0.6
        attempt.record_progress(5, made.clock())
        made.clock.now_s += 0.4
        end = structs.replace(attempt_end("r1"), engine=times(engine_s))
        costs.append(attempt.settle(end, made.clock()).metered_nano_usd)
    assert costs[0] is not None
    assert costs[1] == pytest.approx(0.75 * costs[0], rel=1e-6)


def test_the_engines_own_seconds_correct_the_phases_once() -> None:
    made = Recorded()
    attempt = made.recorder.begin(request("r1"), START, PRICED, made.clock())
    made.clock.now_s += 0.6
    attempt.record_progress(5, made.clock())  # seen late
    made.clock.now_s += 0.4
    settled = attempt.settle(attempt_end("r1"), made.clock())
    group = made.metering.group("own/a")
    assert group is not None
    before, decode = replace(group.totals), group.totals.decode
    told = EngineRequest(request_id="r1", queued_s=0.0, prefill_s=0.2, decode_s=0.8)
    for name in ("another", "r1", "r1"):
        requests = (replace(told, request_id=name),)
        made.recorder.observe(
            EngineSteps(placement="own/a", at_s=0.0, steps=(), requests=requests), made.clock()
        )
    assert group.totals.decode / decode == pytest.approx(2.0, rel=1e-3)
    assert settled.metered_nano_usd is not None
    assert group.totals.requests == before.requests == settled.metered_nano_usd * UNIT


def test_a_failed_run_waits_for_no_engine() -> None:
    made = Recorded()
    attempt = made.recorder.begin(request("r1"), START, PRICED, made.clock())
    attempt.record_progress(5, made.clock())
    made.clock.now_s += 1.0
    end = structs.replace(attempt_end("r1"), outcome=AttemptOutcome.RETRYABLE, committed=False)
    attempt.settle(end, made.clock())
    group = made.metering.group("own/a")
    assert group is not None
    before = replace(group.totals)
    told = EngineRequest(request_id="r1", queued_s=0.0, prefill_s=0.5, decode_s=0.5)
    steps = EngineSteps(placement="own/a", at_s=0.0, steps=(), requests=(told,))
    made.recorder.observe(steps, made.clock())
    assert group.totals == before
