"""Windows of the meter: what is kept of the day's minutes gives what going through them would."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.metering.meter import MINUTE_NS, Meter, MeteredGroup
from scheduler.metering.minutes import Minutes, Sums
from scheduler.metering.rates import RateKind
from scheduler.metering.report import (
    SLO_SHARE,
    LoadPoint,
    direct_cost,
    kind_rates,
    load_point,
    tokens_of,
)
from scheduler.metering.totals import SECOND_NS, UNIT, RateSegment, Totals, summed
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.meters_made import PLAN, RATE


def slow_best(ends: Sequence[Sums]) -> Totals | None:
    """As `Minutes.best` says it, of all minutes that have ended."""
    rows = [last.minus(first) for (_, first), (_, last) in pairwise(ends)]
    rows = [row for row in rows if not row.unpriced_ns]
    weights = []
    for kind in range(3):
        count = sum(tokens_of(row)[kind] for row in rows)
        cost = sum(direct_cost(row)[kind] for row in rows)
        weights.append(cost / count if count else 0.0)
    best: tuple[float, Totals] | None = None
    for row in rows:
        work = sum(w * count for w, count in zip(weights, tokens_of(row), strict=True))
        if work <= 0 or not row.slo_known or row.slo_met < SLO_SHARE * row.slo_known:
            continue
        if best is None or row.accrued / work < best[0]:
            best = (row.accrued / work, row)
    return None if best is None else best[1]


def slow_points(ends: Sequence[Sums], start_ns: int) -> list[LoadPoint]:
    """Of all minutes from `start_ns` on."""
    within = [entry for entry in ends if entry[0] >= start_ns]
    found = [
        load_point(last.minus(first), last_ns - first_ns)
        for (first_ns, first), (last_ns, last) in pairwise(within)
    ]
    return [point for point in found if point is not None]


counts = st.integers(0, 5000)
brought = st.builds(
    lambda seconds, prefill, decode, idle, tokens, slo, unpriced_ns: (
        seconds * SECOND_NS,
        Totals(
            prefill=prefill * UNIT,
            decode=decode * UNIT,
            cached=prefill * UNIT // 3,
            idle=idle * UNIT,
            paid_ns=60 * SECOND_NS,
            busy_ns=30 * SECOND_NS,
            uncached_tokens=tokens[0],
            cached_tokens=tokens[1],
            output_tokens=tokens[2],
            slo_known=slo[0],
            slo_met=min(slo),
            unpriced_ns=unpriced_ns,
        ),
    ),
    st.integers(60, 65),
    counts,
    counts,
    counts,
    st.tuples(counts, counts, counts),
    st.tuples(st.integers(0, 30), st.integers(0, 30)),
    st.sampled_from([0, 0, 0, SECOND_NS]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(brought, min_size=1, max_size=30), st.integers(0, 2000))
def test_minutes_tell_what_going_through_them_would(
    rows: list[tuple[int, Totals]], since_s: int
) -> None:
    begin = (0, Totals(prefill=7 * UNIT, output_tokens=11))
    minutes, ends = Minutes(begin, most=20), [begin]
    for after_ns, row in rows:
        now_ns, sums = ends[-1][0] + after_ns, summed([ends[-1][1], row])
        minutes.end(now_ns, sums)
        ends.append((now_ns, sums))
    ends = ends[-21:]  # older ones are forgotten
    now = ends[-1]
    start_ns = now[0] - since_s * SECOND_NS
    assert minutes.best(now) == slow_best(ends)
    assert minutes.points(start_ns, now) == slow_points(ends, start_ns)
    assert minutes.points(0, now) == slow_points(ends, 0)
    not_younger = [entry for entry in ends if entry[0] <= start_ns]
    assert minutes.at(start_ns) == (not_younger or ends)[-1 if not_younger else 0]


def test_the_minute_under_way_is_the_floor_only_while_there_is_no_other() -> None:
    begin = (0, Totals())
    cheap = Totals(
        decode=10 * UNIT, output_tokens=10_000, slo_known=1, slo_met=1, paid_ns=SECOND_NS
    )
    minutes = Minutes(begin)
    assert minutes.best(begin) is None
    assert minutes.best((SECOND_NS, cheap)) == cheap
    dear = Totals(decode=10 * UNIT, output_tokens=10, slo_known=1, slo_met=1, paid_ns=MINUTE_NS)
    minutes.end(MINUTE_NS, dear)
    assert minutes.best((MINUTE_NS + SECOND_NS, summed([dear, cheap]))) == dear
    assert len(minutes.points(0, (MINUTE_NS + SECOND_NS, summed([dear, cheap])))) == 2


def test_what_has_no_price_is_not_free() -> None:
    """A price that is known from the second minute on: the first one is no floor, and no point."""
    plan = (RateSegment(start_ns=MINUTE_NS, nano_usd_per_hour=RATE),)
    meter = Meter()
    group = MeteredGroup(name="own/a", pool="own", model=QWEN3_30B_H100, plan=plan, max_running=8)
    meter.configure([group], 0)
    running = meter.group("own/a")
    assert running is not None
    running.set_serving(True, 0)
    seen = []
    for minute in (1, 2):
        run = running.start((minute - 1) * MINUTE_NS, prompt_tokens=100)
        now_ns = minute * MINUTE_NS
        running.progress(run, 20, now_ns)
        running.end(run, now_ns, uncached_tokens=100, output_tokens=20)
        running.totals.slo_known += 1
        running.totals.slo_met += 1
        cost = meter.cost("own", 3600 * SECOND_NS, now_ns)
        assert cost is not None
        seen.append(cost)
    unknown, known = seen
    assert (unknown.unpriced_ns, unknown.bill) == (MINUTE_NS, 0)
    assert all((r.allocated, r.saturated) == (None, None) for r in unknown.rates)
    assert unknown.load == ()
    [point] = known.load
    total = known.rate(RateKind.TOTAL)
    assert total.saturated == point.nano_usd_per_mtok == RATE * 1_000_000 // (60 * 120)


def test_a_window_holds_what_came_in_it() -> None:
    meter = Meter()
    group = MeteredGroup(name="own/a", pool="own", model=QWEN3_30B_H100, plan=PLAN, max_running=8)
    meter.configure([group], 0)
    running = meter.group("own/a")
    assert running is not None
    running.set_serving(True, 0)
    for second in range(5, 3 * 3600 + 5, 5):
        now_ns = second * SECOND_NS
        if second % 600 == 0:
            run = running.start(now_ns - 2 * SECOND_NS, prompt_tokens=100)
            running.progress(run, 20, now_ns)
            running.end(run, now_ns, uncached_tokens=100, output_tokens=20)
        meter.tick(now_ns)
    end_ns = 3 * 3600 * SECOND_NS
    for window_s, requests in ((60, 1), (3600, 6), (24 * 3600, 18)):
        cost = meter.cost("own", window_s * SECOND_NS, end_ns)
        assert cost is not None
        covered_s = min(window_s, 3 * 3600)
        assert cost.covered_ns == pytest.approx(covered_s * SECOND_NS, abs=65 * SECOND_NS)
        assert cost.bill == pytest.approx(RATE * cost.covered_ns / 3600 / SECOND_NS, abs=1)
        assert sum(cost.accounts.values()) == cost.bill
        assert cost.output_tokens == 20 * requests
        assert len(cost.load) in {requests, requests - 1}


def test_a_floor_is_never_above_the_mean() -> None:
    dear = Totals(
        prefill=200 * UNIT,
        decode=400 * UNIT,
        uncached_tokens=10,
        output_tokens=10,
        paid_ns=1,
    )
    cheap = Totals(
        prefill=20 * UNIT,
        decode=40 * UNIT,
        uncached_tokens=10,
        output_tokens=10,
        paid_ns=1,
    )
    for window, best in ((cheap, dear), (dear, cheap)):
        for rates in kind_rates(window, best, (), None):
            if rates.allocated is not None:
                assert rates.saturated is not None
                assert rates.saturated <= rates.allocated
    assert {rates.saturated for rates in kind_rates(dear, None, (), None)} == {None}
