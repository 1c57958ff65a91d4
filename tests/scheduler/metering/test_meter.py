"""The meter: its accounts sum to the bill to the last nano-USD, whatever happens when."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.engine_steps import EngineTimes
from scheduler.metering.cost import GroupMeter
from scheduler.metering.meter import Meter, MeteredGroup
from scheduler.metering.runs import NodeShare, Run, Share
from scheduler.metering.totals import (
    HOUR_NS,
    SECOND_NS,
    UNIT,
    RateSegment,
    accounts_nano_usd,
    bill_nano_usd,
    unpriced_ns,
)
from scheduler.step_time.kv_transfer import KvTransferTime
from scheduler.step_time.step_model import QWEN3_30B_H100
from tests.scheduler.meters_made import MS, PLAN, RATE, meter, report, take


def test_a_lone_request_pays_for_the_whole_group_while_it_runs() -> None:
    group = meter()
    run = group.start(1 * SECOND_NS, prompt_tokens=1000)
    group.progress(run, 1, 1 * SECOND_NS + 40 * MS)
    group.progress(run, 100, 2 * SECOND_NS)
    share = group.end(run, 2 * SECOND_NS, uncached_tokens=600, cached_tokens=400, output_tokens=100)
    group.advance(10 * SECOND_NS)
    whole = RATE * SECOND_NS // HOUR_NS
    assert whole - 3 <= share.uncached_input + share.cached_input + share.output <= whole
    assert share.cached_input > 0
    assert share.uncached_input > 10 * share.cached_input
    assert share.priced
    assert accounts_nano_usd(group.totals)["idle"] == pytest.approx(9 * whole, abs=5)


def test_sequences_that_decode_share_alike_and_a_longer_context_costs_more() -> None:
    group = meter()
    short = group.start(0, prompt_tokens=100)
    long = group.start(0, prompt_tokens=20_000)
    group.progress(short, 1, 2 * SECOND_NS)
    group.progress(long, 1, 2 * SECOND_NS)
    before = (short.decode, long.decode)
    group.advance(3 * SECOND_NS)
    one = group.end(short, 3 * SECOND_NS, output_tokens=1).output - before[0] // UNIT
    other = group.end(long, 3 * SECOND_NS, output_tokens=1).output - before[1] // UNIT
    assert one < other < 1.3 * one
    assert one + other == pytest.approx(RATE * SECOND_NS // HOUR_NS, abs=5)


def test_a_prompt_takes_its_share_from_those_that_decode() -> None:
    group = meter()
    decoding = group.start(0, prompt_tokens=100)
    group.progress(decoding, 1, SECOND_NS)
    reading = group.start(SECOND_NS, prompt_tokens=5000)
    predicted_s = QWEN3_30B_H100.prefill_time_s(5000, 5000, batch=1)
    step_s = QWEN3_30B_H100.decode_step_s(1, 101)
    now_ns = SECOND_NS + int((predicted_s + step_s) * 1e9)
    group.progress(reading, 1, now_ns)
    share = group.end(reading, now_ns, uncached_tokens=5000, output_tokens=1)
    assert share.uncached_input == pytest.approx(RATE * predicted_s / 3600, rel=0.01)


def test_prompts_are_computed_in_turn() -> None:
    group = meter()
    runs = [group.start(0, prompt_tokens=3000) for _ in range(3)]
    each_ns = int(QWEN3_30B_H100.prefill_time_s(3000, 3000) * 1e9)
    group.advance(each_ns)
    assert runs[0].prefill > 0
    assert runs[1].prefill < UNIT
    assert runs[2].prefill == 0


def test_requests_that_the_engine_only_queues_take_nothing() -> None:
    group = meter()
    runs = [group.start(0, prompt_tokens=100) for _ in range(2)]
    for run in runs:
        group.progress(run, 1, SECOND_NS)
    queued = group.start(SECOND_NS, prompt_tokens=5000)
    take(group, report(SECOND_NS, running=2, waiting=1), SECOND_NS)
    group.advance(2 * SECOND_NS)
    assert queued.prefill == 0
    group.end(runs[0], 2 * SECOND_NS, output_tokens=1)  # its slot is free
    group.advance(2 * SECOND_NS + 50 * MS)
    assert queued.prefill > 0


def test_others_take_their_share_and_only_while_reports_are_fresh() -> None:
    group = meter()
    run = group.start(0, prompt_tokens=100)
    group.progress(run, 1, SECOND_NS)
    for second in (1, 2):
        take(group, report(second * SECOND_NS, running=4), second * SECOND_NS)
    before = group.totals.external
    group.advance(3 * SECOND_NS)
    a_second = RATE * SECOND_NS // HOUR_NS
    assert (group.totals.external - before) // UNIT > a_second * 0.7
    group.advance(20 * SECOND_NS)
    stale = group.totals.external
    group.advance(30 * SECOND_NS)
    assert group.totals.external == stale


def times(engine_s: float | None) -> EngineTimes | None:
    return None if engine_s is None else EngineTimes(whole_s=engine_s)


def lone(engine_s: float | None) -> tuple[GroupMeter, Share]:
    """A run of a second that had the group for itself, its first token after half of it."""
    group = meter()
    group.set_serving(True, 0)
    run = group.start(0, prompt_tokens=1000)
    group.progress(run, 1, SECOND_NS // 2)
    group.progress(run, 20, SECOND_NS)
    return group, group.end(
        run, SECOND_NS, uncached_tokens=1000, output_tokens=20, engine=times(engine_s)
    )


@pytest.mark.parametrize("engine_s", [0.95, 0.8, 0.3])
def test_a_lone_run_costs_the_engines_own_seconds(engine_s: float) -> None:
    _, whole = lone(None)
    group, share = lone(engine_s)
    metered = share.uncached_input + share.output
    assert metered == pytest.approx(RATE / 3600 * engine_s, abs=3)
    if engine_s > 0.5:
        assert share.output == whole.output, "time outside the engine comes before the first token"
    accounts = accounts_nano_usd(group.totals)
    assert accounts["requests"] == metered
    assert accounts["idle"] == pytest.approx(RATE / 3600 * (1 - engine_s), abs=3)
    assert sum(accounts.values()) == bill_nano_usd(PLAN, 0, SECOND_NS)


@pytest.mark.parametrize("engine_s", [None, 0.0, 0.09, 1.0, 1.7, float("nan"), float("inf")])
def test_seconds_that_cannot_be_the_attempts_change_nothing(engine_s: float | None) -> None:
    assert lone(engine_s)[1] == lone(None)[1]


def test_beside_others_time_outside_the_engine_costs_nothing_extra() -> None:
    shares = []
    for engine_s in (None, 0.5):
        group = meter()
        other = group.start(0, prompt_tokens=100)
        group.progress(other, 1, SECOND_NS)
        run = group.start(SECOND_NS, prompt_tokens=1000)
        group.progress(run, 1, 2 * SECOND_NS)
        end_ns = 3 * SECOND_NS
        shares.append(
            group.end(run, end_ns, uncached_tokens=1000, output_tokens=9, engine=times(engine_s))
        )
    assert shares[0] == shares[1]


def test_a_run_that_others_load_is_not_alone() -> None:
    shares = []
    for engine_s in (None, 1.0):
        group = meter()
        take(group, report(0, running=4), 0)
        run = group.start(0, prompt_tokens=100)
        group.progress(run, 1, SECOND_NS)
        take(group, report(SECOND_NS, running=4), SECOND_NS)
        alone = run.alone
        group.advance(2 * SECOND_NS)
        assert run.alone == alone, "the others run too"
        shares.append(group.end(run, 2 * SECOND_NS, output_tokens=1, engine=times(engine_s)))
    assert shares[1].output <= shares[0].output


def test_a_failed_attempt_is_waste() -> None:
    group = meter()
    run = group.start(0, prompt_tokens=1000)
    group.end(run, SECOND_NS, waste=True)
    accounts = accounts_nano_usd(group.totals)
    assert accounts["waste"] == pytest.approx(RATE // 3600, abs=3)
    assert accounts["requests"] == 0
    assert group.totals.output_tokens == group.totals.uncached_tokens == 0


def test_out_of_service_and_empty_is_unavailable() -> None:
    group = meter()
    group.set_serving(False, SECOND_NS)
    group.set_serving(True, 3 * SECOND_NS)
    group.advance(4 * SECOND_NS)
    accounts = accounts_nano_usd(group.totals)
    assert accounts["unavailable"] == 2 * RATE // 3600
    assert accounts["idle"] == pytest.approx(2 * RATE // 3600, abs=1)


@pytest.mark.parametrize(("transfer_s", "idle_s"), [(0.0, 0.0), (0.1, 0.1), (5.0, 0.3)])
def test_nobody_pays_while_a_kv_cache_travels(transfer_s: float, idle_s: float) -> None:
    """0.3 s pass between the predicted end of the prefill and the first token."""
    model = replace(QWEN3_30B_H100, transfer=KvTransferTime(constant_s=transfer_s))
    group = GroupMeter(model, PLAN, 0, max_running=4, nodes=NodeShare(prefill=1, decode=3))
    group.set_serving(True, 0)
    run = group.start(0, prompt_tokens=4000)
    first_ns = round((run.prefill_s + 0.3) * SECOND_NS)
    group.progress(run, 1, first_ns)
    share = group.end(run, first_ns + 1, uncached_tokens=4000, output_tokens=1)
    prefill_nodes = RATE / 3600 / 4
    charged_s = share.uncached_input / prefill_nodes
    assert charged_s == pytest.approx(run.prefill_s + 0.3 - idle_s, abs=1e-4)
    accounts = accounts_nano_usd(group.totals)
    assert sum(accounts.values()) == bill_nano_usd(PLAN, 0, first_ns + 1)


def test_nodes_of_a_disaggregated_group_are_paid_apart() -> None:
    group = meter(nodes=NodeShare(prefill=1, decode=3))
    run = group.start(0, prompt_tokens=30_000)
    group.advance(SECOND_NS // 2)  # decode nodes stand idle
    prefill = run.prefill // UNIT
    assert prefill == pytest.approx(RATE / 7200 / 4, abs=2)
    assert group.totals.idle // UNIT == pytest.approx(RATE / 7200 * 3 / 4, abs=2)


def test_an_unknown_price_makes_a_cost_unknown() -> None:
    plan = (
        RateSegment(start_ns=0, nano_usd_per_hour=RATE),
        RateSegment(start_ns=5 * SECOND_NS, nano_usd_per_hour=None),
        RateSegment(start_ns=6 * SECOND_NS, nano_usd_per_hour=2 * RATE),
    )
    group = meter(plan)
    over = group.start(4 * SECOND_NS, prompt_tokens=10)
    assert not group.end(over, 7 * SECOND_NS, output_tokens=1).priced
    after = group.start(7 * SECOND_NS, prompt_tokens=10)
    share = group.end(after, 8 * SECOND_NS, output_tokens=1)
    assert share.priced
    assert share.uncached_input + share.output == pytest.approx(2 * RATE // 3600, abs=2)
    assert group.totals.unpriced_ns == unpriced_ns(plan, 0, 8 * SECOND_NS) == SECOND_NS
    assert sum(accounts_nano_usd(group.totals).values()) == bill_nano_usd(plan, 0, 8 * SECOND_NS)


def test_a_prompt_that_is_computed_shares_from_then_on_only() -> None:
    group = meter()
    runs = [group.start(0, prompt_tokens=1), group.start(0, prompt_tokens=1)]
    runs.append(group.start(11_936_000, prompt_tokens=1))
    for run in runs:
        group.end(run, 11_936_000, waste=True)
    assert group.totals.requests == 0
    assert sum(accounts_nano_usd(group.totals).values()) == bill_nano_usd(PLAN, 0, 11_936_000)


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 3_000_000_000),
        st.sampled_from(
            ["start", "start", "progress", "progress", "end", "fail", "report", "down", "up",
             "restart", "reprice"]
        ),
        st.integers(0, 1 << 30),
    ),
    max_size=60,
)  # fmt: skip
PRICES = st.lists(
    st.tuples(st.integers(1, 40_000_000_000), st.none() | st.integers(0, 10**12)), max_size=4
)


def told(number: int, whole_ns: int) -> EngineTimes | None:
    """The engine's seconds of an attempt: unknown, or 0 to 1.2 of the whole, with or without what
    it had of the steps."""
    if number % 3 == 0:
        return None
    whole_s = number % 121 / 100 * whole_ns * 1e-9
    if number % 3 == 1:
        return EngineTimes(whole_s=whole_s)
    had_s = whole_s * (number % 107 / 100)
    share = number % 11 / 10
    return EngineTimes(
        whole_s=whole_s, prefill_had_s=had_s * share, decode_had_s=had_s * (1 - share)
    )


@settings(max_examples=300, deadline=None)
@given(EVENTS, PRICES, st.booleans(), st.booleans())
def test_accounts_sum_to_the_bill_under_any_interleaving(
    events: list[tuple[int, str, int]],
    prices: list[tuple[int, int | None]],
    disaggregated: bool,
    modelled: bool,
) -> None:
    plan = tuple(
        RateSegment(start_ns=start_ns, nano_usd_per_hour=rate)
        for start_ns, rate in sorted(dict([(0, RATE), *prices]).items())
    )
    nodes = NodeShare(prefill=4, decode=18) if disaggregated else None
    model = QWEN3_30B_H100 if modelled else None
    group = GroupMeter(model, plan, 0, max_running=3, nodes=nodes)
    runs: list[Run] = []
    shares = 0
    now_ns = 0
    for after_ns, what, number in events:
        now_ns += after_ns
        run = runs[number % len(runs)] if runs else None
        match what:
            case "start":
                prompt = number % 9000
                choices = 1 + number % 3
                runs.append(
                    group.start(
                        now_ns,
                        prompt_tokens=prompt,
                        cached_tokens=prompt // 3,
                        choices=choices,
                    )
                )
            case "progress" if run:
                group.progress(run, number % 500, now_ns)
            case "end" | "fail" if run:
                runs.remove(run)
                share = group.end(
                    run,
                    now_ns,
                    uncached_tokens=run.prompt_tokens // 2,
                    cached_tokens=run.prompt_tokens // 2,
                    output_tokens=number % 700,
                    waste=what == "fail",
                    engine=told(number, now_ns - run.sent_ns),
                )
                assert min(share.uncached_input, share.cached_input, share.output) >= 0
                if what == "end":
                    shares += share.uncached_input + share.cached_input + share.output
            case "report":
                take(group, report(now_ns, number % 7, number % 3, number % 10**6), now_ns)
            case "down" | "up":
                group.set_serving(what == "up", now_ns)
            case "restart":
                # Everything in memory is lost but the totals: the running attempts are waste.
                for lost in runs:
                    group.end(lost, group.observed_ns, waste=True)
                runs.clear()
                mark_ns, totals = group.observed_ns, group.totals
                group = GroupMeter(model, plan, mark_ns, max_running=3, nodes=nodes)
                group.totals = totals
                now_ns += number
                group.unobserved(now_ns)
            case "reprice":
                group.set_plan(plan)  # as a reload does: the same prices, read again
        accounts = accounts_nano_usd(group.totals)
        assert sum(accounts.values()) * UNIT <= group.totals.accrued
        for sums in (group.totals, group.totals_if_lost()):
            assert sums.accrued == group.totals.accrued
            assert min(sums.prefill, sums.decode, sums.waste, sums.idle) >= 0
    group.advance(now_ns)
    accounts = accounts_nano_usd(group.totals)
    assert sum(accounts.values()) == bill_nano_usd(plan, 0, now_ns)
    assert min(accounts.values()) >= 0
    assert shares <= accounts["requests"]
    for run in runs:
        left = group.end(run, now_ns, output_tokens=run.output_tokens)
        shares += left.uncached_input + left.cached_input + left.output
    assert shares == accounts_nano_usd(group.totals)["requests"]
    assert group.running == 0
    assert group.decoding == (0, 0)


def test_a_reload_changes_what_a_known_group_can_hold() -> None:
    facts = MeteredGroup(name="own/a", pool="own", model=QWEN3_30B_H100, plan=PLAN, max_running=1)
    kept = Meter()
    kept.configure([facts], 0)
    group = kept.group("own/a")
    assert group is not None
    group.progress(group.start(0, prompt_tokens=10), 1, SECOND_NS)
    group.start(SECOND_NS, prompt_tokens=5000)
    before_ns = group.totals.prefill_busy_ns
    kept.tick(2 * SECOND_NS)
    assert group.totals.prefill_busy_ns == before_ns, "one decodes: there is no room for a prompt"
    nodes = NodeShare(prefill=1, decode=3)
    kept.configure([replace(facts, max_running=2, nodes=nodes)], 2 * SECOND_NS)
    assert group.nodes == nodes
    kept.tick(3 * SECOND_NS)
    assert group.totals.prefill_busy_ns > before_ns


def test_what_generates_nothing_shares_by_tokens_and_all_of_it_is_input() -> None:
    group = meter()
    short = group.start(0, prompt_tokens=1000, choices=4, generates=False)
    group.advance(SECOND_NS)
    long = group.start(SECOND_NS, prompt_tokens=9000, choices=64, generates=False)
    assert group.running == 68, "as many sequences as the engine tells of"
    one = group.end(short, 3 * SECOND_NS, uncached_tokens=1000)
    other = group.end(long, 3 * SECOND_NS, uncached_tokens=9000)
    second = RATE * SECOND_NS // HOUR_NS
    assert one.uncached_input == pytest.approx(second + 0.1 * 2 * second, abs=5)
    assert other.uncached_input == pytest.approx(0.9 * 2 * second, abs=5)
    assert (one.output, other.output) == (0, 0)
    accounts = accounts_nano_usd(group.totals)
    bill = bill_nano_usd(PLAN, 0, 3 * SECOND_NS)
    assert sum(accounts.values()) == bill


def test_the_inputs_of_a_request_are_no_external_load_before_it_is_answered() -> None:
    group = meter()
    run = group.start(0, prompt_tokens=20_000, choices=500, generates=False)
    for second in range(1, 6):
        # The engine has computed 3000 tokens more, and the rest of the inputs wait in it.
        told = report(second * SECOND_NS, running=64, waiting=436, prompt_tokens=3000 * second)
        group.report(told, second * SECOND_NS, second * SECOND_NS)
    share = group.end(run, 6 * SECOND_NS, uncached_tokens=20_000)
    assert share.uncached_input == pytest.approx(6 * (RATE * SECOND_NS // HOUR_NS), abs=10)
    assert accounts_nano_usd(group.totals)["external"] == 0
