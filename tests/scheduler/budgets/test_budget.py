"""Windows, worst cases and grants: the figures of single decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from scheduler.budgets.budget import (
    Budget,
    BudgetAccount,
    Grant,
    Limit,
    Position,
    Refusal,
    grant,
    worst_case_nano_usd,
)
from scheduler.budgets.budget_book import IDLE_S, BudgetBook
from scheduler.budgets.budget_window import Period, window_at
from scheduler.budgets.lease_orders import Close, GiveBack
from scheduler.pricing import RateTier, TokenCounts, TokenRates

NOON = datetime(2026, 2, 28, 12, 30, tzinfo=UTC)


@given(st.datetimes(datetime(1971, 1, 1), datetime(2399, 12, 31), timezones=st.just(UTC)))
def test_windows_are_those_of_the_calendar(at: datetime) -> None:
    month = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    hour = at.replace(minute=0, second=0, microsecond=0)
    next_month = (month + timedelta(days=32)).replace(day=1)
    expected = {
        Period.HOUR: (hour, hour + timedelta(hours=1)),
        Period.DAY: (day, day + timedelta(days=1)),
        Period.MONTH: (month, next_month),
    }
    for period, (starts, ends) in expected.items():
        window = window_at(period, at.timestamp())
        assert window.starts_unix_s == starts.timestamp()
        assert window.ends_unix_s == ends.timestamp()


TIERS = TokenRates(
    row_id="r",
    tiers=(
        RateTier(uncached_input=100, cached_input=10, cache_write=125, output=500),
        RateTier(
            uncached_input=200,
            cached_input=20,
            cache_write=250,
            output=1000,
            context_over_tokens=1000,
        ),
    ),
)


def test_the_worst_case_takes_the_tier_that_the_input_reaches() -> None:
    assert worst_case_nano_usd(TIERS, input_tokens=1000, output_tokens=1_000_000) == 501
    assert worst_case_nano_usd(TIERS, input_tokens=1001, output_tokens=1_000_000) == 1001


@given(
    st.integers(0, 5000),
    st.integers(0, 5000),
    st.integers(0, 5000),
    st.integers(0, 5000),
    st.integers(1, 10**7),
)
def test_nothing_costs_more_than_the_worst_case(
    uncached: int, cached: int, written: int, output: int, scale: int
) -> None:
    rates = TokenRates(
        row_id="r",
        tiers=tuple(
            RateTier(
                uncached_input=tier.uncached_input * scale,
                cached_input=tier.cached_input * scale,
                cache_write=tier.cache_write * scale,
                output=tier.output * scale,
                context_over_tokens=tier.context_over_tokens,
            )
            for tier in TIERS.tiers
        ),
    )
    counts = TokenCounts(
        uncached_input_tokens=uncached,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
    )
    worst = worst_case_nano_usd(rates, input_tokens=counts.input_tokens, output_tokens=output)
    assert rates.cost_nano_usd(counts) <= worst


def position(cap: int, settled: int, committed: int, *, hard: bool = True) -> Position:
    account = BudgetAccount(
        tenant="t", key_id="", session_id=None, period=Period.DAY, starts_unix_s=cap
    )
    limit = Limit(account=account, cap_nano_usd=cap, hard=hard, ends_unix_s=cap + 86_400)
    return Position(limit=limit, settled_nano_usd=settled, committed_nano_usd=committed)


def test_a_grant_holds_the_need_and_a_little_of_what_is_left() -> None:
    assert grant(100, [position(6_800, 0, 0)], free_nano_usd=0) == Grant(
        nano_usd=200, left_nano_usd=6_600
    )
    # The account with the least left decides.
    assert grant(100, [position(10_100, 0, 0), position(1_270, 0, 500)], free_nano_usd=0) == Grant(
        nano_usd=110, left_nano_usd=660
    )
    assert grant(500, [position(500, 0, 0)], free_nano_usd=0) == Grant(
        nano_usd=500, left_nano_usd=0
    )


def test_what_is_held_by_others_may_come_free_and_what_is_spent_does_not() -> None:
    held = grant(101, [position(1000, 200, 900)], free_nano_usd=0)
    assert isinstance(held, Refusal)
    assert held.transient
    assert held.left_nano_usd == 100
    spent = grant(101, [position(1000, 900, 900), position(1000, 200, 950)], free_nano_usd=0)
    assert isinstance(spent, Refusal)
    assert not spent.transient


def test_what_its_own_lease_has_free_makes_no_room_for_a_request() -> None:
    """Nothing runs: all that is committed and not settled is what the request's lease has."""
    refused = grant(322, [position(6000, 5676, 5679)], free_nano_usd=3)
    assert isinstance(refused, Refusal)
    assert not refused.transient
    assert isinstance(grant(321, [position(6000, 5676, 5679)], free_nano_usd=3), Grant)


def test_a_soft_budget_refuses_nothing() -> None:
    assert isinstance(grant(100, [position(50, 0, 0, hard=False)], free_nano_usd=0), Grant)


def book(*budgets: Budget) -> BudgetBook:
    numbers = iter(range(1000))
    made = BudgetBook(lambda: f"lease-{next(numbers)}")
    made.set_budgets(budgets)
    return made


KEY_DAY = Budget(tenant="t", key_id="k", period=Period.DAY, cap_nano_usd=10_000)


def test_a_lease_serves_many_requests_and_returns_what_is_idle() -> None:
    made, now = book(KEY_DAY), NOON.timestamp()
    holder = made.applied.holder("t", "k", "")
    assert holder is not None
    assert not made.reserve("a", holder, 50, now)
    step = made.extension(holder, 50, now)
    assert step.need_nano_usd == 50
    made.extended(step.lease, 249, 9_751)
    assert made.reserve("a", holder, 50, now)
    assert made.reserve("b", holder, 50, now)
    counted = made.settle("a", 20)
    assert counted is not None
    assert (counted.budgeted_nano_usd, counted.overrun_nano_usd) == (20, 0)
    made.release("a", now)
    assert step.lease.free_nano_usd == 249 - 20 - 50
    made.settle("b", 50)
    made.release("b", now)
    assert made.due(now) == ()
    assert made.due(now + IDLE_S) == (Close(lease=step.lease),)
    assert made.leases == ()


def test_what_is_above_two_per_cent_goes_back() -> None:
    made, now = book(KEY_DAY), NOON.timestamp()
    holder = made.applied.holder("t", "k", "")
    assert holder is not None
    made.extension(holder, 5_000, now)
    lease = made.leases[0]
    made.extended(lease, 5_100, 4_900)
    assert made.reserve("a", holder, 5_000, now)
    made.settle("a", 0)
    made.release("a", now)
    (action,) = made.due(now)
    assert isinstance(action, GiveBack)
    assert lease.free_nano_usd == (4_900 + 5_100) // 50
    assert lease.granted_nano_usd == 5_100 - action.nano_usd


def test_an_unknown_cost_counts_as_all_that_was_reserved_and_an_overrun_is_booked() -> None:
    made, now = book(KEY_DAY), NOON.timestamp()
    holder = made.applied.holder("t", "k", "")
    assert holder is not None
    lease = made.extension(holder, 200, now).lease
    made.extended(lease, 200, 9_800)
    assert made.reserve("a", holder, 100, now)
    assert made.reserve("b", holder, 100, now)
    unknown = made.settle("a", None)
    assert unknown is not None
    assert unknown.budgeted_nano_usd == 100
    made.release("a", now)
    over = made.settle("b", 130)
    assert over is not None
    assert (over.budgeted_nano_usd, over.overrun_nano_usd) == (130, 30)
    assert lease.granted_nano_usd == 230
    assert lease.free_nano_usd == 0


def test_a_new_window_needs_a_new_lease_and_the_old_one_ends_with_its_requests() -> None:
    made, now = book(KEY_DAY), NOON.timestamp()
    holder = made.applied.holder("t", "k", "")
    assert holder is not None
    old = made.extension(holder, 100, now).lease
    made.extended(old, 100, 9_900)
    assert made.reserve("a", holder, 100, now)
    tomorrow = now + 86_400
    assert not made.reserve("b", holder, 100, tomorrow)
    new = made.extension(holder, 100, tomorrow).lease
    assert new is not old
    made.not_extended(new)
    assert made.due(tomorrow) == ()
    made.settle("a", 60)
    made.release("a", tomorrow)
    assert made.due(tomorrow) == (Close(lease=old),)


def test_a_budget_that_comes_while_a_request_runs_counts_it() -> None:
    made, now = book(KEY_DAY), NOON.timestamp()
    holder = made.applied.holder("t", "k", "")
    assert holder is not None
    made.extended(made.extension(holder, 100, now).lease, 100, 9_900)
    assert made.reserve("a", holder, 100, now)
    month = Budget(tenant="t", key_id="k", period=Period.MONTH, cap_nano_usd=10_000)
    made.set_budgets((KEY_DAY, month))
    counted = made.settle("a", 60)
    assert counted is not None
    (later,) = counted.others
    assert (later.period, later.key_id) == (Period.MONTH, "k")
